#!/usr/bin/env bash
# Apache Kafka (KRaft: no ZooKeeper) for developers and tests: one or more brokers on
# this machine, on loopback, with no authentication. Not for production.
#
#   deploy/dev/kafka.sh install        the jars, from Maven Central, into .cache/kafka
#   deploy/dev/kafka.sh ready          says by its exit code whether that is done
#   deploy/dev/kafka.sh up [BROKERS]   start them (default 1), and say where they listen
#   deploy/dev/kafka.sh status
#   deploy/dev/kafka.sh down           stop them and remove their data
#   deploy/dev/kafka.sh run COMMAND …  one of Kafka's own commands (topics, console-consumer,
#                                      consumer-groups, …) on these brokers, for example
#                                      run topics --create --topic events --partitions 6
#   deploy/dev/kafka.sh pin            write the list of jars anew, after a change of
#                                      KAFKA_VERSION in versions.env or of kafka/pom.xml
#
# Go tests start brokers of their own from the same installation (internal/kafkatest).
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/versions.env
source=deploy/dev/kafka
home=$PWD/.cache/kafka/$KAFKA_VERSION
run=$PWD/.cache/kafka/run
# Small and quick to start; nothing here lives long enough for the optimising compiler.
java_flags=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true
  "-Dlog4j2.configurationFile=$home/log4j2.properties")

