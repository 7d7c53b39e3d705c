#!/usr/bin/env bash
# Makes the Go code of proto/ anew; -o DIR puts it elsewhere. Reproducible: buf
# comes from the npm lock file, the plugins from go.mod, protovalidate's rules
# from a pinned Go module.
set -euo pipefail
cd "$(dirname "$0")/../.."
deploy/dev/setup.sh npm
deploy/dev/rules.sh
deploy/dev/npm/node_modules/.bin/buf generate --path proto/mcpaudit "$@"
