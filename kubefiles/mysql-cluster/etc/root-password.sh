#!/bin/bash
# Launch command: keep the root password in the Secret mysql-root. It is the value RootPassword, or a random one. The password of a cluster
# that has one stays, whatever the value says: MariaDB knows it from its first start.
set -eu
if kubectl get secret mysql-root > /dev/null 2>&1; then
  echo 'the Secret mysql-root exists: its password stays'
  exit
fi
if [ -n "${RootPassword:-}" ]; then
  printf %s "$RootPassword"
else
  od -An -v -tx1 -N 24 /dev/urandom | tr -d ' \n'
fi | kubectl create secret generic mysql-root --from-file=password=/dev/stdin
kubectl label secret mysql-root app.kubernetes.io/name=mariadb app.kubernetes.io/instance=mysql app.kubernetes.io/part-of=mysql-cluster
