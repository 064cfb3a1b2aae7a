# shellcheck shell=sh
# What the initramfs hooks of all generators share. Sourced, POSIX only, needs /proc, /sys and /run.
# The agent reads the kernel command line itself; these functions only prepare the way for it.

BR_AGENT=${BR_AGENT:-/sbin/bootroom-attach}
BR_CMDLINE=${BR_CMDLINE:-/proc/cmdline}
BR_RUN=${BR_RUN:-/run}
BR_SYS=${BR_SYS:-/sys}

# br_param NAME: prints the value of the last NAME=VALUE on the kernel command line; fails if there is none.
br_param() {
	br_found=
	br_line=$(cat "$BR_CMDLINE")
	set -f
	for br_word in $br_line; do
		case "$br_word" in "$1="*) br_found="x${br_word#*=}" ;; esac
	done
	set +f
	[ -n "$br_found" ] && printf '%s\n' "${br_found#x}"
}

# br_wanted: whether this boot is ours. Cheap, because every boot of every machine asks.
br_wanted() {
	case " $(cat "$BR_CMDLINE")" in
	*" nbdroot="* | *" netroot=nbd"* | *" root=nbd"* | *" bootroom.disk="*) "$BR_AGENT" --wanted ;;
	*) return 1 ;;
	esac
}

