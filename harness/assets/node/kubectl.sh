#!/bin/sh
# A function: kubectl as the administrator of the cluster.
#
#   ADMIN   the kubeconfig
#   ROOTFS  the rootfs of the cluster
#   STATE   the folder of slipway

kubectl() { HOME=$STATE KUBECONFIG=$ADMIN "$ROOTFS/bin/kubectl" "$@"; }
