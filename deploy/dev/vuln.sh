#!/usr/bin/env bash
# Scans the module with govulncheck: which known vulnerabilities are in code that the
# module calls. Run by `make vuln`, which builds the scanner that versions.env pins.
#
#   GOVULNDB=URL           another database than https://vuln.go.dev: a mirror, or a folder
#                          as file:///path (layout: https://go.dev/doc/security/vuln/database)
#   MCPAUDIT_VULN=offline  where the default database can't be reached, say so loudly and go
#                          on. A database that is reached, or named, is always used, and what
#                          it finds always fails.
#
# Exits with 3 when called code is vulnerable (govulncheck's own code), with 1 when
# nothing could be scanned.
set -euo pipefail
cd "$(dirname "$0")/../.."
scanner=$1
default=https://vuln.go.dev
db=${GOVULNDB:-$default}
case "${MCPAUDIT_VULN:-}" in
  "" | offline) ;;
  *) echo "vuln: MCPAUDIT_VULN is \"$MCPAUDIT_VULN\"; use offline, or leave it unset" >&2; exit 1 ;;
esac
# The scanner says when the database was last changed, if it can reach it, whatever it
# exits with.
about=$(timeout 60 "$scanner" -db "$db" -version 2>&1) || true
if ! grep -q '^DB updated: ' <<<"$about"; then
  cat >&2 <<EOF
vuln: NOT SCANNED: no database of vulnerabilities could be reached at $db
$(sed 's/^/vuln:   /' <<<"$about")
vuln: give it one with GOVULNDB: the URL of a mirror, or file:///path of a copy
EOF
  # A database that somebody named and that isn't there is a mistake, not a fact of the place.
  if [ "$db" = "$default" ] && [ "${MCPAUDIT_VULN:-}" = offline ]; then
    echo "vuln: MCPAUDIT_VULN=offline: going on WITHOUT A SCAN. This says nothing about vulnerabilities." >&2
    exit
  fi
  echo "vuln: or go on without a scan, where that can't be helped, with MCPAUDIT_VULN=offline" >&2
  exit 1
fi
sed 's/^/vuln: /' <<<"$about"
timeout 600 "$scanner" -db "$db" ./...
