#!/bin/bash
# Launch command: keep the passwords in the Secret postgres. That of the superuser is the value SuperuserPassword, or a random one; the others,
# by which members and PgBouncer know each other, are random. Passwords of a cluster that has some stay, whatever the value says: the database
# knows them from its first start. A password is never an argument of a program.
set -euo pipefail
if kubectl get secret postgres --namespace postgres > /dev/null 2>&1; then
  echo 'the Secret postgres exists: its passwords stay'
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
random() { od -An -v -tx1 -N 24 /dev/urandom | tr -d ' \n'; }
for user in superuser replication restapi pgbouncer; do random > "$work/$user"; done
[ -z "${SuperuserPassword:-}" ] || printf %s "$SuperuserPassword" > "$work/superuser"
# What PgBouncer reads; these digits need no quoting.
printf '"pgbouncer" "%s"\n' "$(cat "$work/pgbouncer")" > "$work/userlist.txt"
kubectl create secret generic postgres --namespace postgres --from-file="$work"
kubectl label secret postgres --namespace postgres app.kubernetes.io/name=postgresql app.kubernetes.io/instance=postgres \
  app.kubernetes.io/part-of=postgres-ha
