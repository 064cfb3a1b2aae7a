#!/bin/sh
# Run by dracut when the root is mounted: the overlay of memory, and the interface that has to be left alone.

# shellcheck source=/dev/null
. /lib/bootroom/functions.sh

if [ -e /run/bootroom/attached ]; then
	br_overlay "${NEWROOT:?}" || die "bootroom: the overlay of memory over the root could not be made"
	br_hand_over >/dev/null
fi
