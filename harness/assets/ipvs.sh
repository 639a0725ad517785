#!/bin/sh
# Leads a virtual address to the servers that live, by rules of the kernel (IPVS); connections never pass through a process.
#
#   ipvs.sh keep     looks after the rules until it is ended; they stay. SIGHUP: the configuration has changed
#   ipvs.sh clean    takes them away
#
# ipvs.conf: lines `virtual ADDRESS`, `source ADDRESS` (the machine's own), and for each port `balance NAME PORT PATH SERVER...`. A server
# lives when it answers GET PATH over TLS; one that asks for credentials lives as well. One that refuses everybody (403) may have just
# started, and counts only where all do; one that says that it ends gets no new connections. How they all are is told in the file `servers`.
set -u
state=${SLIPWAY_STATE:-/var/lib/slipway}
run=${RUNTIME_DIRECTORY:-/run/slipway-balancer}
proc=${SLIPWAY_PROC:-/proc}
config=$state/ipvs.conf
ca=/etc/kubernetes/pki/ca.crt
# The machine's own configuration of OpenSSL is for another version of it.
export OPENSSL_CONF=/dev/null PATH="$state/rootfs/bin:$PATH:/usr/sbin:/sbin"

interval=${SLIPWAY_INTERVAL:-2} # seconds between two looks
hurry=${SLIPWAY_HURRY:-0.5}     # after one that somebody did not answer
patience=${SLIPWAY_PATIENCE:-2} # seconds for an answer
most=2                          # looks that a server may fail in a row, and it is asked no more

value() { sed -n "s/^$1 //p" "$config"; }

# at ADDRESS PORT: as URLs and rules have it
at() { case $1 in *:*) echo "[$1]:$2" ;; *) echo "$1:$2" ;; esac; }

# failures ADDRESS PORT
failures() {
  count=0
  if [ -r "$run/failed.$1.$2" ]; then read -r count < "$run/failed.$1.$2"; fi
  echo "${count:-0}"
}

# ---- who lives -------------------------------------------------------------------------------------------------------

# answers ADDRESS PORT PATH: ready, refusing or leaving; fails for one that does not live
answers() {
  trusted=
  if [ -r "$ca" ]; then trusted="-CAfile $ca -verify_return_error"; fi
  # Two words or none.
  # shellcheck disable=SC2086
  said=$(printf 'GET %s HTTP/1.0\r\n\r\n' "$3" |
    timeout "$patience" openssl s_client -quiet $trusted -connect "$(at "$1" "$2")" 2> /dev/null | head -c 16384)
  case $said in
    'HTTP/1.'?' 200'* | 'HTTP/1.'?' 401'*) echo ready ;;
    'HTTP/1.'?' 403'*) echo refusing ;;
    'HTTP/1.'?' 500'*'[-]shutdown failed'*) echo leaving ;;
    *) false ;;
  esac
}

# look at all servers at once
look() {
  while read -r word _ port path servers; do
    if [ "$word" = balance ]; then
      for server in $servers; do
        {
          if how=$(answers "$server" "$port" "$path"); then
            echo "$how" > "$run/answer.$server.$port"
            echo 0
          else
            echo $(($(failures "$server" "$port") + 1))
          fi > "$run/looked.$server.$port"
          mv "$run/looked.$server.$port" "$run/failed.$server.$port"
        } &
      done
    fi
  done < "$config"
  wait
}

# answer ADDRESS PORT: the last one
answer() {
  how=ready
  if [ -r "$run/answer.$1.$2" ]; then read -r how < "$run/answer.$1.$2"; fi
  echo "${how:-ready}"
}

# Whether somebody has just failed for the first time.
doubtful() { cat "$run"/failed.* 2> /dev/null | grep -qx 1; }

# ---- rules -----------------------------------------------------------------------------------------------------------

# The rules of ours in the kernel, as arguments of ipvsadm.
ours() { ipvsadm -S -n | sed 's/ *$//' | awk -v start="$(at "$virtual" '')" 'index($3, start) == 1'; }

# The rules that there should be, in the same words.
wanted() {
  : > "$run/servers.new"
  while read -r word name port _ servers; do
    if [ "$word" = balance ]; then
      service=$(at "$virtual" "$port")
      ready='' refusing='' leaving=''
      for server in $servers; do
        how=DOWN
        if [ "$(failures "$server" "$port")" -lt "$most" ]; then
          how=UP
          case $(answer "$server" "$port") in
            leaving) leaving="$leaving $server" how=LEAVING ;;
            refusing) refusing="$refusing $server" ;;
            *) ready="$ready $server" ;;
          esac
        fi
        echo "$name $server $how" >> "$run/servers.new"
      done
      echo "-A -t $service -s rr"
      if [ -n "$ready" ]; then
        # Connections that they have go on.
        for server in $leaving; do echo "-a -t $service -r $(at "$server" "$port") -m -w 0"; done
      fi
      # When nobody answers it may be us who cannot hear; whoever comes back first is found at once.
      chosen=${ready:-${leaving:-${refusing:-$servers}}}
      for server in $chosen; do echo "-a -t $service -r $(at "$server" "$port") -m -w 1"; done
    fi
  done < "$config"
  mv "$run/servers.new" "$run/servers"
}

