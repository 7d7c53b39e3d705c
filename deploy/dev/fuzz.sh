#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other.
#
#   deploy/dev/fuzz.sh [TIME-EACH]      default: 10s
set -euo pipefail
cd "$(dirname "$0")/../.."
grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
  grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -c6- | while read -r target; do
    echo "fuzz: $dir $target" >&2
    go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${1:-10s}" -fuzzminimizetime 1s </dev/null
  done
done
