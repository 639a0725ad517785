#!/bin/sh
# Put a snapshot of etcd's data in the place of what etcd has.
#
#   "$@"      words of etcdutl
#   DATA      the folder of etcd
#   IMAGE     the image of etcd
#   REPLACED  where the former data is kept
#   ROOTFS    the rootfs of the cluster
#   WORK      the folder of the snapshot, in which it is unpacked

set -eu
PATH=$PATH:$ROOTFS/bin
within() {
  ctr -n k8s.io containers rm slipway-restore > /dev/null 2>&1 || true
  ctr -n k8s.io run --rm --mount type=bind,src=$DATA,dst=$DATA,options=rbind:rw "$IMAGE" slipway-restore "$@"
}
if [ -z "$(ctr -n k8s.io images ls -q name=="$IMAGE")" ]; then
  ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d "$IMAGE" > /dev/null
fi
within etcdutl "$@" > $WORK/said 2>&1 || { cat $WORK/said >&2; exit 1; }
if [ -d $DATA/member ]; then
  to=$REPLACED
  # After a restore that failed, that folder has the data of before; what is there now came with the backup, and may have changed since.
  if [ -e $REPLACED-unfinished ]; then to=$REPLACED-again; else rm -rf $REPLACED-again; fi
  rm -rf $to
  mv $DATA/member $to
fi
: > $REPLACED-unfinished
mv $WORK/data/member $DATA/member
rm -rf $WORK
