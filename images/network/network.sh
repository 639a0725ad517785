#!/bin/busybox sh
# network.sh: give this node ($NODE_NAME) its pod bridge, and a VXLAN route to the pods of every other node of $CLUSTER_CIDR.
# Services have their addresses in $SERVICE_CIDR.
# A peer's hardware address is made from its IP address, so nodes need to tell each other nothing.
set -u
# A shell that is busybox prefers its own applets to programs of the same name.
ip=/sbin/ip bridge=/sbin/bridge
device=slipway0
configuration=/host/etc/cni/net.d/10-slipway.conflist

# The way to the API that the kubelet uses. The Service of the API works only once kube-proxy has done its part: a connection that is
# begun before that hangs for half a minute.
access() {
  account=/var/run/secrets/kubernetes.io/serviceaccount
  server=$(sed -n 's/^ *server: *//p' /host/etc/kubernetes/kubelet.conf 2>/dev/null | head -n 1)
  cat > /run/kubeconfig <<YAML
apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "${server:-https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT}", certificate-authority: $account/ca.crt}}]
users: [{name: agent, user: {tokenFile: $account/token}}]
contexts: [{name: agent, context: {cluster: cluster, user: agent}}]
current-context: agent
YAML
  export KUBECONFIG=/run/kubeconfig
}

# A node as a line: its name, the network of its pods, its addresses.
node='{{if .spec.podCIDR}}{{.metadata.name}} {{.spec.podCIDR}}{{range .status.addresses}}{{if eq .type "InternalIP"}} {{.address}}{{end}}{{end}}{{end}}{{println}}'

nodes() { timeout 10 kubectl get nodes -o go-template="{{range .items}}$node{{end}}"; }

hardware() { echo "$1" | awk -F. '{ printf "0e:51:%02x:%02x:%02x:%02x", $1, $2, $3, $4 }'; }

# firewall TABLE CHAIN RULE...: the rule is there, once.
firewall() {
  table=$1 chain=$2
  shift 2
  set -- "$chain" "$@" -m comment --comment slipway
  iptables -w -t "$table" -C "$@" 2>/dev/null || iptables -w -t "$table" -A "$@"
}

own() {
  cidr=$1 address=$2 network=${1%/*}
  echo 1 > /proc/sys/net/ipv4/ip_forward
  uplink=$($ip -o -4 addr show | awk -v ip="$address" '{ split($4, parts, "/"); if (parts[1] == ip) { print $2; exit } }')
  mtu=$(( $(cat "/sys/class/net/$uplink/mtu") - 50 ))
  if ! $ip -d link show "$device" 2>/dev/null | grep -q "local $address "; then
    $ip link del "$device" 2>/dev/null
    $ip link add "$device" address "$(hardware "$address")" mtu "$mtu" type vxlan id 1 local "$address" dstport 8472 nolearning || return 1
  fi
  $ip addr replace "$network/32" dev "$device" && $ip link set "$device" up || return 1
  # The peers see packets from pods as they are; only what leaves the cluster takes the node's address.
  firewall nat POSTROUTING -s "$CLUSTER_CIDR" ! -d "$CLUSTER_CIDR" -j MASQUERADE || return 1
  # A Service that kube-proxy does not know yet is nowhere. Were the first packet to it let out, the connection would be taken for one
  # that needs no translation, and none of its retries would ever arrive: dropped, the next is translated.
  for chain in FORWARD OUTPUT; do
    firewall filter "$chain" -d "$SERVICE_CIDR" -j DROP || return 1
  done
  for direction in -s -d; do
    firewall filter FORWARD "$direction" "$CLUSTER_CIDR" -j ACCEPT || return 1
  done
  cat > "$configuration.new" <<JSON
{
  "cniVersion": "0.3.1",
  "name": "slipway",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "mtu": $mtu,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "$cidr"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
  cmp -s "$configuration.new" "$configuration" && rm "$configuration.new" || mv "$configuration.new" "$configuration"
}

peer() {
  mac=$(hardware "$2") network=${1%/*}
  $ip neigh replace "$network" lladdr "$mac" dev "$device" nud permanent
  $bridge fdb replace "$mac" dev "$device" dst "$2" self permanent
  $ip route replace "$1" via "$network" dev "$device" onlink
}

synchronise() {
  list=$(nodes) || return 1
  mine=$(echo "$list" | awk -v name="$NODE_NAME" '$1 == name')
  [ -n "$mine" ] || return 1
  # shellcheck disable=SC2086 # three words on purpose
  set -- $mine
  own "$2" "$3" || return 1
  echo "$list" | while read -r name cidr address _; do
    if [ "$name" != "$NODE_NAME" ] && [ -n "$address" ]; then peer "$cidr" "$address"; fi
  done
  $ip -o route show dev "$device" | while read -r cidr _; do
    echo "$list" | grep -qF " $cidr " || $ip route del "$cidr" dev "$device"
  done
  echo "$list" > /run/known
}

mkdir -p /host/etc/cni/net.d
access
until synchronise; do sleep 0.5; done
echo "network of $NODE_NAME is up"
touch /run/ready
# It begins with the nodes that there are. They report all the time that they are well; only what changes the ways is acted upon.
while :; do
  kubectl get nodes --watch --output-watch-events -o go-template="{{.type}} {{with .object}}$node{{end}}" 2>/dev/null |
    while read -r type line; do
      [ "$type" != DELETED ] && { [ -z "$line" ] || grep -qxF "$line" /run/known; } && continue
      # What comes meanwhile is known afterwards.
      sleep 1
      until synchronise; do sleep 1; done
    done
  sleep 1
  synchronise
done
