#!/usr/bin/env bash
# Lints proto/ and refuses changes that break those who use the API: against the
# newest release tag, or against the parent commit while there is no release.
set -euo pipefail
cd "$(dirname "$0")/../.."
deploy/dev/setup.sh npm
buf=deploy/dev/npm/node_modules/.bin/buf
deploy/dev/rules.sh
"$buf" lint proto
base=$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || git rev-parse --verify --quiet HEAD^ || true)
if [ -z "$base" ]; then
  echo "lint: this commit has no parent here, so there is nothing to break" >&2
  exit 0
fi
# Only the API's own files of that commit, built with today's rules.
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$base" proto buf.yaml | tar -x -C "$old"
mkdir "$old/.cache" && cp -r .cache/protovalidate .cache/googleapis "$old/.cache/"
(cd "$old" && "$OLDPWD/$buf" build -o api.binpb)
"$buf" breaking proto --against "$old/api.binpb"
