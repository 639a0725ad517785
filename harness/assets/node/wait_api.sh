#!/bin/sh
# Wait until the API of a control-plane node is ready, and bind the administrators' group to its role. The controller manager and the
# scheduler are started once the API answers at all: earlier they would compete for the processor and retry at growing intervals, later their
# start would delay the cluster.
#
#   ADMIN        the kubeconfig of administrators
#   CONFIG       kubeadm's configuration
#   GROUP        the group of administrators, and the name of its ClusterRoleBinding
#   PORT         the TCP port of the API, four digits in hex
#   ROOTFS       the rootfs of the cluster
#   STATE        the folder of slipway
#   SUPER_ADMIN  the kubeconfig that needs no binding
#   TIMEOUT      seconds
#
# Prints the last answer, and fails.

. ./kubectl.sh
# Before the API is ready it answers with a list of what is missing; kubectl fails then, but not for lack of a connection. The cluster
# knows only later who may see that list: a user who needs no rule asks. A cautious owner may have put that file away.
[ ! -f $SUPER_ADMIN ] || ADMIN=$SUPER_ADMIN
start_controllers() {
  # A repeated wait, after an interrupted run or a reboot, finds them started.
  [ "$(cksum < $CONFIG)" != "$(cat $STATE/controllers 2>/dev/null)" ] || return 0
  for part in controller-manager scheduler; do
    $ROOTFS/bin/kubeadm init phase control-plane $part --config $CONFIG || return 1
  done
  cksum < $CONFIG > $STATE/controllers
}
listens() { grep -qsE ":$PORT [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6; }
end=$(($(date +%s) + $TIMEOUT))
begun=
echo "nothing listens on port $(printf %d "0x$PORT") yet" > $STATE/readyz
# kubectl, several times a second, would be work of which a machine that starts everything at once has enough.
until listens && kubectl --request-timeout=2s get --raw /readyz > $STATE/readyz 2>&1; do
  if [ "$(date +%s)" -gt "$end" ]; then cat $STATE/readyz; exit 1; fi
  if [ -z "$begun" ] && grep -q 'poststarthook' $STATE/readyz; then start_controllers > /dev/null; begun=yes; fi
  sleep 0.3
done
start_controllers || exit 1
bind() {
  said=$(kubectl --request-timeout=5s create clusterrolebinding $GROUP --clusterrole=cluster-admin --group=$GROUP 2>&1) ||
    case $said in *'already exists'*) ;; *) return 1 ;; esac
}
until bind; do
  if [ "$(date +%s)" -gt "$end" ]; then echo "$said"; exit 1; fi
  sleep 0.3
done
