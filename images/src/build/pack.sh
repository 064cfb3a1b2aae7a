#!/bin/sh
# From a directory to a version's files; the directory is gone afterwards.
#   $1   the root directory
#   $2   where disk.raw, vmlinuz and initrd.img go
#   $3   size of the disk in KiB
#   $4   UUID of the filesystem
set -eu
root=$1 out=$2 size=$3 uuid=$4

kernel=$(find "$root/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)
if [ -z "$kernel" ]; then
	echo "there is no kernel in /boot of the new root"
	exit 1
fi
release=${kernel##*/vmlinuz-}
cp "$kernel" "$out/vmlinuz"
cp "$root/boot/initrd.img-$release" "$out/initrd.img"

# The file is there beforehand, or mke2fs writes the zeros of its tables instead of leaving holes.
# No lazy initialisation: clients would do it again in every overlay. A small journal: it is
# written round and round, so all of it ends up in each overlay that lasts.
truncate -s "${size}K" "$out/disk.raw"
mke2fs -q -F -t ext4 -d "$root" -U "$uuid" -m 1 -J size=16 \
	-E lazy_itable_init=0,lazy_journal_init=0 "$out/disk.raw"
rm -rf "$root"
