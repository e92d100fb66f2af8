#!/bin/sh
# Check the units without installing them: check.sh EDGESYNCD, the command to find in place of
# the installed one. What systemd-analyze only warns about, such as a key that it does not
# know, is an error here; so is a sandbox with an exposure above 1.5 of 10.
set -eu
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$(dirname "$0")"
for unit in *.service; do
    sed "s|/usr/bin/edgesyncd|$1|" "$unit" >"$folder/$unit"
done

# Made for Debian 13's systemd 257; Debian 12's does not know these yet.
version=$(systemd-analyze --version | sed -n 's/^systemd \([0-9]*\).*/\1/p')
if [ "$version" -lt 254 ]; then
    sed -i '/^RestartSteps=/d; /^RestartMaxDelaySec=/d' "$folder"/*.service
fi

complaints=$(systemd-analyze verify --man=no "$folder"/*.service 2>&1) || true
if [ -n "$complaints" ]; then
    echo "$complaints" >&2
    exit 1
fi
for unit in "$folder"/*.service; do
    if ! table=$(systemd-analyze security --no-pager --offline=true --threshold=15 "$unit"); then
        echo "$table" >&2
        exit 1
    fi
done
echo "systemd units: ok"
