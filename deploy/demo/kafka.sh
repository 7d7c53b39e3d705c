#!/usr/bin/env bash
# Shows how an organisation runs mcpaudit: MCP servers that publish their events to a
# Kafka topic, two instances that share the topic and one store, and one of the two
# killed in the middle of it. At the end every event is stored, once, and proven.
#
# Three brokers of Apache Kafka and a ClickHouse engine run on this machine meanwhile;
# everything is removed at the end. It ends with an error when an event is lost or
# doubled, so it is a test as well.
set -euo pipefail
cd "$(dirname "$0")/../.."
deploy/dev/setup.sh
kafka=deploy/dev/kafka.sh
$kafka ready || { echo "demo: there is no Kafka here and none could be installed; see the lines above" >&2; exit 1; }

mcpaudit=$PWD/bin/mcpaudit
python=$PWD/.cache/python/bin/python
work=$(mktemp -d)
work=$(cd "$work" && pwd -P)
started=()
ours=no
finish() {
  for p in "${started[@]}"; do kill "$p" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ $ours = no ] || $kafka down
  rm -rf "$work"
}
trap finish EXIT

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
  printf '\ndemo: %s\n' "$*" >&2
  tail -n 15 "$work"/*.log >&2
  exit 1
}
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
  local tries=$(($1 * 5)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((tries-- > 0)) || fail "never happened: $what"
    sleep 0.2
  done
}

title "1. Three Kafka brokers, a topic, and a ClickHouse engine that several processes share"
if [[ $($kafka status 2>&1) == *running,\ at* ]]; then echo "brokers run already"; else ours=yes; $kafka up 3; fi
brokers=$($kafka status 2>&1 | sed 's/.*at //')
topic=mcpaudit-demo-$$
for t in $topic $topic-dead-letter; do
  $kafka run topics --create --topic $t --partitions 4 --replication-factor "$(tr ',' '\n' <<<"$brokers" | wc -l)" 2>/dev/null
done
engine=127.0.0.1:$(free_port)
"$mcpaudit" engine serve --path "$work/data" --listen "$engine" >"$work/engine.log" 2>&1 &
started+=($!)
await 60 "the engine answers" grep -q store.dsn "$work/engine.log"
dsn="http://default:$(cat "$work/data.password")@$engine/default"

"$mcpaudit" access bootstrap --store.dsn "$dsn" --out "$work/admin.key" 2>/dev/null

title "2. Two instances of mcpaudit in one consumer group, each with a log of its own"
declare -A grpc
# instance NAME: starts it, and waits until it reads some of the partitions.
instance() {
  grpc[$1]=127.0.0.1:$(free_port)
  echo "\$ mcpaudit serve --ingest.shared --ledger.log $1 --kafka.brokers $brokers --kafka.topic $topic --store.dsn http://…"
  MCPAUDIT_STORE_DSN=$dsn "$mcpaudit" serve --ingest.shared --ledger.log "$1" --ledger.path "$work/$1" --roles ingest,query \
    --kafka.brokers "$brokers" --kafka.topic "$topic" --kafka.session_timeout 6s \
    --listen.grpc "${grpc[$1]}" --listen.http "127.0.0.1:$(free_port)" 2>>"$work/$1.log" &
  started+=($!)
  pids[$1]=$!
  disown # its end is no news to the shell
}
declare -A pids
reads() { tail -n +"$2" "$work/$1.log" | grep -q "partitions are assigned.* partitions=[1-9]"; }
instance one
await 60 "instance one reads" reads one 1
instance two
await 60 "instance two reads" reads two 1
grep -h "partitions are assigned" "$work/one.log" "$work/two.log" | tail -n 2 | sed 's/^/  /'

title "3. Six agents call tools of wrapped servers, whose events go to the topic"
agents=6 calls=400
echo "\$ mcpaudit wrap --service kafka://$brokers/$topic -- python notes_server.py"
"$python" deploy/demo/many_calls.py $agents $calls "$mcpaudit" wrap --service "kafka://$brokers/$topic" --server "notes-{}" \
  --spool "$work/spool" --key-file "$work/redact.key" --flush 60s -- "$python" "$PWD/deploy/demo/notes_server.py" >"$work/agents.out" 2>"$work/agents.log" &
agents_pid=$!
ask() { curl -s -u "default:$(cat "$work/data.password")" "http://$engine" -d "$1"; }
count() { ask "SELECT count() FROM events WHERE method = 'tools/call'"; }
some() { [ "$(count)" -gt 300 ]; }
await 120 "some hundreds of calls are stored" some

title "4. Instance one is killed (kill -9), in the middle of it"
kill -9 "${pids[one]}"
echo "stored by now: $(count) calls"
lines=$(wc -l <"$work/two.log")
await 90 "instance two takes over" reads two $((lines + 1))
grep "partitions are assigned" "$work/two.log" | tail -n 1 | sed 's/^/  /'
wait $agents_pid || fail "the agents' calls were disturbed"
cat "$work/agents.out"
all() { [ "$(count)" -ge $((agents * calls)) ]; }
await 120 "all calls are stored" all

title "5. It comes back, seals what it had stored last, and takes its share again"
instance one
await 90 "instance one reads again" reads one $(($(wc -l <"$work/one.log") + 1))

title "6. Nothing is lost, nothing is doubled, and both logs are proven"
rows=$(ask "SELECT count(), uniqExact(emitter_id, emitter_seq), uniqExact(log_id) FROM events WHERE method = 'tools/call'")
echo "calls made, rows, different events, logs: $((agents * calls)) $rows"
[ "$rows" = "$((agents * calls))	$((agents * calls))	2" ] || fail "that is not every call once, in two logs"
echo "\$ mcpaudit verify"
sleep 1
export MCPAUDIT_SERVICE=${grpc[two]}
MCPAUDIT_API_KEY_FILE=$work/admin.key "$mcpaudit" access create auditor --role auditor --tenant '*' --out "$work/auditor.key"
MCPAUDIT_API_KEY_FILE=$work/auditor.key "$mcpaudit" verify || fail "the logs are not proven"
$kafka run topics --delete --topic $topic 2>/dev/null || true
$kafka run topics --delete --topic $topic-dead-letter 2>/dev/null || true
