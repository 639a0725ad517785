#!/bin/sh
# sentinel.sh: start a Sentinel with what it knew when it ended. Its file is written from scratch each time, but for its state: a Sentinel
# itself writes passwords without quotes, and reads them no more.
set -eu
# shellcheck source=kubefiles/redis-ha/scripts/common.sh
. /scripts/common.sh
file=/data/sentinel.conf
exec 9> /data/lock
flock 9
primary=$(address REDIS_0)
state="sentinel monitor primary $primary $port 2"
if [ -f $file ]; then
  saved=$(sed -n 's/^sentinel monitor primary \([^ ]*\) .*/\1/p' $file)
  # Not what a claim of another cluster says.
  if [ -n "$saved" ] && is_redis "$saved"; then
    primary=$saved
    state=$(grep -E '^sentinel (myid|monitor|current-epoch|config-epoch|leader-epoch|known-sentinel) ' $file)
  fi
fi
# All replicas from the start: one that a Sentinel has not heard of yet would go on following a primary that was replaced.
replicas=
for each in 0 1 2; do
  address=$(address "REDIS_$each")
  [ "$address" = "$primary" ] || replicas="${replicas}sentinel known-replica primary $address $port
"
done
cat > $file.new <<END
port $sentinel_port
dir /data
protected-mode no
requirepass $(quoted_password)
$state
${replicas}sentinel announce-ip $(address "REDIS_SENTINEL_$number")
sentinel announce-port $sentinel_port
sentinel auth-pass primary $(quoted_password)
sentinel down-after-milliseconds primary 6000
sentinel failover-timeout primary 20000
sentinel parallel-syncs primary 1
END
mv $file.new $file
exec redis-server $file --sentinel
