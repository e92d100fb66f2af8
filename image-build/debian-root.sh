#!/bin/sh
# Make FOLDER a minimal Debian 13 with what the package depends on, and nothing of ours, to try
# the package in: debian-root.sh ARCH FOLDER. Needs root, mmdebstrap and the network; for
# another architecture than this machine's, qemu-user-static.
set -eu
arch=$1 folder=$2
depends=$(sed -n '/^Package:/,$s/^ \(python3-[a-z-]*\) (>=.*/\1/p' "$(dirname "$0")/debian/control" | paste -sd,)

"$(dirname "$0")/register-emulator.sh" "$arch"

mkdir -p "$(dirname "$folder")"
rm -rf "$folder" "$folder.new"
# Compiling Python's own modules is most of the time under emulation, and none of our business:
# the real py3compile is back when our package comes.
mmdebstrap --mode=root --architectures="$arch" --variant=minbase \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='chroot "$1" dpkg-divert --local --rename --add /usr/bin/py3compile >/dev/null;
        ln -s /bin/true "$1/usr/bin/py3compile"' \
    --customize-hook='rm "$1/usr/bin/py3compile";
        chroot "$1" dpkg-divert --local --rename --remove /usr/bin/py3compile >/dev/null' \
    --customize-hook='echo uninitialized >"$1/etc/machine-id"' \
    --include="systemd,systemd-sysv,python3,$depends" trixie "$folder.new"
mv "$folder.new" "$folder"
