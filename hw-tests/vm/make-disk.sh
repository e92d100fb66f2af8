#!/bin/sh
# Make the disks of the machine that vm/ boots: make-disk.sh BASE.tar PACKAGE.deb FOLDER
#
# A Debian as a technician would set it up by hand, with the package on it: ordinary ext4, two
# network cards, the data on a disk of its own so that it can be filled. Nothing here is in the
# SD image. Needs root, and qemu-user to run what the package does when it is installed.
set -eu
base=$1 package=$2 folder=$3

"$(dirname "$0")/../../image-build/register-emulator.sh" arm64

made=$(sha256sum "$package" "$0" | cut -c1-64 | tr -d '\n')
if [ "$(cat "$folder/made" 2>/dev/null)" = "$made" ] && [ "$folder/made" -nt "$base" ]; then
    exit 0
fi
rm -rf "$folder"
mkdir -p "$folder"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tar --extract --numeric-owner --file "$base" --directory "$root"
cp "$package" "$root/root/edgesync.deb"
chroot "$root" dpkg --install /root/edgesync.deb
rm "$root/root/edgesync.deb"

ssh-keygen -q -t ed25519 -N '' -C hw-tests -f "$folder/key"
install -d -m 0700 "$root/root/.ssh"
install -m 0600 "$folder/key.pub" "$root/root/.ssh/authorized_keys"
echo edgesync-vm >"$root/etc/hostname"
echo uninitialized >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_*
cat >"$root/etc/fstab" <<'END'
LABEL=root / ext4 defaults 0 1
LABEL=data /var/lib/edgesync ext4 defaults,nodev,nosuid 0 2
END

# The first card is QEMU's own network, for us; the second the LAN, with an address once a cable is in.
mkdir -p "$root/etc/systemd/network"
rm -f "$root"/etc/systemd/network/*
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/10-ours.network"
printf '[Match]\nName=eth1\n\n[Network]\nAddress=192.168.77.2/24\n' >"$root/etc/systemd/network/20-lan.network"
# Emulated, and on a busy computer, all takes longer.
mkdir -p "$root/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultTimeoutStartSec=600\n' >"$root/etc/systemd/system.conf.d/patience.conf"
cat >"$root/etc/edgesync/edgesync.toml" <<'END'
[key_store]
unlock = "credential:edgesync.key"

[database.db]

[listener.field]

[listener.lan]
interface = "eth1"
port = 4985
END
chroot "$root" systemctl enable --quiet systemd-networkd ssh
# What asks at a keyboard, is for the image alone, or works at random times.
for unit in systemd-firstboot.service systemd-networkd-wait-online.service rauc.service \
    wpa_supplicant.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd.img"
truncate -s 2G "$folder/root.img"
mke2fs -q -t ext4 -L root -d "$root" "$folder/root.img"
truncate -s 256M "$folder/data.img"
mke2fs -q -t ext4 -b 4096 -L data "$folder/data.img"
printf %s "$made" >"$folder/made"
