#!/bin/sh
# Run by dracut for each network interface that has come up; $1 is its name.

# shellcheck source=/dev/null
. /lib/bootroom/functions.sh

if [ -d /run/bootroom ] && ! [ -e /run/bootroom/attached ]; then
	[ -z "$1" ] || br_set_mtu "$1"
	if br_load_modules && br_attach; then
		echo "$1" >/run/bootroom/attached
	fi
fi
