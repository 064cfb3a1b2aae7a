#!/bin/sh
# Builds target/deb/bootroom-client_VERSION_amd64.deb, and target/deb/bootroom-client.deb as a link to it.
# With BOOTROOM_AGENT=FILE that agent is packed, instead of one built now.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here/.."
# The same content makes the same package, to the byte: `bootroom demo` builds its image anew for another one.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1735689600}"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
agent=${BOOTROOM_AGENT:-}
if [ -z "$agent" ]; then
	"$here/packaging/build-agent.sh"
	agent=target/agent/bootroom-attach
fi

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
put() { install -D -m "$1" "$2" "$tree/$3"; }

put 755 "$agent" usr/sbin/bootroom-attach
put 644 "$here/lib/functions.sh" usr/lib/bootroom/functions.sh
put 755 "$here/initramfs-tools/hooks/bootroom" usr/share/initramfs-tools/hooks/bootroom
for script in local-top local-bottom; do
	put 755 "$here/initramfs-tools/scripts/$script/bootroom" "usr/share/initramfs-tools/scripts/$script/bootroom"
done
for script in "$here"/dracut/95bootroom/*.sh; do
	put 755 "$script" "usr/lib/dracut/modules.d/95bootroom/$(basename "$script")"
done
put 644 "$here/systemd/bootroom-report.service" lib/systemd/system/bootroom-report.service
install -d "$tree/lib/systemd/system/multi-user.target.wants"
put 644 "$here/systemd/bootroom-guard@.service" lib/systemd/system/bootroom-guard@.service
install -d "$tree/lib/systemd/system/sysinit.target.wants"
for ending in poweroff reboot; do
	ln -s ../bootroom-guard@.service "$tree/lib/systemd/system/sysinit.target.wants/bootroom-guard@$ending.service"
done
ln -s ../bootroom-report.service "$tree/lib/systemd/system/multi-user.target.wants/bootroom-report.service"
for page in "$here"/man/*.[78]; do
	[ -e "$page" ] || continue
	section=${page##*.}
	install -d "$tree/usr/share/man/man$section"
	cp "$page" "$tree/usr/share/man/man$section/"
done
find "$tree/usr/share/man" -type f -exec gzip -9n {} +

mkdir -p "$tree/DEBIAN" target/deb
size=$(du -sk "$tree" | cut -f 1)
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$size/" "$here/packaging/control.in" >"$tree/DEBIAN/control"
echo "activate-noawait update-initramfs" >"$tree/DEBIAN/triggers"
name=bootroom-client_${version}_amd64.deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "target/deb/$name" >/dev/null
ln -sf "$name" target/deb/bootroom-client.deb
echo "target/deb/$name"
