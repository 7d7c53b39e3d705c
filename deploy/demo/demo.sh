#!/usr/bin/env bash
# Shows mcpaudit at work: a service on the engine in process, three MCP servers
# in two languages behind `mcpaudit wrap` and one in Go that audits itself, the MCP
# Inspector as their client, and the events that come back out of the store.
#
# Then a client that misbehaves, and what the detectors find.
#
# Everything lives in a temporary folder that is removed at the end. It ends with
# an error when an event or a finding is missing or a secret is found in the store,
# so it is a test as well.
set -euo pipefail
cd "$(dirname "$0")/../.."
deploy/dev/setup.sh

mcpaudit=$PWD/bin/mcpaudit
modules=$PWD/deploy/dev/npm/node_modules
python=$PWD/.cache/python/bin/python
work=$(mktemp -d)
work=$(cd "$work" && pwd -P)
service=
alertmanager=
finish() {
  for p in $service $alertmanager; do
    kill "$p" 2>/dev/null || true
    wait "$p" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap finish EXIT

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
  printf '\ndemo: %s\n' "$*" >&2
  tail -n 20 "$work/service.log" >&2
  exit 1
}
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

title "1. A service, with the ClickHouse engine in process"
export MCPAUDIT_SERVICE=127.0.0.1:$(free_port)
health=127.0.0.1:$(free_port)
serve() {
  echo "\$ mcpaudit serve --store.path $work/data --listen.grpc $MCPAUDIT_SERVICE --listen.http $health $*"
  "$mcpaudit" serve --store.path "$work/data" --listen.grpc "$MCPAUDIT_SERVICE" --listen.http "$health" "$@" 2>>"$work/service.log" &
  service=$!
  for _ in $(seq 200); do
    kill -0 "$service" 2>/dev/null || fail "the service ended; its last words:"
    "$python" -c "import urllib.request; urllib.request.urlopen('http://$health/readyz')" 2>/dev/null && break
    sleep 0.1
  done
  echo "ready"
}
serve

title "   and its keys: one of its first start, for everything; with it one for the servers, which only write, and one for people"
# key NAME FLAGS...: makes a key, in a file of its name.
key() {
  local name=$1
  shift
  echo "\$ mcpaudit access create $name $* --out $name.key"
  MCPAUDIT_API_KEY_FILE=$work/data.ledger/first-key "$mcpaudit" access create "$name" "$@" --out "$work/$name.key" >/dev/null
}
[ "$(stat -c %a "$work/data.ledger/first-key")" = 600 ] || fail "others can read the first key"
! grep -q mcpa_ "$work/service.log" || fail "a key is in the service's log"
key servers --role emitter --server files,everything,notes,library
key ada --role auditor --role exporter --tenant '*' --lifetime 30d
key importer --role emitter --lifetime 1d
if MCPAUDIT_API_KEY_FILE=$work/servers.key "$mcpaudit" events list 2>"$work/refused"; then fail "a server's key reads the log"; fi
if "$mcpaudit" events list 2>>"$work/refused"; then fail "the log is read without a key"; fi
sed 's/^/  /' "$work/refused"
export MCPAUDIT_API_KEY_FILE=$work/ada.key
echo "\$ mcpaudit access whoami"
"$mcpaudit" access whoami

title "2. Three MCP servers behind one wrapped command each, and one in Go with one line of code"
mkdir -p "$work/project"
echo "quarterly numbers" >"$work/project/report.txt"
# A token of GitHub's form that was never anyone's.
secret=ghp_$("$python" -c 'import random; print("".join(random.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz23456789", k=36)))')

# client SERVER COMMAND...: one MCP client session. MCP clients pass a server only
# the common part of their environment: what wrap has to know is given as flags,
# what a server has to know with -e.
client() {
  local name=$1
  shift
  "$modules/.bin/mcp-inspector" --cli "$@" >"$work/answer" 2>"$work/errors" ||
    grep -q isError "$work/answer" || { cat "$work/answer" "$work/errors" >&2; fail "the client could not call $name"; }
}
# call SERVER COMMAND... -- INSPECTOR ARGUMENTS...: the same, with wrap in front.
call() {
  local name=$1 command=()
  shift
  while [ "$1" != -- ]; do command+=("$1"); shift; done
  shift
  echo "  $name  $*" | sed "s#$work#…#g"
  client "$name" "$mcpaudit" wrap --service "$MCPAUDIT_SERVICE" --api-key-file "$work/servers.key" --server "$name" \
    --spool "$work/spool" --key-file "$work/redact.key" -- "${command[@]}" "$@"
}
library() {
  echo "  library  $*"
  client library -e "MCPAUDIT_SERVICE=$MCPAUDIT_SERVICE" -e "MCPAUDIT_API_KEY_FILE=$work/servers.key" -e "MCPAUDIT_REDACT_KEY_FILE=$work/redact.key" -e "XDG_STATE_HOME=$work/state" \
    "$PWD/bin/library" "$@"
}
files() { call files node "$modules/@modelcontextprotocol/server-filesystem/dist/index.js" "$work/project" -- "$@"; }
everything() { call everything node "$modules/@modelcontextprotocol/server-everything/dist/index.js" stdio -- "$@"; }
notes() { call notes "$python" "$PWD/deploy/demo/notes_server.py" -- "$@"; }

