#!/usr/bin/env bash
# Runs a command whose temporary files are in memory, where the machine has plenty:
#
#   deploy/dev/inmemory.sh go test ./...
#
# Tests make and delete thousands of small folders of the engine's, each synced to the
# disk, and most of that is waiting. What tests show is not less for it: none of them
# cuts the power, and a killed process leaves the same files in memory as on a disk. The
# demos write to the disk, as a service does. A TMPDIR or GOTMPDIR of your own is kept.
set -euo pipefail
shm=/dev/shm
# room says whether there are 6 GiB for files, and twice that is not in use.
room() {
  [ "$(stat -f -c %T $shm 2>/dev/null)" = tmpfs ] && [ -w $shm ] || return
  [ "$(df -Pk $shm | awk 'NR == 2 { print $4 }')" -gt $((6 << 20)) ] &&
    [ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -gt $((12 << 20)) ]
}
if [ -n "${TMPDIR:-}${GOTMPDIR:-}" ] || ! room; then
  exec "$@"
fi
# What a run that was killed left behind would stay in memory until the next boot.
for left in "$shm"/mcpaudit-test-*-*; do
  pid=${left#"$shm"/mcpaudit-test-}
  [ ! -O "$left" ] || kill -0 "${pid%%-*}" 2>/dev/null || rm -rf "$left"
done
dir=$(mktemp -d "$shm/mcpaudit-test-$$-XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
TMPDIR=$dir "$@"
