#!/bin/sh
# Build the SD image: image.sh BASE-TAR PACKAGE. Into build/image/ what a start in QEMU needs, into
# dist/ the card and the update. Needs root and qemu-user-static, but not the network.
# $SOURCE_DATE_EPOCH is the time of everything newer than it. $RAUC_KEY and $RAUC_CERT, PEM
# files, sign the update; without them a key of this build/ does, which is good for trying.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
base=$1 package=$2
project=$(dirname "$here")
build=$project/build/image
dist=$project/dist
version=$(dpkg-deb --field "$package" Version)
name=edgesync-$version-arm64
root=$build/root
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C.UTF-8
: "${SOURCE_DATE_EPOCH:?is not set; the Makefile takes it from the commit}"

if [ "$(id -u)" != 0 ]; then
    echo "the image is built as root: it holds files of many owners, and programs for ARM run in it" >&2
    exit 1
fi
umask 022
"$here/register-emulator.sh" arm64

# Run a command that says much, and show it only if it fails.
quietly() {
    "$@" >"$build/log" 2>&1 || { cat "$build/log" >&2; exit 1; }
    rm "$build/log"
}

started=$(date +%s)
step() {
    now=$(date +%s)
    [ -z "${doing:-}" ] || echo "$doing: $((now - since)) s"
    doing=$1 since=$now
}

step "unpacking the base"
rm -rf "$root" "$build/card"
mkdir -p "$root" "$build/card" "$dist"
# Capabilities of programs, and not ACLs: squashfs has none.
tar --extract --file="$base" --directory="$root" --numeric-owner --xattrs --xattrs-include='security.*'

step "installing edgesync"
in_root() { chroot "$root" "$@"; }
# Owners of what is on the data partition: they must be the same in every image there will be.
in_root groupadd --system --gid 900 edgesync
in_root useradd --system --uid 900 --gid edgesync --home-dir /var/lib/edgesync --no-create-home \
    --shell /usr/sbin/nologin --comment "Couchbase Lite peer" edgesync
in_root groupadd --gid 1000 tech
in_root useradd --uid 1000 --gid tech --groups edgesync,adm,systemd-journal,sudo \
    --home-dir /home/tech --no-create-home --shell /bin/bash tech
in_root usermod --shell /usr/sbin/nologin root
# Python is compiled below, with files that name no time.
mv "$root/usr/bin/py3compile" "$build/py3compile"
ln -s /bin/true "$root/usr/bin/py3compile"
cp "$package" "$root/edgesync.deb"
quietly chroot "$root" dpkg --install --force-unsafe-io /edgesync.deb
rm "$root/edgesync.deb"
mv "$build/py3compile" "$root/usr/bin/py3compile"
in_root python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3/dist-packages/edgesync

step "laying the appliance over it"
cp -r --no-target-directory "$here/device" "$root"
chown -R --no-dereference 0:0 "$root/etc/ssh/sshd_config.d" "$root/etc/sudoers.d" "$root/etc/rauc" "$root/usr/lib/edgesync-image"
chmod 0440 "$root/etc/sudoers.d/edgesync"
mkdir -p "$root/data" "$root/boot/firmware" "$root/boot/slot" "$root/var/lib/rauc" "$root/var/log/journal" \
    "$root/var/lib/edgesync" "$root/etc/credstore.encrypted"
chmod 0700 "$root/etc/credstore.encrypted"
printf 'IMAGE_ID=edgesync\nIMAGE_VERSION=%s\n' "$version" >>"$root/usr/lib/os-release"
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# What would ask at a keyboard, or write what the image already has.
for unit in systemd-firstboot ldconfig systemd-hwdb-update systemd-journal-catalog-update; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
# It would offer logins that no password opens; console-getty.service is what can be switched on.
mkdir -p "$root/etc/systemd/system-generators"
ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-getty-generator"
find "$root/etc/systemd/system" -name '*.wants' -prune -exec rm -r {} +
systemctl --root="$root" preset-all 2>/dev/null

