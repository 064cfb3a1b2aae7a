#!/bin/sh
# Sourced by dracut before the network is set up: says that this boot needs it, and which device becomes the root.

# shellcheck source=/dev/null
. /lib/bootroom/functions.sh

if br_wanted; then
	mkdir -p /run/bootroom /etc/cmdline.d
	echo "rd.neednet=1" >/etc/cmdline.d/50-bootroom.conf
	br_root=$(br_root_device)
	# shellcheck disable=SC2034 # read by dracut
	case "$br_root" in
	/dev/*) root="block:$br_root" ;;
	esac
	# dracut's own nbd module is to leave this root alone.
	# shellcheck disable=SC2034 # both are read by dracut
	rootok=1 netroot=
	# The device exists before it is attached; only the mark says that it is usable.
	# shellcheck disable=SC2154 # hookdir is dracut's
	echo '[ -e /run/bootroom/attached ]' >"$hookdir/initqueue/finished/50-bootroom.sh"
fi
