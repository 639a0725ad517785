#!/bin/sh
# Wait up to ten seconds until new nodes are Ready, and their pods of DaemonSets: a node is Ready before the pods of its network and of its
# Services are. These pods have a label with a revision.
#
#   "$@"        the nodes, as node/NAME
#   NAMESPACES  words: those of the pods
#   TEMPLATE    prints each node with its status
#
# Prints what is not ready, and fails.

. ./kubectl.sh
end=$(($(date +%s) + 10))
ready() {
  # One kubectl that watches costs less than many that look; it does not hear of a node that does not exist yet.
  kubectl wait --for=condition=Ready --timeout=10s "$@" > /dev/null 2>&1 || return 1
  for node; do for namespace in $NAMESPACES; do
    said=$(kubectl wait pod --for=condition=Ready --timeout=10s --namespace=$namespace --selector=controller-revision-hash \
      --field-selector="spec.nodeName=${node#node/}" 2>&1) || case $said in *'no matching resources'*) ;; *) echo "$said"; return 1 ;; esac
  done; done
}
until ready "$@"; do
  if [ "$(date +%s)" -ge "$end" ]; then kubectl get nodes -o go-template="$TEMPLATE" 2>/dev/null; exit 1; fi
  sleep 0.3
done
