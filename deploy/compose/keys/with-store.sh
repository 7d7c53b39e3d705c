#!/bin/bash
# Runs mcpaudit with the store's address in its environment: a password is no argument.
set -euo pipefail
MCPAUDIT_STORE_DSN="clickhouse://mcpaudit_writer:$(tr -cd 0-9a-f </run/secrets/clickhouse_writer)@clickhouse:9000/mcpaudit"
export MCPAUDIT_STORE_DSN
exec mcpaudit "$@"
