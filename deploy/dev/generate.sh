#!/usr/bin/env bash
# Makes the Go code of proto/ anew. Reproducible: buf comes from the npm lock
# file, the plugins from go.mod, protovalidate's rules from a pinned Go module.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/versions.env
deploy/dev/setup.sh npm
dir=$(go mod download -json "github.com/bufbuild/protovalidate@$PROTOVALIDATE_VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
mkdir -p .cache/protovalidate/buf/validate
install -m 644 "$dir/proto/protovalidate/buf/validate/validate.proto" .cache/protovalidate/buf/validate/
buf=deploy/dev/npm/node_modules/.bin/buf
"$buf" lint proto
"$buf" generate --path proto/mcpaudit "$@"
