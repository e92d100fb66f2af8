#!/bin/sh
# Make TAR a Debian 13 for 64-bit ARM with every package of the appliance but edgesync, its
# kernel and its initrd: base-root.sh TAR. Needs root, mmdebstrap, qemu-user-static and the
# network. $SOURCE_DATE_EPOCH is the time of everything newer than it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tar=$1
if [ "$(id -u)" != 0 ]; then
    echo "the image is built as root: it holds files of many owners, and programs for ARM run in it" >&2
    exit 1
fi
"$here/register-emulator.sh" arm64

depends=$(sed -n '/^Package:/,$s/^ \(python3-[a-z-]*\) (>=.*/\1/p' "$here/debian/control")
packages=$(sed 's/#.*//' "$here/packages.txt")
include=$(echo $packages $depends | tr ' ' ,)

mkdir -p "$(dirname "$tar")"
# Both are slow under emulation, and would run for each package: so once, at the end.
deferred='/usr/sbin/update-initramfs /usr/bin/py3compile'
mmdebstrap --mode=root --architectures=arm64 --variant=minbase --components=main,non-free-firmware \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook="for each in $deferred; do"' \
            mkdir -p "$1/${each%/*}";
            chroot "$1" dpkg-divert --quiet --local --rename --add $each;
            ln -s /bin/true "$1$each";
        done' \
    --customize-hook="for each in $deferred; do"' \
            rm "$1$each"; chroot "$1" dpkg-divert --quiet --local --rename --remove $each;
        done' \
    --customize-hook="cp -r '$here/initramfs/.' \"\$1/etc/initramfs-tools/\"" \
    --customize-hook='chroot "$1" update-initramfs -c -k all' \
    --customize-hook='chroot "$1" python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3/dist-packages' \
    --customize-hook='rm -rf "$1"/boot/firmware/* "$1"/etc/ssh/ssh_host_* "$1"/etc/apt/apt.conf.d/99mmdebstrap \
            "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/var/log/*.log "$1"/var/log/apt' \
    --customize-hook='echo uninitialized >"$1/etc/machine-id"; rm -f "$1/var/lib/dbus/machine-id"' \
    --include="$include" trixie "$tar.new.tar"
mv "$tar.new.tar" "$tar"