key=${RAUC_KEY:-$build/signing-key.pem} certificate=${RAUC_CERT:-$build/signing-certificate.pem}
if [ -z "${RAUC_KEY:-}" ] && [ ! -e "$key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=edgesync development" \
        -keyout "$key" -out "$certificate" 2>/dev/null
fi
cp "$certificate" "$root/etc/rauc/keyring.pem"
chmod 0644 "$root/etc/rauc/keyring.pem"

step "kernel and boot partition"
boot=$build/card/boot
mkdir -p "$boot/a"
cp "$root"/boot/vmlinuz-* "$root/boot/slot/vmlinuz"
cp "$root"/boot/initrd.img-* "$root/boot/slot/initrd.img"
cp "$root"/usr/lib/linux-image-*/broadcom/bcm2837-rpi-*.dtb "$root"/usr/lib/linux-image-*/broadcom/bcm2711-rpi-*.dtb \
    "$here/boot/cmdline.txt" "$root/boot/slot/"
cp "$root"/boot/slot/* "$boot/a/"
sed -i 's/@SLOT@/a/g' "$boot/a/cmdline.txt"
firmware=$root/usr/lib/raspi-firmware
cp "$firmware/bootcode.bin" "$firmware/start.elf" "$firmware/start4.elf" "$firmware/fixup.dat" "$firmware/fixup4.dat" "$boot/"
cp "$here/boot/config.txt" "$here/boot/README.txt" "$here/boot/edgesync-setup.example.toml" "$boot/"
cp "$root/boot/slot/vmlinuz" "$root/boot/slot/initrd.img" "$build/"

step "removing what no device needs"
rm -rf "$root"/boot/vmlinuz-* "$root"/boot/initrd.img-* "$root"/boot/config-* "$root"/boot/System.map-* \
    "$root"/vmlinuz* "$root"/initrd.img* "$firmware" "$root"/usr/lib/linux-image-* \
    "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/*.log "$root"/var/log/apt "$root"/var/backups/* \
    "$root"/var/lib/systemd/deb-systemd-* "$root"/etc/passwd- "$root"/etc/group- "$root"/etc/shadow- "$root"/etc/gshadow- \
    "$root"/etc/ssh/ssh_host_* "$root"/var/lib/systemd/credential.secret "$root"/var/lib/systemd/random-seed \
    "$root"/etc/hostname.new "$root"/tmp/* "$root"/var/tmp/* "$root"/run/* "$root"/var/lib/dbus/machine-id
echo uninitialized >"$root/etc/machine-id"

step "root.squashfs"
rm -f "$build/root.squashfs"
mksquashfs "$root" "$build/root.squashfs" -quiet -no-progress -comp zstd -Xcompression-level 15 -noappend \
    -processors 2 >/dev/null

step "card"
# Fixed times in the FAT, too.
find "$build/card" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
rm -rf "$build/genimage.tmp" "$build/card.img" "$build/boot.vfat"
quietly genimage --config "$here/genimage.cfg" --rootpath "$build/card" --inputpath "$build" --outputpath "$build" \
    --tmppath "$build/genimage.tmp"
rm -rf "$build/genimage.tmp"
mv "$build/card.img" "$dist/$name.img"
rm -f "$dist/$name.img.zst"
zstd --quiet -T0 -3 "$dist/$name.img" -o "$dist/$name.img.zst"

step "update"
rm -rf "$build/bundle" "$dist/$name.raucb"
mkdir "$build/bundle"
ln "$build/root.squashfs" "$build/bundle/root.img"
cat >"$build/bundle/manifest.raucm" <<END
[update]
compatible=edgesync-arm64
version=$version

[bundle]
format=verity

[image.rootfs]
filename=root.img
END
quietly rauc bundle --cert="$certificate" --key="$key" --keyring="$certificate" "$build/bundle" "$dist/$name.raucb"
rm -rf "$build/bundle"

step ""
echo "all: $(($(date +%s) - started)) s"
du --apparent-size -h "$build/root.squashfs" "$build/boot.vfat" "$dist/$name.img" "$dist/$name.img.zst" "$dist/$name.raucb"
