#!/bin/bash
# Makes the first key, once.
set -euo pipefail
[ -s /var/lib/mcpaudit/keys/admin.key ] || exec /keys/with-store.sh access bootstrap --lifetime 365d --out /var/lib/mcpaudit/keys/admin.key
