#!/bin/sh
# Run etcdctl in etcd's own container: the program is nowhere else on the machine. Without the API, which may be what is missing. Lists that
# are made while something comes or goes have been seen without it, so an empty answer is asked for again.
#
#   "$@"      words of etcdctl
#   NOT_HERE  the exit code where etcd does not run
#   PKI       the folder of the cluster's certificates

. ./running.sh
for _ in 1 2 3; do
  id=$(running etcd | head -n 1)
  if [ -n "$id" ]; then
    exec $ROOTFS/bin/ctr -n k8s.io tasks exec --exec-id "slipway-$$" "$id" etcdctl --cacert=$PKI/etcd/ca.crt \
      --cert=$PKI/etcd/healthcheck-client.crt --key=$PKI/etcd/healthcheck-client.key "$@"
  fi
  sleep 0.3
done
exit "$NOT_HERE"
