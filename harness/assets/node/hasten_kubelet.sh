#!/bin/sh
# Have a kubelet that was started before there was an API find it now. By itself it tries to register after up to 7 seconds; when that is
# more than 2 seconds after the API answered first, its next look at the node's list of CSI drivers is 15 seconds later, and it is not
# Ready before. A new kubelet succeeds at its first try. Containers stay as they are.
#
#   NAME    the name of the node
#   ROOTFS  the rootfs of the cluster
#   STATE   the folder of slipway

drivers=$(HOME=$STATE KUBECONFIG=/etc/kubernetes/kubelet.conf "$ROOTFS/bin/kubectl" --request-timeout=5s \
  get csinode "$NAME" --ignore-not-found --output=name 2>/dev/null) || exit 0
[ -n "$drivers" ] || systemctl restart kubelet
