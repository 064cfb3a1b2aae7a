#!/bin/sh
# Run by dracut when the root is mounted: the overlay of memory, and the interface that has to be left alone.

# shellcheck source=/dev/null
. /lib/bootroom/functions.sh

if [ -e /run/bootroom/attached ]; then
	br_overlay "${NEWROOT:?}" || die "bootroom: the overlay of memory over the root could not be made"
	br_identity "$NEWROOT"
	br_hand_over >/dev/null
	# What dracut has networkd do to every interface, given ip= without one's name, is not for the real system.
	rm -f /run/systemd/network/*-default.network
fi
