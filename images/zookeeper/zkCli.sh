#!/bin/sh
# zkCli.sh [-server HOST:PORT] [COMMAND...]: the command line of ZooKeeper.
set -eu
# The flags are words.
# shellcheck disable=SC2086
exec java -cp "$ZOOCFGDIR:/usr/share/java/*" -Xmx64m -Dorg.slf4j.simpleLogger.defaultLogLevel=error ${CLIENT_JVMFLAGS:-} ${JVMFLAGS:-} \
  org.apache.zookeeper.ZooKeeperMain "$@"
