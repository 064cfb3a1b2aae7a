#!/bin/bash
# Stands in for mkinitcpio, which no Debian has: runs the install hook with the functions that mkinitcpio gives it, and
# packs what it asks for, with busybox and an init that calls the runtime hook as mkinitcpio's does.
#   mkinitcpio.sh TREE RELEASE HOOKS OUT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$1 release=$2 hooks=$3 out=$4
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage"/{bin,sbin,dev,proc,sys,run,tmp,new_root,hooks,modules,lib}
ln -s lib "$stage/lib64"
: >"$stage/modules.list"

add_module() {
	local path
	while read -r _ path _; do
		grep -qxF "${path##*/}" "$stage/modules.list" && continue
		echo "${path##*/}" >>"$stage/modules.list"
		cp "$path" "$stage/modules/"
	done < <(modprobe -d "$tree" -S "$release" --show-depends "$1" | grep '^insmod')
}

add_checked_modules() {
	local name
	# mkinitcpio would look at this machine's hardware; the guest's is known.
	for name in virtio_pci virtio_net; do
		find "$tree/lib/modules/$release" -path "*$1*" -name "$name.ko" | grep -q . || [ "$name" = virtio_pci ]
		add_module "$name"
	done
}

add_file() {
	mkdir -p "$stage/$(dirname "${2:-$1}")"
	cp "$tree/$1" "$stage/${2:-$1}"
}

add_binary() {
	add_file "$1" "${2:-$1}"
	chmod 755 "$stage/${2:-$1}"
}

add_full_dir() {
	mkdir -p "$stage/$1"
	cp -r "$tree/$1/." "$stage/$1"
}

add_runscript() {
	cp "$hooks/hooks/bootroom" "$stage/hooks/bootroom"
}

# shellcheck source=/dev/null
source "$hooks/install/bootroom"
build
help | grep -q bootroom

cp /bin/busybox "$stage/bin/busybox"
cp "$here/mkinitcpio-init" "$stage/init"
chmod 755 "$stage/init"
(cd "$stage" && find . | cpio --quiet -o -H newc | gzip -1) >"$out"
