#!/bin/sh
# Build the Debian package of the working tree into dist/. Needs what debian/control names in
# Build-Depends, and no privileges. Two builds of one tree give the same bytes.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/edgesync"
cd "$root"
cp -r --parents edgesync systemd share setup.cfg pyproject.toml README.md CHANGELOG.md "$work/edgesync"
cp -r image-build/debian "$work/edgesync/debian"
find "$work" -name __pycache__ -prune -exec rm -r {} +
cd "$work/edgesync"
# Debian's own Python, whatever else this machine has.
PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    dpkg-buildpackage --build=binary --unsigned-changes --unsigned-buildinfo >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
mkdir -p "$root/dist"
rm -f "$root"/dist/*.deb
cp "$work"/*.deb "$root/dist/"
ls -l "$root"/dist/*.deb
