#!/bin/bash
# dracut module: opt in with  add_dracutmodules+=" bootroom "  in /etc/dracut.conf.d/.
# The names of the functions and what they may call are dracut's: see dracut.modules(7).

check() {
	require_binaries /usr/sbin/bootroom-attach || return 1
	# Never by itself: a machine with a disk has no use for it.
	return 255
}

depends() {
	echo network
}

installkernel() {
	hostonly='' instmods nbd tls gcm ctr ghash_generic ghash_clmulni_intel aesni_intel aes_generic overlay
}

install() {
	inst /usr/sbin/bootroom-attach /sbin/bootroom-attach
	inst_simple /usr/lib/bootroom/functions.sh /lib/bootroom/functions.sh
	inst_multiple cat sleep mkdir ln dd rm
	[ -d /etc/bootroom/tls ] && inst_multiple -o /etc/bootroom/tls/*
	# shellcheck disable=SC2154 # moddir is dracut's
	inst_hook cmdline 85 "$moddir/parse-bootroom.sh"
	inst_hook initqueue/settled 10 "$moddir/attach-bootroom.sh"
	inst_hook pre-pivot 50 "$moddir/hand-over-bootroom.sh"
	dracut_need_initqueue
}
