#!/bin/sh
# launch.sh: keep what the pods need: their scripts, and the password. That is the value RedisPassword, else the one that the cluster has,
# else a generated one. A password is never an argument of a program.
set -eu
kubectl create configmap redis-scripts --namespace redis --from-file redis/common.sh --from-file redis/handover.sh --from-file redis/probe.sh \
  --from-file redis/redis.sh --from-file redis/sentinel.sh --dry-run=client --output yaml | kubectl apply -f -
if [ -n "${RedisPassword:-}" ]; then
  # Server-side: no annotation repeats the password.
  printf '%s' "$RedisPassword" | kubectl create secret generic redis-password --namespace redis --from-file password=/dev/stdin \
    --dry-run=client --output yaml | kubectl apply --server-side --force-conflicts -f -
elif ! kubectl get secret redis-password --namespace redis > /dev/null 2>&1; then
  # A Secret that exists after all is an error here, and is not overwritten.
  openssl rand -hex 24 | tr -d '\n' | kubectl create secret generic redis-password --namespace redis --from-file password=/dev/stdin
fi
