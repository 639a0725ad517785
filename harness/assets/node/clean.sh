#!/bin/sh
# Take off a machine what a cluster leaves on it besides files: everything that was not there before.
# What volumes hold is not the cluster's.
#
#   "$@"    tables of nf_tables: family and name
#   LINKS   words: interfaces of pod networks
#   ROOTFS  the rootfs of the cluster
#   STATE   the folder of slipway

set -u
before=$STATE/before
bin=$ROOTFS/bin
had() { [ -e "$before/$1" ] && grep -qxF -- "$2" "$before/$1"; }
for unit in slipway-balancer slipway-registry; do systemctl disable --now $unit 2>/dev/null; done
systemctl stop slipway-return.timer 2>/dev/null
. ./share_close.sh
# Containers. What runs in another namespace of a containerd that was there before stays.
if [ -x $bin/ctr ] && systemctl is-active --quiet containerd; then
  c="$bin/ctr -n k8s.io"
  for _ in 1 2 3; do
    $c tasks ls -q | xargs -r -n 1 $c tasks kill -a -s KILL 2>/dev/null
    $c tasks ls -q | xargs -r -n 1 $c tasks rm -f > /dev/null 2>&1
    [ -z "$($c tasks ls -q)" ] && break
    sleep 0.2
  done
  $c containers ls -q | xargs -r $c containers rm > /dev/null 2>&1
  $c images ls -q | xargs -r $c images rm --sync > /dev/null 2>&1
fi
systemctl stop containerd 2>/dev/null
for place in /run/netns /var/run/netns; do
  grep -o " $place/cni-[^ ]*" /proc/mounts | while read -r mount; do umount -l "$mount" 2>/dev/null; rm -f "$mount"; done
done
grep -oE ' (/run/containerd|/var/lib/containerd|/var/lib/kubelet)/[^ ]+' /proc/mounts | sort -r | while read -r mount; do
  umount -l "$mount" 2>/dev/null
done

# Interfaces of pods and overlays, and their routes with them.
ls /sys/class/net | while IFS= read -r link; do
  if [ -e "$before/links" ] && ! had links "$link" && [ ! -e "/sys/class/net/$link/device" ]; then ip link del "$link" 2>/dev/null; fi
done
for link in $LINKS; do had links "$link" || ip link del "$link" 2>/dev/null; done
# Routes to pods of other machines that a routing daemon of the pod network made: kube-router's and BIRD's among them. The daemons have
# ended with the containers; one that still runs is not the cluster's, and its routes stay.
if [ -e "$before/routes" ] && ! cat /proc/[0-9]*/comm 2> /dev/null | grep -qxE 'bird6?|zebra|bgpd|gobgpd'; then
  for family in -4 -6; do
    ip $family route show table main 2>/dev/null | sed 's/ *$//' | grep ' via ' |
      grep -E ' proto ([0-9]+|bird|bgp|zebra)( |$)' | while IFS= read -r route; do
      # shellcheck disable=SC2086 # the words of a route, which this machine's kernel has printed
      had routes "$route" || ip $family route del $route 2>/dev/null
    done
  done
fi

. ./clean_ipvs.sh
# Tables of nf_tables that are kube-proxy's, flannel's, those of CNI plugins, and of what enforces NetworkPolicies.
. ./drop_tables.sh
# Rules of the firewall that are Kubernetes', those of CNI plugins, and ours.
for tool in iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft iptables ip6tables; do
  if command -v $tool-save > /dev/null 2>&1; then
    rules=$($tool-save 2>/dev/null)
    if printf '%s' "$rules" | grep -qE 'KUBE-|CNI-|comment slipway'; then
      printf '%s\n' "$rules" | grep -vE 'KUBE-|CNI-|comment slipway' | $tool-restore 2>/dev/null
    fi
  fi
done
if command -v ipset > /dev/null 2>&1; then
  ipset list -n 2>/dev/null | grep -E '^(inet6:)?(KUBE-|kube-router-)' | xargs -r -n 1 ipset destroy 2>/dev/null
fi

# Files of a folder that was there before are removed as well, where they can only be ours.
for folder in /var/lib/kubelet /var/lib/etcd /var/lib/cni /run/flannel /var/log/pods /var/log/containers /etc/kubernetes/pki; do
  if [ -d "$folder" ]; then find "$folder" -mindepth 1 -xdev -delete 2>/dev/null; fi
done
if [ -d /etc/cni/net.d ]; then
  ls -A /etc/cni/net.d | while IFS= read -r file; do had networks "$file" || rm -rf "/etc/cni/net.d/$file"; done
fi
if ! grep -q '^containerd [^ ]* active' "$before/services" 2>/dev/null && [ -d /var/lib/containerd ]; then
  find /var/lib/containerd -mindepth 1 -xdev -delete 2>/dev/null
fi
exit 0
