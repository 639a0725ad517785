#!/bin/sh
# Wait until a node is Ready, and has said so after a time, with the version that it is to have.
#
#   NODE      the name of the node
#   SINCE     a time, as Kubernetes writes it
#   TEMPLATE  prints version, status, and when that was said
#   TIMEOUT   seconds
#   VERSION   the version
#
# Prints what it is instead, and fails.

. ./kubectl.sh
end=$(($(date +%s) + $TIMEOUT))
# shellcheck disable=SC3012
while :; do
  found=$(kubectl --request-timeout=5s get node "$NODE" -o go-template="$TEMPLATE" 2>&1)
  set -- $found
  if [ "${1-}" = "$VERSION" ] && [ "${2-}" = True ] && ! [ "${3-}" \< "$SINCE" ]; then exit 0; fi
  if [ "$(date +%s)" -gt "$end" ]; then echo "$found"; exit 1; fi
  sleep 0.3
done