files --method tools/list
files --method tools/call --tool-name read_text_file --tool-arg "path=$work/project/report.txt"
files --method tools/call --tool-name read_text_file --tool-arg path=/etc/passwd
files --method tools/call --tool-name read_text_file --tool-arg "path=$work/project/missing.txt"
everything --method tools/call --tool-name echo --tool-arg "message=hello"
everything --method tools/call --tool-name get-sum --tool-arg a=2 --tool-arg b=3
everything --method prompts/get --prompt-name simple-prompt
notes --method tools/call --tool-name save_note --tool-arg title=deploy --tool-arg "text=the token is $secret, write to ada@example.com"
notes --method tools/call --tool-name read_note --tool-arg title=lost
library --method tools/call --tool-name find_books --tool-arg words=cities
library --method tools/call --tool-name lend_book --tool-arg "book=Solaris" --tool-arg "reader=ada@example.com"

title "3. What the store has"
filter='method = "tools/call" OR method = "prompts/get"'
echo "\$ mcpaudit events list '$filter'"
"$mcpaudit" events list "$filter"
"$mcpaudit" events list --json --limit 1000 >"$work/events.jsonl"
echo "($(wc -l <"$work/events.jsonl") events in all, with sessions, tool lists and notifications: mcpaudit events list)"

