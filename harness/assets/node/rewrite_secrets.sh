#!/bin/sh
# Write every Secret again, so that the API server encrypts it with the present key. The list comes first, and whole: were it cut off, the
# old key would be removed while Secrets still need it. One that is changed meanwhile is encrypted by that change, and tried again.
#
# Prints the Secrets.

set -eu
. ./kubectl.sh
listed=$(kubectl get secrets --all-namespaces --output=go-template='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}
{{end}}')
printf '%s
' "$listed" | while read -r namespace name; do
  [ -n "$name" ] || continue
  for _ in 1 2 3; do
    if kubectl --namespace="$namespace" get secret "$name" --output=json | kubectl replace --filename=- > /dev/null; then
      echo "$namespace/$name"
      continue 2
    fi
    [ -n "$(kubectl --namespace="$namespace" get secret "$name" --ignore-not-found --output=name)" ] || continue 2
    sleep 1
  done
  echo "$namespace/$name could not be written anew" >&2
  exit 1
done
