#!/bin/sh
# serial.sh WORK CONTROL_PLANE_NODE... -- WORKER...: the usual way to a cluster, one thing after another, on booted container nodes (by
# container name) that have containerd, kubeadm, kubelet and kubectl already. WORK holds images.tar, init.yaml and the addons network.yaml,
# storage.yaml and metrics.yaml.
set -eu
work=$1
shift
control_plane='' workers=''
while [ "$1" != -- ]; do control_plane="$control_plane $1"; shift; done
shift
workers=$*
# shellcheck disable=SC2086 # a list of words
set -- $control_plane
first=$1
shift
others=$*

on() { docker exec "$@"; }
into() { docker exec -i "$@"; }
admin() { docker exec -i -e KUBECONFIG=/etc/kubernetes/admin.conf "$first" kubectl "$@"; }

for node in $control_plane $workers; do
  into "$node" ctr -n k8s.io images import --no-unpack - < "$work/images.tar" > /dev/null
done

into "$first" sh -c 'cat > /kubeadm.yaml' < "$work/init.yaml"
on "$first" kubeadm init --config /kubeadm.yaml --upload-certs --skip-phases=preflight > "$work/init.log" 2>&1 ||
  { cat "$work/init.log" >&2; exit 1; }
for addon in network storage metrics; do admin apply -f - < "$work/$addon.yaml" > /dev/null; done
key=$(sed -n 's/^certificateKey: *//p' "$work/init.yaml")
join=$(on "$first" kubeadm token create --print-join-command 2>/dev/null)
for node in $others; do
  # shellcheck disable=SC2086 # a command of several words
  on "$node" $join --control-plane --certificate-key "$key" --skip-phases=preflight > "$work/join.log" 2>&1 || { cat "$work/join.log" >&2; exit 1; }
done
for node in $workers; do
  # shellcheck disable=SC2086
  on "$node" $join --skip-phases=preflight > "$work/join.log" 2>&1 || { cat "$work/join.log" >&2; exit 1; }
done
admin wait --for=condition=Ready nodes --all --timeout=300s > /dev/null
admin wait --for=condition=Ready pods --all --all-namespaces --timeout=300s > /dev/null
