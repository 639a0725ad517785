#!/bin/sh
# zkServer.sh start-foreground: run a server of ZooKeeper with $ZOOCFGDIR/zoo.cfg. Variables are those of the script of that name in ZooKeeper's
# releases, as far as a container needs them: ZK_SERVER_HEAP (megabytes), SERVER_JVMFLAGS, JVMFLAGS.
set -eu
if [ "${1:-}" != start-foreground ]; then
  echo "usage: zkServer.sh start-foreground" >&2
  exit 2
fi
# The flags are words.
# shellcheck disable=SC2086
exec java -cp "$ZOOCFGDIR:/usr/share/java/*" "-Xmx${ZK_SERVER_HEAP:-1000}m" -XX:+ExitOnOutOfMemoryError ${SERVER_JVMFLAGS:-} ${JVMFLAGS:-} \
  org.apache.zookeeper.server.quorum.QuorumPeerMain "$ZOOCFGDIR/zoo.cfg"
