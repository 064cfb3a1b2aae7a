#!/bin/sh
# Installs what the tests need on Debian 12: the peers that they hold bootroom against, and the tools they call. With
# `full`, also what the long scenarios need: more loaders, firmware and programs to boot. With `bench`, also the servers
# that benchmarks run beside it (whose packages start them, hence not for tests). Does nothing when all of it is there.
set -eu

packages="
gcc libc6-dev make dpkg-dev
qemu-system-x86 qemu-utils ipxe-qemu seabios ovmf ipxe
mmdebstrap e2fsprogs
iproute2 nftables bridge-utils tcpdump socat curl
nbdkit nbd-server nbd-client libnbd-bin python3-libnbd fio
isc-dhcp-client isc-dhcp-relay udhcpc dhcpcd5 dnsmasq-base
atftp tftp-hpa busybox-static python3-minimal
shellcheck strace openssl openssh-client cpio kmod util-linux
etcd-server gnutls-bin b3sum xxd
"

case ${1:-} in
full)
    packages="$packages shim-signed grub-efi-amd64-signed qemu-system-arm qemu-efi-aarch64"
    packages="$packages pxelinux syslinux-common memtest86+ keepalived"
    ;;
bench) packages="$packages nginx-light tftpd-hpa kea-dhcp4-server kea-admin" ;;
esac

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    [ "$status" = "ii " ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "The tests need packages that are not installed. As root:" >&2
    echo "    apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

# A qemu-utils from backports does not fit bookworm's qemu-system-x86: take both from the release.
case " $missing " in
*" qemu-system-x86 "*)
    if dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null | grep -q bpo; then
        missing="$missing qemu-utils/bookworm qemu-block-extra/bookworm"
    fi
    ;;
esac

echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # a list of words
apt-get install -q -y --no-install-recommends --allow-downgrades $missing
