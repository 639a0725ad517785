#!/bin/sh
# collect-garbage.sh: free the space of what no tag leads to any more. Run it as root on a control-plane node. Pulls go on, but for the moments
# in which the pod is replaced, before and after; pushes are refused meanwhile: what is being pushed looks like garbage.
set -eu
export PATH="/var/lib/slipway/rootfs/bin:$PATH" KUBECONFIG="${KUBECONFIG:-/etc/kubernetes/admin.conf}"
registry() {
  verb=$1
  shift
  kubectl "$verb" "$@" --namespace registry
}
writable() {
  registry set env statefulset/registry REGISTRY_STORAGE_MAINTENANCE_READONLY- > /dev/null
  registry rollout status statefulset/registry
}
trap writable EXIT
registry set env statefulset/registry 'REGISTRY_STORAGE_MAINTENANCE_READONLY={enabled: true}' > /dev/null
registry rollout status statefulset/registry
status=0
output=$(kubectl exec --namespace registry registry-0 --container registry -- /bin/registry garbage-collect --delete-untagged \
  /etc/registry/config.yml 2>&1) || status=$?
# A registry to which nothing was pushed lacks the folders in which the collection looks.
case "$status $output" in
"0 "* | *"Path not found: /docker/registry/v2/repositories/"* | *"Path not found: /docker/registry/v2/blobs/"*) ;;
*"Path not found: /docker/registry/v2/repositories"* | *"Path not found: /docker/registry/v2/blobs"*)
  output='nothing is stored' status=0
  ;;
esac
printf '%s\n' "$output"
exit $status
