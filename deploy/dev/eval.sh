#!/usr/bin/env bash
# Measures the detectors on public data, end to end: raw calls are redacted as an
# emitter would, replayed against the shipped rules, and what was found is scored
# against the data's labels. Nothing of the data is part of this repository: name the
# script that turns it into events and scores findings with EVALDATA.
#
#   deploy/dev/eval.sh                    loops benign spikes offhours
#   deploy/dev/eval.sh loops              one family
#   KEEP=/tmp/eval deploy/dev/eval.sh     keep events and findings there
set -euo pipefail
cd "$(dirname "$0")/../.."
evaldata=${EVALDATA:-../shared/eval/evaldata.py}
if [ ! -f "$evaldata" ]; then
  echo "eval: there is no $evaldata; name the script that makes events of the data with EVALDATA=path/to/evaldata.py" >&2
  exit 1
fi
work=${KEEP:-$(mktemp -d)}
mkdir -p "$work"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$work/key")
go build -trimpath -o "$work/mcpaudit" ./cmd/mcpaudit
families=("$@")
[ $# -gt 0 ] || families=(loops benign spikes offhours)
for family in "${families[@]}"; do
  python3 "$evaldata" events "$family" |
    "$work/mcpaudit" redact --key-file "$work/key" > "$work/$family.jsonl"
  "$work/mcpaudit" rules replay --input "$work/$family.jsonl" > "$work/$family.findings.jsonl"
  python3 "$evaldata" score "$family" "$work/$family.findings.jsonl" > "$work/$family.score"
done
printf '%s\n' "Measured $(date -u +%F) with the shipped rules of $(git describe --always --dirty), no tuning:"
for family in "${families[@]}"; do
  printf '\n%s: %s events, %s findings\n' "$family" "$(wc -l < "$work/$family.jsonl")" "$(wc -l < "$work/$family.findings.jsonl")"
  grep -v ' windows .* hit ' "$work/$family.score" | sed 's/^/  /'
done