# without LINES LINES: those of the first that are not among the second
without() { printf '%s\n' "$1" | awk -v others="$2" 'BEGIN { n = split(others, a, "\n"); while (n) seen[a[n--]] } NF && !($0 in seen)'; }

# has LINES SERVICE SERVER: whether there is a rule that leads from one to the other, whatever its weight
has() { case $1 in *"-a -t $2 -r $3 "*) ;; *) false ;; esac; }

balance() {
  ours > "$run/ours" || return 0
  wanted > "$run/wanted"
  there=$(cat "$run/ours") needed=$(cat "$run/wanted")
  without "$there" "$needed" | while read -r command _ service _ real _; do
    if [ "$command" = -a ] && has "$needed" "$service" "$real"; then
      continue
    elif [ "$command" = -a ]; then
      open=$(connections "$service" "$real")
      if ipvsadm -d -t "$service" -r "$real"; then echo "$service leads to $real no more"; fi
      cut "$service" "$open"
    else
      ipvsadm -D -t "$service"
    fi
  done
  without "$needed" "$there" | while read -r command _ service option real rest; do
    if [ "$command" = -a ] && has "$there" "$service" "$real"; then
      # shellcheck disable=SC2086
      if ipvsadm -e -t "$service" -r "$real" $rest; then echo "$service: $real is led to with $rest"; fi
      continue
    fi
    # Words of ours.
    # shellcheck disable=SC2086
    if ipvsadm $command -t "$service" $option $real $rest && [ "$command" = -a ]; then echo "$service leads to $real"; fi
  done
}

# connections SERVICE SERVER: our ends of them
connections() { ipvsadm -L -c -n 2> /dev/null | awk -v service="$1" -v real="$2" '$3 == "ESTABLISHED" && $5 == service && $6 == real { print $4 }'; }

# A connection to one that is gone would be silent until its end loses patience: it is ended now, where the kernel can do that.
cut() { for end in $2; do ss -K src "$end" dst "$1" > /dev/null 2>&1; done; }

# ---- the way to the address ------------------------------------------------------------------------------------------

# The address is on no interface, and nobody else is asked for it: what no rule catches ends here, refused. `src` makes connections come from
# the machine's own address; without the sizes they would promise the other end to take what only fits the loopback.
route() {
  case $(ip route get "$virtual" 2> /dev/null) in "local $virtual "*" src $source "*) return ;; esac
  device=$(ip -o addr show to "$source" 2> /dev/null | awk '{ print $2; exit }')
  mtu=1500 headers=40
  if [ -n "$device" ] && [ -r "/sys/class/net/$device/mtu" ]; then read -r mtu < "/sys/class/net/$device/mtu"; fi
  case $virtual in *:*) headers=60 ;; esac
  ip route replace local "$virtual" dev lo src "$source" table local mtu "$mtu" advmss $((mtu - headers))
}

# ---- the whole -------------------------------------------------------------------------------------------------------

prepare() {
  for module in ip_vs ip_vs_rr; do modprobe "$module" 2> /dev/null; done
  if [ ! -e "$proc/net/ip_vs" ]; then
    echo 'the kernel has no IPVS' >&2
    exit 1
  fi
  # Answers pass a firewall that knows connections, and a connection to a server that is gone ends with its next packet.
  for name in conntrack expire_nodest_conn; do
    if [ -w "$proc/sys/net/ipv4/vs/$name" ]; then echo 1 > "$proc/sys/net/ipv4/vs/$name"; fi
  done
  mkdir -p "$run"
  rm -f "$run"/failed.* "$run"/answer.* "$run"/ready
}

keep() {
  prepare
  told=
  trap 'told=yes' HUP
  trap 'exit 0' TERM INT
  while :; do
    told=
    virtual=$(value virtual) source=$(value source)
    route
    balance
    : > "$run/ready"
    pause=$interval
    if doubtful; then pause=$hurry; fi
    sleep "$pause" &
    wait $!
    if [ -z "$told" ]; then look; fi
  done
}

clean() {
  virtual=$(value virtual)
  if [ -z "$virtual" ]; then return; fi
  if [ -e "$proc/net/ip_vs" ]; then
    ours | while read -r command _ service _; do if [ "$command" = -A ]; then ipvsadm -D -t "$service"; fi; done
  fi
  ip route del local "$virtual" dev lo table local 2> /dev/null
}

case ${1-} in
  keep) keep ;;
  clean) clean ;;
  *)
    echo 'ipvs.sh keep|clean' >&2
    exit 2
    ;;
esac