say() { printf 'kafka: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
class_path() { LC_ALL=C; printf '%s\n' "$home"/libs/*.jar | paste -sd:; }
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# resolve FOLDER: has Maven put the jars there that pom.xml asks for.
resolve() {
  timeout 900 mvn -q -B -Dstyle.color=never -f $source/pom.xml "-Dkafka.version=$KAFKA_VERSION" -DincludeScope=runtime "-DoutputDirectory=$1" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies
}

# stamp changes with whatever an installation is made from, the Java among it: the
# archive of classes is good for one Java only.
stamp() { { cat $source/*.properties $source/jars.sha256; java -version 2>&1; } | sha256sum | cut -c1-64; }

# ready says whether the installation is there and up to date.
ready() { command -v java >/dev/null && [ "$(cat "$home/.stamp" 2>/dev/null)" = "$(stamp)" ]; }

install() {
  ready && return
  command -v java >/dev/null || die "java is missing; install it (Debian: apt-get install default-jre-headless) and run this again"
  command -v mvn >/dev/null || die "mvn is missing; install it (Debian: apt-get install maven) and run this again"
  say "installing Apache Kafka $KAFKA_VERSION from Maven Central into .cache/kafka/$KAFKA_VERSION"
  local new=$home.new
  rm -rf "$new" && mkdir -p "$new"
  resolve "$new/libs" || die "Maven could not fetch Kafka $KAFKA_VERSION; see above"
  (cd "$new/libs" && LC_ALL=C sha256sum -- *.jar) | diff $source/jars.sha256 - >&2 ||
    die "what Maven fetched is not what $source/jars.sha256 lists; nothing was installed"
  cp $source/*.properties "$new/"
  rm -rf "$home" && mv "$new" "$home"
  warm_up
  stamp >"$home/.stamp"
}

# warm_up makes what each broker would otherwise make again at its start: the features
# of a new cluster (bootstrap.checkpoint), and an archive of the classes that a broker
# loads (kafka.jsa), which halves the time that its start takes.
warm_up() {
  local dir
  dir=$(mktemp -d)
  configure "$dir" 0 1 29092 29093 "0@127.0.0.1:29093"
  java "${java_flags[@]}" -cp "$(class_path)" kafka.tools.StorageTool format -t "$(new_id)" -c "$dir/broker.properties" >/dev/null
  if ! listening 29092 && ! listening 29093; then
    launch "$dir" "-XX:ArchiveClassesAtExit=$home/kafka.jsa"
    if await_start "$dir" 60; then
      java "${java_flags[@]}" -cp "$(class_path)" org.apache.kafka.tools.TopicCommand \
        --bootstrap-server 127.0.0.1:29092 --create --topic warm --partitions 1 >/dev/null || true
    fi
    stop "$dir"
  fi
  [ -f "$home/kafka.jsa" ] || say "no archive of classes was made; brokers will start a little slower"
  # Last: whoever looks for an installation looks for this file.
  cp "$dir/data/bootstrap.checkpoint" "$home/"
  rm -rf "$dir"
}

# new_id makes an id of Kafka's: 16 random bytes in base64url, without padding.
new_id() { head -c16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-22; }

# configure FOLDER NODE NODES PORT CONTROLLER_PORT VOTERS: writes one broker's folder.
configure() {
  local dir=$1 replicas=$(($3 < 3 ? $3 : 3))
  mkdir -p "$dir/data" "$dir/tmp"
  {
    cat $source/broker.properties
    cat <<EOF
node.id=$2
controller.quorum.voters=$6
listeners=PLAINTEXT://127.0.0.1:$4,CONTROLLER://127.0.0.1:$5
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
default.replication.factor=$replicas
offsets.topic.replication.factor=$replicas
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$((replicas < 2 ? 1 : 2))
min.insync.replicas=$((replicas < 3 ? 1 : 2))
EOF
  } >"$dir/broker.properties"
}

# launch FOLDER FLAG…: starts its broker in the background, in a session of its own.
launch() {
  local dir=$1
  shift
  : >"$dir/broker.log"
  setsid java -Xms128m -Xmx512m "${java_flags[@]}" "$@" "-Djava.io.tmpdir=$dir/tmp" -cp "$(class_path)" \
    kafka.Kafka "$dir/broker.properties" >>"$dir/broker.log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
}

# running FOLDER: its process, when that still is one of ours.
running() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) && grep -qa "$1/broker.properties" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# await_start FOLDER SECONDS: until its broker says that it has started.
await_start() {
  local tries=$(($2 * 10))
  until grep -q "Kafka Server started" "$1/broker.log"; do
    running "$1" >/dev/null || { tail -n 20 "$1/broker.log" >&2; return 1; }
    ((tries-- > 0)) || { say "a broker did not start within $2 seconds; see $1/broker.log"; return 1; }
    sleep 0.1
  done
}

# stop FOLDER: ends its broker, in order when it can be had within 20 seconds.
stop() {
  local pid tries=200
  pid=$(running "$1") || return 0
  kill "$pid" 2>/dev/null || return 0
  while running "$1" >/dev/null; do
    ((tries-- > 0)) || { kill -9 "$pid" 2>/dev/null || true; return 0; }
    sleep 0.1
  done
}

# addresses of the brokers that run, with commas.
addresses() {
  local dir
  for dir in "$run"/*/; do
    dir=${dir%/}
    if running "$dir" >/dev/null; then
      sed -n 's|^listeners=PLAINTEXT://\([^,]*\),.*|\1|p' "$dir/broker.properties"
    fi
  done | paste -sd,
}

up() {
  local nodes=${1:-1} port=9092 i ports=() voters="" at cluster
  [[ $nodes =~ ^[1-9]$ ]] || die "$nodes is no number of brokers; use 1 to 9"
  install
  at=$(addresses)
  if [ -n "$at" ]; then
    [ "$(tr ',' '\n' <<<"$at" | wc -l)" = "$nodes" ] || die "another number of brokers runs, at $at; stop them first (make kafka-down)"
    say "$nodes already running, at $at"
    return
  fi
  rm -rf "$run"
  while [ ${#ports[@]} -lt $((2 * nodes)) ]; do
    listening $port || ports+=($port)
    port=$((port + 1))
  done
  for ((i = 0; i < nodes; i++)); do
    voters+=${voters:+,}$i@127.0.0.1:${ports[nodes + i]}
  done
  cluster=$(new_id)
  for ((i = 0; i < nodes; i++)); do
    configure "$run/$i" $i "$nodes" "${ports[i]}" "${ports[nodes + i]}" "$voters"
    # What a format writes: which cluster and which folder, and the cluster's features.
    printf 'version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n' "$cluster" "$i" "$(new_id)" >"$run/$i/data/meta.properties"
    cp "$home/bootstrap.checkpoint" "$run/$i/data/"
    launch "$run/$i" "-XX:SharedArchiveFile=$home/kafka.jsa" -Xlog:disable -Xlog:all=error:stderr
  done
  for ((i = 0; i < nodes; i++)); do
    await_start "$run/$i" 120 || { down; exit 1; }
  done
  say "$nodes running, at $(addresses); their logs and data are in .cache/kafka/run; make kafka-down ends them"
}

down() {
  local dir
  [ -d "$run" ] || { say "none running"; return; }
  for dir in "$run"/*/; do stop "${dir%/}" & done
  wait
  rm -rf "$run"
  say "stopped, and their data removed"
}

# run_command NAME ARGUMENT…: as Kafka's bin/kafka-NAME.sh does.
run_command() {
  local at class
  case "${1:-}" in
    topics) class=org.apache.kafka.tools.TopicCommand ;;
    console-producer) class=org.apache.kafka.tools.ConsoleProducer ;;
    console-consumer) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
    consumer-groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    get-offsets) class=org.apache.kafka.tools.GetOffsetShell ;;
    leader-election) class=org.apache.kafka.tools.LeaderElectionCommand ;;
    *) die "there is no command ${1:-}; use topics, console-producer, console-consumer, consumer-groups, get-offsets or leader-election" ;;
  esac
  shift
  at=$(addresses)
  [ -n "$at" ] || die "no broker runs (make kafka-up)"
  exec java "${java_flags[@]}" -cp "$(class_path)" $class --bootstrap-server "$at" "$@"
}

pin() {
  local dir
  dir=$(mktemp -d)
  resolve "$dir/libs"
  (cd "$dir/libs" && LC_ALL=C sha256sum -- *.jar) >$source/jars.sha256
  rm -rf "$dir"
  say "$source/jars.sha256 lists $(wc -l <$source/jars.sha256) jars of Kafka $KAFKA_VERSION; look at what changed before you commit it"
}

case "${1:-}" in
  install | ready | down | pin) "$1" ;;
  up) up "${2:-1}" ;;
  status) at=$(addresses); if [ -n "$at" ]; then say "running, at $at"; else say "none running"; fi ;;
  run) shift; run_command "$@" ;;
  *) say "use install, ready, up [BROKERS], status, down, run COMMAND … or pin"; exit 2 ;;
esac
