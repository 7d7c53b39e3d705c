#!/usr/bin/env bash
# Installs what a Debian-like machine lacks to build, test and demonstrate
# mcpaudit, and says what it does. Quick when nothing is missing.
#
#   deploy/dev/setup.sh [all|npm|python|engine|kafka|alerting]     default: all
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf 'setup: %s\n' "$*" >&2; }

# need COMMAND PACKAGE [OPTION]: installs a Debian package when its command is missing.
need() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian package $2 (no $1 found)"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq ${3:+"$3"} "$2" >&2
  else
    say "$1 is missing; install it (Debian: apt-get install $2) and run this again"
    exit 1
  fi
}

npm_packages() {
  local dir=deploy/dev/npm stamp
  need node nodejs
  need npm npm
  stamp=$(sha256sum $dir/package-lock.json | cut -c1-64)
  [ "$(cat $dir/node_modules/.stamp 2>/dev/null)" = "$stamp" ] && return
  say "installing the npm packages of $dir/package-lock.json (MCP servers, MCP Inspector, buf)"
  # install, not ci: buf's lock entries lack the platforms that this registry does
  # not carry, and ci calls that a mismatch. --no-save keeps the lock as it is.
  (cd $dir && npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
  echo "$stamp" >$dir/node_modules/.stamp
}

need_python() {
  need python3 python3
  python3 -c 'import venv, ensurepip' 2>/dev/null || need "python3 -m venv" python3-venv
}

python_packages() {
  local dir=deploy/dev/python venv=.cache/python stamp
  need_python
  stamp=$(sha256sum $dir/requirements.txt | cut -c1-64)
  [ "$(cat $venv/.stamp 2>/dev/null)" = "$stamp" ] && return
  say "installing the Python packages of $dir/requirements.txt into $venv"
  python3 -m venv --clear $venv
  $venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $dir/requirements.txt >&2
  echo "$stamp" >$venv/.stamp
}

engine() {
  go run ./cmd/mcpaudit engine path >/dev/null 2>&1 && return
  go run ./cmd/mcpaudit engine install >&2
}

# kafka in a subshell, so that what it lacks ends it alone.
kafka() (
  deploy/dev/kafka.sh ready && exit
  need java default-jre-headless && need mvn maven && deploy/dev/kafka.sh install
)

# What alerts are tried with. Debian starts both as services where it has an init; tests
# start their own, on other ports.
alerting() {
  need prometheus prometheus --no-install-recommends
  need prometheus-alertmanager prometheus-alertmanager --no-install-recommends
}

need go golang
case "${1:-all}" in
  npm) npm_packages ;;
  python) python_packages ;;
  engine) engine ;;
  kafka) kafka ;;
  alerting) alerting ;;
  all)
    # Debian's packages one after another: apt takes a lock. The rest waits for downloads,
    # so side by side.
    need node nodejs; need npm npm; need_python; alerting
    npm_packages & npm=$!
    python_packages & python=$!
    engine & engine=$!
    kafka || say "Kafka could not be installed (see above): its tests will run against kfake"
    wait $npm && wait $python && wait $engine ;;
  *) say "unknown part $1; use all, npm, python, engine, kafka or alerting"; exit 2 ;;
esac
