#!/bin/sh
# Makes a password for each NATS user of nats/accounts.conf: secrets/USER.password for the roles, and
# secrets/nats.env with all of them for the servers. Those that are there stay.
set -eu
umask 077
mkdir -p secrets
: > secrets/nats.env
for user in operator edge-a edge-b collector aggregator; do
  file="secrets/$user.password"
  # A letter first: NATS reads what begins like a number as one.
  [ -s "$file" ] || printf 'p%s\n' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > "$file"
  name=$(printf '%s' "$user" | tr 'a-z-' 'A-Z_')
  printf 'NATS_%s_PASSWORD=%s\n' "$name" "$(cat "$file")" >> secrets/nats.env
done
