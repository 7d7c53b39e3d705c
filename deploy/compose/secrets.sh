#!/bin/sh
# Makes the passwords of compose.yaml, once: what is there stays. Containers of other
# users than yours read them, so their folder is yours alone and they are not.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in clickhouse-writer clickhouse-grafana grafana; do
  file=secrets/$name.password
  [ -s "$file" ] && continue
  head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$file"
  chmod 644 "$file"
  echo "made $file"
done
