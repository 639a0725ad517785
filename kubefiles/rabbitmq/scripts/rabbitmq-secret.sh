#!/bin/sh
# rabbitmq-secret.sh: have the Secret `rabbitmq` with user, password and Erlang cookie. What is given counts, then what the Secret has; what
# neither has is made. Values are read from the environment and go to kubectl by its standard input: no argument ever holds one.
set -eu
have() { kubectl get secret rabbitmq --namespace=rabbitmq --ignore-not-found --output="jsonpath={.data.$1}"; }
encode() { printf %s "$1" | base64 | tr -d '\n'; }
make() { head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' | base64 | tr -d '\n'; }

old_user=$(have user)
old_password=$(have password)
old_cookie=$(have cookie)
user=$(encode "${RabbitUser:?}")
password=${RabbitPassword:+$(encode "$RabbitPassword")}
cookie=${RabbitCookie:+$(encode "$RabbitCookie")}
: "${password:=${old_password:-$(make)}}"
: "${cookie:=${old_cookie:-$(make)}}"

if [ -n "$old_cookie" ] && [ "$cookie" != "$old_cookie" ]; then
  pods=$(kubectl get pods --namespace=rabbitmq --selector=app.kubernetes.io/name=rabbitmq --output=name)
  if [ -n "$pods" ]; then
    echo "RabbitCookie is not that of the running nodes: they would not know each other; kubectl scale statefulset rabbitmq -n rabbitmq --replicas=0 first" >&2
    exit 1
  fi
fi

# Server-side: the other form keeps a copy of the values in an annotation.
kubectl apply --server-side --force-conflicts -f - <<SECRET
apiVersion: v1
kind: Secret
metadata:
  name: rabbitmq
  namespace: rabbitmq
  labels:
    app.kubernetes.io/name: rabbitmq
    app.kubernetes.io/part-of: rabbitmq
data:
  user: $user
  password: $password
  cookie: $cookie
SECRET

# Nodes read the user when they start.
running=$(kubectl get statefulset rabbitmq --namespace=rabbitmq --ignore-not-found --output=name)
if [ -n "$running" ] && [ "$user $password" != "$old_user $old_password" ]; then
  kubectl rollout restart statefulset/rabbitmq --namespace=rabbitmq
fi
