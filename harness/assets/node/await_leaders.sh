#!/bin/sh
# Wait until a controller manager and a scheduler are at work again. What the ended ones of this node held is released.
#
#   NODE  the name of the node
#
# Prints the one that is not at work, and fails.

. ./kubectl.sh
since=$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)
end=$(($(date +%s) + 60))
lease() { kubectl --request-timeout=5s --namespace=kube-system get lease "$1" -o jsonpath="{.spec.$2}" 2>/dev/null; }
# shellcheck disable=SC3012
for name in kube-controller-manager kube-scheduler; do
  case $(lease $name holderIdentity) in "$NODE"_*)
    if [ "$(lease $name renewTime)" \< "$since" ]; then
      kubectl --request-timeout=5s --namespace=kube-system patch lease $name --type=merge -p '{"spec":{"holderIdentity":""}}' > /dev/null || true
    fi ;;
  esac
  # One of another name or kind is not known to us.
  while at=$(lease $name renewTime) && [ -n "$at" ] && [ "$at" \< "$since" ]; do
    if [ "$(date +%s)" -gt "$end" ]; then echo "no $name is at work"; exit 1; fi
    sleep 0.5
  done
done
