#!/bin/bash
# Makes Prometheus' key, once, and lets Prometheus' user read it: nobody else has the volume.
set -euo pipefail
file=/var/lib/mcpaudit/monitor/prometheus.key
export MCPAUDIT_PLAINTEXT_REASON='the network of one docker compose project'
[ -s $file ] || mcpaudit access create prometheus --role monitor --lifetime 365d --out $file \
  --service mcpaudit:4777 --api-key-file /var/lib/mcpaudit/keys/admin.key
chmod 644 $file
