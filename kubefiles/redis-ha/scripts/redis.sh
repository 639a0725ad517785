#!/bin/sh
# redis.sh: start Redis in the role that the Sentinels give it.
set -eu
# shellcheck source=kubefiles/redis-ha/scripts/common.sh
. /scripts/common.sh
own=$(address "REDIS_$number")

others_are_empty() { # Both answer, and have no key.
  for other in 0 1 2; do
    [ "$other" != "$number" ] || continue
    [ "$(ask "$(address "REDIS_$other")" $port INFO keyspace | head -n 2 | tr -d '\n')" = '# Keyspace' ] || return 1
  done
}

# A pod that was deleted by force may still run: two of them must not write the same files.
exec 9> /data/lock
flock 9
said=
while :; do
  if ! primary=$(primary) || ! is_redis "$primary"; then
    why='no two Sentinels agree on a primary'
  elif [ "$primary" = "$own" ] && [ ! -e /data/appendonlydir ] && ! others_are_empty; then
    # Replicas would throw away what they have and this one has lost. The Sentinels will choose one of them.
    why='this is the primary, but its claim is empty, and the others have data or do not answer'
  else
    break
  fi
  [ "$why" = "$said" ] || echo "waiting: $why"
  said=$why
  sleep 1
done

# Rewritten by Redis when a Sentinel changes its role, and by this script at each start. In memory: it holds the password.
cat > /run/redis/redis.conf <<END
port $port
dir /data
protected-mode no
requirepass $(quoted_password)
masterauth $(quoted_password)
replica-announce-ip $own
replica-announce-port $port
appendonly yes
appendfsync always
save ""
min-replicas-to-write 1
min-replicas-max-lag 10
repl-diskless-sync-delay 0
repl-backlog-size 16mb
maxmemory $((MEMORY_LIMIT * 6 / 10))
maxmemory-policy noeviction
END
if [ "$primary" = "$own" ]; then
  echo "starting as the primary"
else
  echo "starting as a replica of $primary"
  # It may lack writes that others have, and until it follows the primary no offset says so: it is not to be promoted. probe.sh ends that.
  printf '%s\n' "replicaof $primary $port" "replica-priority 0" >> /run/redis/redis.conf
fi
exec redis-server /run/redis/redis.conf