title "4. One event: the planted token and the address never left the MCP server"
id=$("$python" -c 'import json,sys
print(next(e["event_id"] for e in map(json.loads, open(sys.argv[1])) if e["method"] == "tools/call" and e["target"] == "save_note"))' "$work/events.jsonl")
echo "\$ mcpaudit events get $id"
"$mcpaudit" events get "$id"

"$python" - "$work/events.jsonl" "$secret" <<'CHECK' || fail "the events are not what was called; see above"
import json, sys
text = open(sys.argv[1]).read()
events = [json.loads(line) for line in text.splitlines()]
assert sys.argv[2] not in text, "the planted token is in the store"
assert "ada@example.com" not in text, "the planted address is in the store"
got = {(e["server"], e.get("target"), e["outcome"]) for e in events if e["kind"] in ("tool_call", "prompt_get")}
for want in [
    ("files", "read_text_file", "success"), ("files", "read_text_file", "denied"), ("files", "read_text_file", "tool_error"),
    ("everything", "echo", "success"), ("everything", "get-sum", "success"), ("everything", "simple-prompt", "success"),
    ("notes", "save_note", "success"), ("notes", "read_note", "tool_error"),
    ("library", "find_books", "success"), ("library", "lend_book", "success"),
]:
    assert want in got, f"no event says {want}; there are {sorted(got)}"
CHECK
title "5. Proof: the store is what was sealed, and an export proves itself without a service"
proofs=$(find "$work/spool" -name receipts.txt | sort | head -1)
echo "\$ mcpaudit verify --key verifier-keys.txt --receipt spool/…/receipts.txt"
"$mcpaudit" verify --key "$work/data.ledger/verifier-keys.txt" --receipt "$proofs" || fail "the store does not verify"
echo "\$ mcpaudit export --bundle evidence --reason 'case 17' 'outcome = \"denied\"'"
"$mcpaudit" export --bundle "$work/evidence" --reason 'case 17' 'outcome = "denied"'
kill "$service" && wait "$service"
service=
echo "\$ mcpaudit verify evidence --key verifier-keys.txt     # the service has stopped"
"$mcpaudit" verify "$work/evidence" --key "$work/data.ledger/verifier-keys.txt" || fail "the bundle does not verify"
sed -i 's/"outcome":"denied"/"outcome":"success"/' "$work/evidence/events-00001.jsonl"
echo "\$ sed -i s/denied/success/ evidence/events-00001.jsonl && mcpaudit verify evidence --key verifier-keys.txt"
if "$mcpaudit" verify "$work/evidence" --key "$work/data.ledger/verifier-keys.txt"; then
  fail "a bundle that was changed verifies"
fi
# What waits for a service that is away holds no secret either.
notes --method tools/call --tool-name save_note --tool-arg title=later --tool-arg "text=the token is $secret"
grep -rqF "REDACTED:secret" "$work/spool" || fail "the event of a call while the service was away is not in the spool"
if grep -rqF "$secret" "$work/data" "$work/spool" "$work/state"; then
  fail "the planted token is in a file of the store or of a spool"
fi

title "6. A client that misbehaves, what is found, and who is told"
alerts=127.0.0.1:$(free_port)
mkdir "$work/alertmanager"
cp deploy/compose/alertmanager.yml "$work/alertmanager/alertmanager.yml"
echo "\$ prometheus-alertmanager --web.listen-address=$alerts"
prometheus-alertmanager --config.file="$work/alertmanager/alertmanager.yml" --storage.path="$work/alertmanager" \
  --web.listen-address="$alerts" --cluster.listen-address= 2>"$work/alertmanager.log" &
alertmanager=$!
# active RULE: its alerts in Alertmanager that fire, one a line.
active() { amtool --alertmanager.url="http://$alerts" alert query --active alertname="$1" principal=user:ada --output=extended 2>/dev/null | grep "$1"; }
cat >"$work/notify.yaml" <<NOTIFY
receivers: [{name: oncall, alertmanager: {url: "http://$alerts"}}]
routes: [{receiver: oncall, severity: low}]
NOTIFY
cat >"$work/rules.yaml" <<RULES
rules: [{name: agent-loop, resolve_after: 20s}] # a demo has less patience than people on call
RULES
sed 's/^/  /' "$work/notify.yaml"
echo "Eight weeks of ordinary work come first: user:ada, twenty calls a day, never at this hour."
"$python" deploy/demo/ordinary_weeks.py >"$work/weeks.jsonl"
serve --notify.file "$work/notify.yaml" --detect.rules "$work/rules.yaml"
echo "\$ mcpaudit notify test"
MCPAUDIT_API_KEY_FILE=$work/data.ledger/first-key "$mcpaudit" notify test || fail "Alertmanager does not take a sample"
"$mcpaudit" import "$work/weeks.jsonl" --api-key-file "$work/importer.key" 2>&1 | tail -n 1
for part in $(seq 0 399); do echo "part $part" >"$work/project/part-$part.txt"; done
# misbehave DEED: one client session in which user:ada does what is not usual.
misbehave() {
  echo "  files  as user:ada: $1"
  "$python" "$PWD/deploy/demo/misbehave.py" "$1" "$mcpaudit" wrap --quiet --service "$MCPAUDIT_SERVICE" --api-key-file "$work/servers.key" --server files --principal user:ada \
    --spool "$work/spool" --key-file "$work/redact.key" -- node "$modules/@modelcontextprotocol/server-filesystem/dist/index.js" "$work/project" >"$work/answer" 2>&1 ||
    { cat "$work/answer" >&2; fail "the client could not misbehave"; }
}
misbehave loop
for _ in $(seq 150); do active agent-loop >"$work/active" && break; sleep 0.1; done
[ -s "$work/active" ] || { cat "$work/alertmanager.log" >&2; fail "Alertmanager has no alert of the loop"; }
echo "\$ amtool alert query --active alertname=agent-loop principal=user:ada --output=extended"
cat "$work/active"
misbehave burst
misbehave denied
found() { "$mcpaudit" findings list --json 'principal = "user:ada"' >"$work/findings.jsonl" && grep -q "\"rule\":\"$1\"" "$work/findings.jsonl"; }
for rule in agent-loop call-spike scope-violation off-hours; do
  for _ in $(seq 100); do found "$rule" && break; sleep 0.1; done
  found "$rule" || { cat "$work/findings.jsonl" >&2; fail "no finding of rule $rule"; }
done
echo "\$ mcpaudit findings list"
"$mcpaudit" findings list
id=$("$python" -c 'import json,sys
print(next(f["finding_id"] for f in map(json.loads, open(sys.argv[1])) if f["rule"] == "agent-loop"))' "$work/findings.jsonl")
echo "\$ mcpaudit findings show $id"
"$mcpaudit" findings show "$id"
echo "\$ mcpaudit findings close $id --as true-positive --note 'stopped the agent'"
"$mcpaudit" findings close "$id" --as true-positive --note 'stopped the agent'

title "7. The watchers are watched: who looked at this log, and for what"
echo "\$ mcpaudit events list 'kind = \"admin\" AND principal_name = \"ada\"' --limit 6"
"$mcpaudit" events list 'kind = "admin" AND principal_name = "ada"' --limit 6
"$mcpaudit" events list 'kind = "auth" AND outcome = "denied"' --json >"$work/refused.jsonl"
grep -q '"decision_reason":"no_credential"' "$work/refused.jsonl" || fail "the call without a key left no trace"
grep -q '"decision_reason":"forbidden"' "$work/refused.jsonl" || fail "the call with a server's key left no trace"

title "8. The loop is over for a while: its alert ends by itself"
for _ in $(seq 600); do active agent-loop >/dev/null || break; sleep 0.1; done
! active agent-loop || fail "the alert of the loop is active still"
"$mcpaudit" notify list --json >"$work/told.jsonl"
grep '"rule":"agent-loop"' "$work/told.jsonl" | grep -q '"what":"resolved"' || { cat "$work/told.jsonl" >&2; fail "nobody was told that the loop is over"; }
echo "\$ mcpaudit notify list"
"$mcpaudit" notify list

title "Every call is there, the denied one and the failed ones are told apart, no secret was kept, what was not usual was found."