# br_root_device: the device that the root disk becomes.
br_root_device() {
	case "$(br_param root)" in
	/dev/*) br_param root ;;
	LABEL=* | UUID=* | PARTUUID=* | PARTLABEL=*) br_param root ;;
	*) echo /dev/nbd0 ;;
	esac
}

# br_load_modules: the drivers that a network disk needs. max_part lets partitions appear.
br_load_modules() {
	modprobe nbd max_part=15 2>/dev/null || modprobe nbd || return 1
	case "$(cat "$BR_CMDLINE")" in *nbds:*) modprobe tls 2>/dev/null ;; esac
	return 0
}

# br_wait_carrier INTERFACE: waits for the link, with words for the person at the machine. A switch that runs the
# spanning tree protocol takes up to 50 seconds; giving up is left to the agent, which waits for the server anyway.
br_wait_carrier() {
	br_turn=0
	while [ "$(cat "$BR_SYS/class/net/$1/carrier" 2>/dev/null)" != 1 ] && [ "$br_turn" -lt 600 ]; do
		case "$br_turn" in
		30) echo "bootroom: $1 has no link: is the network cable plugged in?" ;;
		150) echo "bootroom: $1 still has no link; the switch may need up to 50 seconds" ;;
		esac
		sleep 0.1
		br_turn=$((br_turn + 1))
	done
}

# br_set_mtu INTERFACE: honours bootroom.mtu=.
br_set_mtu() {
	br_mtu=$(br_param bootroom.mtu) || return 0
	echo "$br_mtu" >"$BR_SYS/class/net/$1/mtu" 2>/dev/null ||
		echo "bootroom: bootroom.mtu=$br_mtu was refused by $1"
}

# br_attach: attaches every disk that the command line asks for. Fails after bootroom.timeout= seconds, having said why.
br_attach() {
	# Asking makes the kernel gather its first random numbers. On a machine that has none in hardware (QEMU's default
	# processor) nobody else asks this early, and the agent would wait for them for ever.
	dd if=/dev/random of=/dev/null bs=1 count=1 2>/dev/null || :
	br_timeout=$(br_param bootroom.timeout) || br_timeout=120
	"$BR_AGENT" --cmdline --timeout "$br_timeout" \
		--request-timeout "$(br_param bootroom.request_timeout || echo 10)"
}

# br_hand_over: keeps everybody's hands off the interface that carries the root disk. Prints its name.
br_hand_over() {
	# The agent prints name and address of the interface, in two words.
	# shellcheck disable=SC2046
	set -- $("$BR_AGENT" --interface)
	if [ $# != 2 ]; then
		echo "bootroom: the network managers of this system were not told to leave the root disk's interface alone" >&2
		return 1
	fi
	br_pin_addresses "$1"
	br_keep_interface "$1" "$2"
	printf '%s\n' "$1"
}

# br_pin_addresses INTERFACE: takes the time limit off its addresses. DHCP clients of an initramfs set the lease's, and
# are gone before it ends; the agent has the lease extended from now on.
br_pin_addresses() {
	command -v ip >/dev/null || return 0
	ip -4 -o address show dev "$1" 2>/dev/null | while read -r br_line; do
		case "$br_line" in *valid_lft*sec*) ;; *) continue ;; esac
		br_rest=${br_line#*inet }
		ip address change "${br_rest%% *}" dev "$1" valid_lft forever preferred_lft forever
	done
}

# br_keep_interface INTERFACE MAC: tells the network managers of the real system that this interface carries the root
# disk. Each file is in /run, so it is gone with this boot.
br_keep_interface() {
	mkdir -p "$BR_RUN/systemd/network" "$BR_RUN/NetworkManager/conf.d" "$BR_RUN/bootroom"
	# networkd takes the first file that matches.
	printf '[Match]\nMACAddress=%s\n\n[Link]\nUnmanaged=yes\n' "$2" >"$BR_RUN/systemd/network/00-bootroom.network"
	# A section of its own: nothing in /etc overrides it by accident.
	printf '[device-00-bootroom]\nmatch-device=mac:%s\nmanaged=0\n' "$2" >"$BR_RUN/NetworkManager/conf.d/00-bootroom.conf"
	br_keep_from_ifupdown "$1"
	printf '%s\n' "$1" >"$BR_RUN/bootroom/interface"
}

# br_keep_from_ifupdown INTERFACE: Debian's ifupdown knows no files in /run, but its services can be told. Without
# them it would ask for another lease at the start, and take the interface down under the root at the end.
br_keep_from_ifupdown() {
	br_units=$BR_RUN/systemd/system
	mkdir -p "$br_units/networking.service.d"
	ln -sf /dev/null "$br_units/ifup@$1.service"
	{
		printf '[Service]\nExecStart=\nExecStop=\n'
		printf 'ExecStart=/sbin/ifup -a --read-environment --exclude=%s\n' "$1"
		printf 'ExecStop=/sbin/ifdown -a --read-environment --exclude=lo --exclude=%s\n' "$1"
	} >"$br_units/networking.service.d/00-bootroom.conf"
}

# br_resolv_conf ROOT DOMAIN DNS...: name servers for the real system; written by systemd-tmpfiles once its root is
# writable, unless systemd-resolved is in charge, which is told in its own way.
br_resolv_conf() {
	br_root=$1 br_domain=$2
	shift 2
	br_text=
	br_list=
	for br_dns; do
		case "$br_dns" in '' | 0.0.0.0) continue ;; esac
		br_text="${br_text}nameserver $br_dns\\n"
		br_list="$br_list $br_dns"
	done
	[ -n "$br_text" ] || return 0
	[ -z "$br_domain" ] || br_text="${br_text}search $br_domain\\n"
	mkdir -p "$BR_RUN/tmpfiles.d" "$BR_RUN/systemd/resolved.conf.d"
	printf '[Resolve]\nDNS=%s\n' "${br_list# }" >"$BR_RUN/systemd/resolved.conf.d/10-bootroom.conf"
	[ -L "$br_root/etc/resolv.conf" ] ||
		printf 'f+ /etc/resolv.conf 0644 root root - %s\n' "$br_text" >"$BR_RUN/tmpfiles.d/bootroom.conf"
}

# br_identity ROOT: puts what the server sent of this machine's identity into the mounted root. A machine that is less
# itself still boots; the agent has said why.
br_identity() {
	"$BR_AGENT" --identity "$1" || :
}

# br_overlay ROOT: bootroom.overlay=tmpfs[:size=SIZE] puts a layer of memory over the mounted root.
# Where systemd runs the initramfs, mounts are shared, and the kernel moves no such mount: a second one of it will do.
br_overlay() {
	br_mode=$(br_param bootroom.overlay) || return 0
	case "$br_mode" in
	tmpfs) br_size=50% ;;
	tmpfs:size=*) br_size=${br_mode#tmpfs:size=} ;;
	*)
		echo "bootroom: bootroom.overlay=$br_mode is unknown; write tmpfs or tmpfs:size=2G"
		return 1
		;;
	esac
	br_base=$BR_RUN/bootroom/overlay
	mkdir -p "$br_base/base" "$br_base/memory" && modprobe overlay &&
		mount -t tmpfs -o "size=$br_size,mode=0755" bootroom "$br_base/memory" &&
		mkdir "$br_base/memory/upper" "$br_base/memory/work" &&
		{ mount -n -o move "$1" "$br_base/base" 2>/dev/null || mount -n -o bind "$1" "$br_base/base"; } &&
		mount -t overlay -o "lowerdir=$br_base/base,upperdir=$br_base/memory/upper,workdir=$br_base/memory/work" \
			bootroom "$1"
}
