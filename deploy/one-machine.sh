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

# Whether a part runs under this name: its process may have ended by itself, or with the machine.
runs() {
  [ -s "pids/$1" ] && kill -0 "$(cat "pids/$1")" 2> /dev/null || return 1
  # One that has ended, and that nobody has asked how.
  case $(ps -o stat= -p "$(cat "pids/$1")" 2> /dev/null) in Z*) return 1 ;; esac
}

signal() {
  if ! runs "$2"; then
    echo "one-machine.sh: $2 does not run; these have been started: $(ls pids | tr '\n' ' ')" >&2
    exit 1
  fi
  kill "$1" "$(cat "pids/$2")"
}

[ $# -ge 2 ] || usage
what=$1
shift
mkdir -p logs pids
for name; do
  case $what in
    start)
      command=$(command_of "$name")
      if runs "$name"; then
        echo "one-machine.sh: $name runs already, as process $(cat "pids/$name"): stop it first (or remove pids/$name, if that is another program)" >&2
        exit 1
      fi
      case $name in nats-*) set -a && . secrets/nats.env && set +a ;; esac
      # shellcheck disable=SC2086
      nohup $command >> "logs/$name.log" 2>&1 < /dev/null &
      echo $! > "pids/$name"
      ;;
    stop) signal -TERM "$name" ;;
    kill) signal -KILL "$name" ;;
    *) usage ;;
  esac
done
