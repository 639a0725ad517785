#!/bin/sh
# Wait until parts of the control plane run in other containers than before.
#
#   "$@"     for each part: its name, and the identifiers of its former containers
#   SERVES   not empty: wait also until the API of the node is ready
#   TIMEOUT  seconds
#
# Prints what is missing, and fails.

. ./running.sh
. ./kubectl.sh
fresh() {
  found=$(running "$1")
  [ -n "$found" ] || { missing="$1 does not run"; return 1; }
  # One of the old ones may take its time to end: what counts is that a new one runs, and that it is ready.
  for id in $found; do case " $2 " in *" $id "*) ;; *) return 0;; esac; done
  missing="$1 has not been started anew"; return 1
}
asked() {
  kubectl --request-timeout=2s get --raw /readyz > $STATE/readyz 2>&1 || { missing=$(tail -n 1 $STATE/readyz); return 1; }
}
ready() {
  while [ $# -gt 0 ]; do fresh "$1" "$2" || return 1; shift 2; done
  [ -z "$SERVES" ] || asked
}
end=$(($(date +%s) + $TIMEOUT))
until ready "$@"; do
  if [ "$(date +%s)" -gt "$end" ]; then echo "$missing"; exit 1; fi
  sleep 0.3
done
