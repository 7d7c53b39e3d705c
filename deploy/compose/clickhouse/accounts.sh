#!/bin/bash
# Makes mcpaudit's accounts at each start of ClickHouse, where they are not there yet: those of users.sql and
# grafana.sql as they are on a single server, with the passwords of secrets/.
set -euo pipefail
single() { sed -e '/-- cluster/d' -e 's/ ON CLUSTER audit//' "$1"; }
password() { # ACCOUNT FILE: hexadecimal digits, so that there is nothing to quote
  echo "ALTER USER $1 IDENTIFIED WITH sha256_password BY '$(tr -cd 0-9a-f <"$2")';"
}
{
  single /etc/mcpaudit/users.sql
  # One machine, one service: it makes its tables itself, and drops what has expired.
  echo 'GRANT mcpaudit_schema, mcpaudit_retention TO mcpaudit_writer;'
  single /etc/mcpaudit/grafana.sql
  password mcpaudit_writer /run/secrets/clickhouse_writer
  password mcpaudit_grafana /run/secrets/clickhouse_grafana
  echo 'DROP USER IF EXISTS mcpaudit_reader;' # it has a password that everybody knows, and nobody needs it here
} | clickhouse-client --multiquery
