#!/bin/sh
# Makes initramfs images with the generators of a whole Debian system that lives in a directory; see lab.rs.
#   lab.sh system TREE            puts the system together
#   lab.sh client TREE DEB        installs bootroom-client in it
#   lab.sh disk TREE OUT          a root disk with all of the system on it
#   lab.sh initrd TREE MAKER OUT  makes an image: initramfs-tools, nbd-client, mkinitcpio,
#                                 dracut-legacy, dracut-networkd, dracut-networkmanager
set -eu
here=$(cd "$(dirname "$0")" && pwd)
what=$1 tree=$(realpath -m "$2")

# inside COMMAND: runs it in the system, with /proc and /dev that are gone with it.
inside() {
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount --pid --fork sh -ec '
		tree=$1
		shift
		mount --rbind /dev "$tree/dev"
		mount -t proc proc "$tree/proc"
		mount -t tmpfs tmp "$tree/tmp"
		exec chroot "$tree" "$@"' inside "$tree" "$@"
}

system() {
	packages=busybox,dbus,initramfs-tools,iproute2,kmod,login,passwd,procps,systemd,systemd-sysv,udev,zstd,e2fsprogs
	packages=$packages,nbd-client,dracut-core,dracut-network,isc-dhcp-client,iputils-arping,network-manager,ifupdown
	export INITRD=No
	mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages,linux-image-cloud-amd64" \
		bookworm "$tree" "deb http://deb.debian.org/debian bookworm main" \
		"deb http://deb.debian.org/debian-security bookworm-security main"
	# The stock image, and then nothing of nbd-client is left to get in the way of ours.
	initrd nbd-client "$tree/../nbd-client.img"
	inside dpkg --purge nbd-client
	meddlers
}

# meddlers: everything that could take hold of the interface is set up to do so.
meddlers() {
	echo root:scenario | inside chpasswd
	# Who a machine is, it learns from its kernel command line.
	rm -f "$tree/etc/hostname"
	mkdir -p "$tree/etc/systemd/network" "$tree/etc/network/interfaces.d"
	printf '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n' >"$tree/etc/systemd/network/05-all.network"
	printf 'auto ens2\nallow-hotplug ens2\niface ens2 inet dhcp\n' >"$tree/etc/network/interfaces.d/ens2"
	inside systemctl enable systemd-networkd NetworkManager networking
	inside systemctl mask systemd-networkd-wait-online NetworkManager-wait-online apt-daily.timer apt-daily-upgrade.timer
}

release() {
	find "$tree/lib/modules" -mindepth 1 -maxdepth 1 -printf '%f\n'
}

initrd() {
	case "$1" in
	initramfs-tools | nbd-client) inside mkinitramfs -o /initrd.new "$(release)" ;;
	dracut-legacy) dracut "network-legacy" "systemd-networkd network-manager" ;;
	dracut-networkd) dracut "systemd-networkd" "network-legacy network-manager" ;;
	dracut-networkmanager) dracut "network-manager" "network-legacy systemd-networkd" ;;
	mkinitcpio) "$here/mkinitcpio.sh" "$tree" "$(release)" "$here/../../../initramfs-hook/mkinitcpio" "$tree/initrd.new" ;;
	*) echo "$1 is unknown" >&2 && exit 2 ;;
	esac
	mv "$tree/initrd.new" "$2"
}

# dracut WITH WITHOUT: with one of its ways to set up the network. Its own nbd module is left out by want of nbd-client.
dracut() {
	inside dracut --quiet --force --no-hostonly --no-hostonly-cmdline --no-early-microcode --gzip \
		--add "bootroom $1" --omit "$2 nfs iscsi" /initrd.new "$(release)"
}

case "$what" in
system) system ;;
client)
	cp "$3" "$tree/client.deb"
	INITRD=No inside dpkg --install /client.deb
	;;
initrd) initrd "$3" "$4" ;;
disk)
	truncate -s 3G "$3.new"
	mke2fs -q -F -t ext4 -d "$tree" -E lazy_itable_init=0,lazy_journal_init=0 -J size=16 "$3.new"
	mv "$3.new" "$3"
	;;
*) echo "$what is unknown" >&2 && exit 2 ;;
esac
