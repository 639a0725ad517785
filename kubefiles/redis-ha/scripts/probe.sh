#!/bin/sh
# probe.sh live|ready|sentinel: fail when what runs in this container is not so.
set -eu
# shellcheck source=kubefiles/redis-ha/scripts/common.sh
. /scripts/common.sh
case $1 in
  live)
    # What loads its data, or waits for its primary, lives.
    case $(ask 127.0.0.1 $port PING) in PONG | LOADING* | MASTERDOWN* | BUSY*) ;; *) exit 1 ;; esac ;;
  ready)
    # A replica is ready when it has what the primary has: only then may a drain take the next one.
    ask 127.0.0.1 $port INFO replication | grep -qE '^(role:master|master_link_status:up)$'
    # From now on it may be promoted.
    [ "$(ask 127.0.0.1 $port CONFIG SET replica-priority 100)" = OK ] ;;
  sentinel)
    [ "$(ask 127.0.0.1 $sentinel_port PING)" = PONG ] ;;
esac
