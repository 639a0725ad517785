#!/bin/sh
# Take a snapshot of etcd's data, in its own container.
#
#   FILE  where it is put
#   PKI   the folder of the cluster's certificates
#
# Prints its sha256 and, as JSON, its state.

set -eu
. ./running.sh
umask 077
id=$(running etcd | head -n 1)
[ -n "$id" ] || { echo 'etcd does not run here' >&2; exit 1; }
rm -f $FILE $FILE.part
within() { ctr -n k8s.io tasks exec --exec-id slipway-$$-"$1" "$id" "$@"; }
within etcdctl --endpoints=https://127.0.0.1:2379 --cacert=$PKI/etcd/ca.crt --cert=$PKI/etcd/healthcheck-client.crt \
  --key=$PKI/etcd/healthcheck-client.key snapshot save $FILE >&2
sha256sum < $FILE
within etcdutl snapshot status $FILE --write-out=json
