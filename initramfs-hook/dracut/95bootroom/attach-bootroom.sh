#!/bin/sh
# Run by dracut over and over while it waits for the root: attaches the disk once there is a way to its server. Not
# left to dracut's own hook for "online": with systemd-networkd, Debian's default, dracut 059 never calls it.

# shellcheck source=/dev/null
. /lib/bootroom/functions.sh

if [ -d /run/bootroom ] && ! [ -e /run/bootroom/attached ] && br_interface=$("$BR_AGENT" --interface 2>/dev/null); then
	br_set_mtu "${br_interface%% *}"
	if br_load_modules && br_attach; then
		: >/run/bootroom/attached
	fi
fi
