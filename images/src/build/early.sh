#!/bin/sh
# Before the kernel is set up: what the packages' own scripts must find.
#   $1                 the new root
#   BOOTROOM_MODULES   MODULES= of initramfs.conf
#   BOOTROOM_DRIVERS   modules to have in the initramfs in any case
set -eu
root=$1

mkdir -p "$root/etc/initramfs-tools/conf.d"
# The initrd goes over the network to every machine at every boot: network drivers, little else.
printf 'MODULES=%s\nCOMPRESS=zstd\n' "$BOOTROOM_MODULES" \
	>"$root/etc/initramfs-tools/conf.d/bootroom"
# Copied, not forced: udev loads those whose hardware is there.
mkdir -p "$root/etc/initramfs-tools/hooks"
cat >"$root/etc/initramfs-tools/hooks/bootroom-drivers" <<EOF
#!/bin/sh
[ "\$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules $BOOTROOM_DRIVERS
EOF
chmod 755 "$root/etc/initramfs-tools/hooks/bootroom-drivers"
