#!/usr/bin/env bash
# Puts protovalidate's rule definitions where buf.yaml looks for them, from the
# pinned Go module.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/versions.env
dir=$(go mod download -json "github.com/bufbuild/protovalidate@$PROTOVALIDATE_VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
mkdir -p .cache/protovalidate/buf/validate
install -m 644 "$dir/proto/protovalidate/buf/validate/validate.proto" .cache/protovalidate/buf/validate/
