#!/bin/sh
# The whole set on one machine, each part a process: start, stop (in order) or kill -9 by name.
# Names: nats-1 nats-2 nats-3 edge-a edge-b collector-1 collector-2 aggregator-1 aggregator-2
set -eu

usage() {
  echo "usage: sh deploy/one-machine.sh start|stop|kill NAME…" >&2
  exit 2
}

command_of() {
  case $1 in
    nats-*) echo "nats-server -c deploy/nats/node-${1#nats-}.conf" ;;
    edge-*) echo "countersign edge --config deploy/countersign/$1.toml" ;;
    collector-*) echo "countersign collector --config deploy/countersign/$1.toml" ;;
    aggregator-*) echo "countersign aggregator --config deploy/countersign/$1.toml" ;;
    *) usage ;;
  esac
}

[ $# -ge 2 ] || usage
what=$1
shift
mkdir -p logs pids
for name; do
  case $what in
    start)
      command=$(command_of "$name")
      case $name in nats-*) set -a && . secrets/nats.env && set +a ;; esac
      # shellcheck disable=SC2086
      nohup $command >> "logs/$name.log" 2>&1 < /dev/null &
      echo $! > "pids/$name"
      ;;
    stop) kill -TERM "$(cat "pids/$name")" ;;
    kill) kill -KILL "$(cat "pids/$name")" ;;
    *) usage ;;
  esac
done
