#!/bin/sh
# A function, and the programs of the rootfs on PATH. `running PART`: the identifiers of the containers of a part of the control plane that
# run now. A container of another owner may have the same name elsewhere.
#
#   ROOTFS  the rootfs of the cluster

PATH=$PATH:$ROOTFS/bin
running() {
  live=$(ctr -n k8s.io tasks ls 2>/dev/null | awk '$3 == "RUNNING" { print $1 }')
  of='labels."io.kubernetes.container.name"=='$1',labels."io.kubernetes.pod.namespace"==kube-system'
  ctr -n k8s.io containers ls -q "$of" 2>/dev/null | grep -xF -e "${live:-none}"
}
