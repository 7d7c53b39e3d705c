#!/usr/bin/env bash
# Puts what proto/ imports where buf.yaml looks for it: protovalidate's rule
# definitions from the pinned Go module, Google's HTTP annotations from npm.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/versions.env
dir=$(go mod download -json "github.com/bufbuild/protovalidate@$PROTOVALIDATE_VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
mkdir -p .cache/protovalidate/buf/validate
install -m 644 "$dir/proto/protovalidate/buf/validate/validate.proto" .cache/protovalidate/buf/validate/
mkdir -p .cache/googleapis/google/api
for file in annotations http; do
  install -m 644 "deploy/dev/npm/node_modules/google-proto-files/google/api/$file.proto" .cache/googleapis/google/api/
done
