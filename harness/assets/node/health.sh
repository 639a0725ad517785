#!/bin/sh
# Report how a node of a cluster is: its services, its API, its registry, its balancer, its etcd. Nothing on it is changed.
#
#   API_PORT       the port of the API
#   IMAGES         words: images that are looked for; where the node has no registry, only the first
#   REGISTRY_PORT  the port of the registry
#   ROOTFS         the rootfs of the cluster
#   STATE          the folder of slipway
#   UNSURE         the name of API servers of which haproxy cannot tell whether they are ready
#
# Prints lines `key value`.

PATH=$PATH:$ROOTFS/bin:/usr/local/sbin:/usr/sbin:/sbin
systemctl show kubelet containerd slipway-registry slipway-balancer -p Id -p LoadState -p ActiveState -p SubState -p NRestarts \
  -p ActiveEnterTimestampMonotonic 2>/dev/null | sed 's/^/unit /'
read -r up _ < /proc/uptime; echo "up $up"
if [ -e $STATE/registry.yaml ]; then echo 'holds yes'; grep -qs '^auth:' $STATE/registry.yaml || echo 'public yes'; fi
if command -v kubectl > /dev/null; then
  said=$(HOME=$STATE timeout 20 kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout=10s get --raw /readyz 2>&1) && said=ok
  echo "api $(printf '%s' "$said" | tail -n 1)"
fi
images=$IMAGES
[ -e $STATE/registry.yaml ] || images=${images%% *}
command -v ctr > /dev/null || images=
for name in $images; do
  said=$(timeout 20 ctr -n k8s.io content fetch-object --hosts-dir /etc/containerd/certs.d "$name" 2>&1 > /dev/null) && said=ok
  echo "image $name $(printf '%s' "$said" | tail -n 1)"
done
sed 's/^/server /' /run/slipway-balancer/servers 2>/dev/null
if [ -e $STATE/ipvs.conf ]; then
  # Rules for those that live; others are taken out.
  ipvsadm -S -n 2>/dev/null | sed -n 's/^-a .* -r \([^ ]*\):\([0-9]*\) .*/server \2 \1 UP/p' | sort -u |
    sed "s/^server $API_PORT /server api /; s/^server $REGISTRY_PORT /server registry /"
elif [ -S $STATE/balancer.sock ]; then
  for tool in socat perl python3; do
    command -v $tool > /dev/null || continue
    case $tool in
      socat) echo 'show stat' | socat -t 5 - UNIX-CONNECT:$STATE/balancer.sock ;;
      perl) perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => shift) or exit 1; print $s "show stat\n"; print while <$s>' \
        $STATE/balancer.sock ;;
      python3) python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b"show stat\n"); print(s.makefile().read())' $STATE/balancer.sock ;;
    esac |
      awk -F, -v unsure="$UNSURE" '$1 != unsure && $2 != "FRONTEND" && $2 != "BACKEND" && !/^#/ && NF > 17 { print "server", $1, $2, $18 }'
    break
  done
fi
if [ -e /etc/kubernetes/manifests/etcd.yaml ]; then
  timeout 10 bash -c 'exec 3<> /dev/tcp/127.0.0.1/2381 && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && cat <&3' 2>/dev/null |
    sed -n 's/^etcd_disk_wal_fsync_duration_seconds_bucket{le="\([0-9.e-]*\)"} \([0-9.e+]*\)\r*$/sync \1 \2/p'
fi
