#!/bin/sh
# After all packages are installed: makes a root that many machines share over the network.
#   $1               the new root
#   BOOTROOM_TOOLS   directory that may hold client.deb (the bootroom-client package) and
#                    password (root's, one line; without it the account stays locked)
set -eu
root=$1

# None of these does good on a root that is one of many and may be gone at the next power-on;
# each costs seconds of every boot.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service man-db.timer systemd-networkd-wait-online.service \
	NetworkManager-wait-online.service ifupdown-wait-online.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

cat >"$root/etc/fstab" <<'EOF'
# The initramfs attaches and mounts the root disk; it needs no line here.
EOF

# Who a machine is, it learns from its kernel command line.
rm -f "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"

# Host keys are made by each machine, not shared by all.
if [ -e "$root/usr/sbin/sshd" ]; then
	rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub
	cat >"$root/etc/systemd/system/bootroom-ssh-keys.service" <<'EOF'
[Unit]
Description=Make this machine's SSH host keys
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=ssh.service
EOF
	chroot "$root" systemctl enable bootroom-ssh-keys.service
fi

# The journal stays in memory: on a fresh overlay it would be the largest writer.
rm -rf "$root/var/log/journal"

printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"

if [ -e "$BOOTROOM_TOOLS/client.deb" ]; then
	cp "$BOOTROOM_TOOLS/client.deb" "$root/tmp/bootroom-client.deb"
	chroot "$root" apt-get install --yes --no-install-recommends /tmp/bootroom-client.deb
	rm -f "$root/tmp/bootroom-client.deb"
fi
if [ -e "$BOOTROOM_TOOLS/password" ]; then
	{ printf 'root:' && cat "$BOOTROOM_TOOLS/password"; } | chroot "$root" chpasswd
fi

# The host's, for the build; a machine gets its own with its address.
rm -f "$root/etc/resolv.conf"
: >"$root/etc/resolv.conf"

# Now that all of its hooks are there: once, not once a package.
unset INITRD
chroot "$root" update-initramfs -c -k all

# Newer than /usr, or the first boot of every fresh overlay rebuilds the hardware database.
touch "$root/etc/.updated" "$root/var/.updated"
