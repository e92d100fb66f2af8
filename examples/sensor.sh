#!/bin/sh
# A reading a second from any program that can run curl; stops after COUNT, if it is given.
#
#     examples/sensor.sh KEYSPACE [COUNT]
#
# Readings are documents of their own; connected clients have each within milliseconds.
set -eu

keyspace=$1
left=${2:--1}
socket=${EDGESYNC_SOCKET:-/run/edgesync/edgesync.sock}

while [ "$left" -ne 0 ]; do
    read -r load _ </proc/loadavg
    at=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    curl --fail --silent --show-error --unix-socket "$socket" \
        --json "{\"at\": \"$at\", \"load\": $load}" "http://localhost/$keyspace/"
    left=$((left - 1))
    [ "$left" -eq 0 ] || sleep 1
done
