#!/bin/sh
# Use the same iptables flavour as the host: rules in the other one would be seen by nobody. The kubelet has made its chains
# before kube-proxy starts, so the flavour that shows more of them is the host's.
name=${0##*/}
legacy=$(iptables-legacy-save 2>/dev/null | grep -c '^[-:]')
nft=$(iptables-nft-save 2>/dev/null | grep -c '^[-:]')
flavour=nft
[ "${legacy:-0}" -gt "${nft:-0}" ] && flavour=legacy
case $name in
  ip6tables*) exec "/usr/sbin/ip6tables-$flavour${name#ip6tables}" "$@" ;;
  *) exec "/usr/sbin/iptables-$flavour${name#iptables}" "$@" ;;
esac
