#!/bin/sh
# handover.sh: before the pod of the primary ends in an orderly way, another one takes over. Writes pause until the replicas have all of them.
# When that cannot be, the pod ends all the same, and the Sentinels find out.
set -eu
# shellcheck source=kubefiles/redis-ha/scripts/common.sh
. /scripts/common.sh

replication() { # replication PATTERN: a line of INFO replication matches.
  ask 127.0.0.1 $port INFO replication | grep -qE "$1"
}

in_step() { # A replica is connected, and all that are have what the primary has.
  ask 127.0.0.1 $port INFO replication | awk -F '[:,=]' '
    /^slave[0-9]+:/ { for (word = 2; word < NF; word++) if ($word == "offset") { offsets[$(word + 1)]; count++ } }
    /^master_repl_offset:/ { offset = $2 }
    END { for (each in offsets) if (each != offset) exit 1; exit count == 0 }'
}

own=$(address "REDIS_$number")
replication '^role:master$' || exit 0
ask 127.0.0.1 $port CLIENT PAUSE 20000 WRITE
tries=0
until in_step || [ $tries -ge 30 ]; do tries=$((tries + 1)); sleep 0.2; done
if in_step; then
  for each in 0 1 2; do
    if [ "$(ask "$(address "REDIS_SENTINEL_$each")" $sentinel_port SENTINEL FAILOVER primary)" = OK ]; then
      # The pause stays: what a client wrote here from now on would be lost.
      tries=0
      until [ "$(primary)" != "$own" ] || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.2; done
      exit 0
    fi
  done
fi
ask 127.0.0.1 $port CLIENT UNPAUSE
