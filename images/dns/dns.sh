#!/bin/busybox sh
# shellcheck disable=SC3045  # the shell is busybox, whose read knows -t
# dns.sh: answer for DOMAIN (cluster.local) from the Services and Endpoints of the cluster, pass the rest on to the node's resolver.
# A change costs one list of each kind; names are re-read on SIGHUP, and dnsmasq is restarted only when its SRV records changed.
set -u
domain=${DOMAIN:-cluster.local}
state=/run/dns
mkdir -p "$state"

services='{{range .items}}{{$n := .metadata.name}}{{$s := .metadata.namespace}}{{if .spec.clusterIP}}{{.spec.clusterIP}} {{$n}} {{$s}}
{{range .spec.ports}}{{if .name}}srv {{$n}} {{$s}} {{.name}} {{if .protocol}}{{.protocol}}{{else}}TCP{{end}} {{.port}}
{{end}}{{end}}{{end}}{{end}}'
endpoints='{{range .items}}{{$n := .metadata.name}}{{$s := .metadata.namespace}}{{range .subsets}}{{range .addresses}}{{.ip}} {{$n}} {{$s}} {{if .hostname}}{{.hostname}}{{else}}-{{end}}
{{end}}{{end}}{{end}}'

collect() {
  timeout 10 kubectl get services -A -o go-template="$services" > "$state/services" &&
    timeout 10 kubectl get endpoints -A -o go-template="$endpoints" > "$state/endpoints" || return 1
  awk -v domain="$domain" -v srv="$state/srv.new" '
    FNR == NR && $1 == "srv" {
      printf "srv-host=_%s._%s.%s.%s.svc.%s,%s.%s.svc.%s,%s\n", $4, tolower($5), $2, $3, domain, $2, $3, domain, $6 > srv; next }
    FNR == NR && $1 == "None" { headless[$2 "/" $3] = 1; next }
    FNR == NR && NF == 3 { print $1, $2 "." $3 ".svc." domain; next }
    headless[$2 "/" $3] {
      name = $2 "." $3 ".svc." domain
      if ($4 != "-") print $1, $4 "." name
      print $1, name }
  ' "$state/services" "$state/endpoints" > "$state/hosts.new"
  touch "$state/srv.new"
  mv "$state/hosts.new" "$state/hosts"
  if cmp -s "$state/srv.new" "$state/srv.conf"; then
    rm "$state/srv.new"
    kill -HUP "$(cat "$state/pid")"
  else
    mv "$state/srv.new" "$state/srv.conf"
    # The loop at the end starts it again at once, with the new records.
    kill "$(cat "$state/pid")"
  fi 2>/dev/null
  return 0
}

watch() {
  while :; do
    # It begins with what is there: nothing is missed between a list and what changes after it.
    kubectl get "$1" -A --watch -o name 2>/dev/null
    sleep 1
  done
}

touch "$state/srv.conf"
until collect; do sleep 0.5; done
{ watch services & watch endpoints & wait; } | while read -r _; do
  # One burst of changes is one list: swallow what came meanwhile. However many there are, none waits longer than a second.
  sleep 0.2
  while read -r -t 0 && read -r _; do :; done
  until collect; do sleep 1; done
  sleep 0.5
done &

while :; do
  /usr/sbin/dnsmasq --keep-in-foreground --user=root --pid-file="$state/pid" --log-facility=- --no-hosts --addn-hosts="$state/hosts" \
    --conf-file="$state/srv.conf" --local="/$domain/" --bogus-priv --domain-needed --local-ttl=5 --neg-ttl=5 --cache-size=10000 \
    --dns-forward-max=1000 --stop-dns-rebind --rebind-localhost-ok
  sleep 0.1
done
