#!/bin/sh
# Stop the API server, the controller manager and the scheduler of a node, and wait until the API server has ended.
#
#   PORT  the port of the API, as /proc/net/tcp writes it: four hexadecimal digits

cd /etc/kubernetes/manifests 2>/dev/null || exit 0
rm -f kube-apiserver.yaml kube-controller-manager.yaml kube-scheduler.yaml
end=$(($(date +%s) + 45))
while awk '$4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ":$PORT\$"; do
  [ "$(date +%s)" -lt "$end" ] || exit 0
  sleep 0.2
done
