#!/bin/sh
# Report what a machine is and has. Nothing on it is changed, except that listeners of a check that was killed are ended.
#
#   API_NAME   the name of the API in /etc/hosts
#   ENFORCERS  lines of features of the kernel: name, symbol, option of its configuration
#   FEATURES   words: modules or file systems of the kernel
#   LEFT       words, patterns: files that other clusters leave behind
#   LISTENERS  a pattern of grep for the command lines of such listeners, which does not match itself
#   PLACES     words: folders that a cluster fills
#   PORTS      words, four hexadecimal digits: ports that a cluster needs
#   SERVICES   words: units of systemd
#   SETTINGS   words: NAME=VALUE of kernel settings below /proc/sys
#   STATE      the folder of slipway
#   SYSCTLS    words: kernel settings below /proc/sys
#   TOOLS      words: programs
#   WRITTEN    words: paths that are written to
#
# Prints lines `key value`.

LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# What a check that was killed left behind would look like somebody else.
for file in $(grep -ls "$LISTENERS" /proc/[0-9]*/cmdline 2>/dev/null); do
  pid=${file#/proc/}; kill "${pid%/cmdline}" 2>/dev/null
done
echo "begun $(date +%s.%N)"
echo "host $(uname -n)"
echo "arch $(uname -m)"
echo "kernel $(uname -r)"
echo "user ${SUDO_USER:-$(id -un)}"
echo "virtual $(systemd-detect-virt 2>/dev/null)"
grep -E '^(ID|ID_LIKE|VERSION_ID|PRETTY_NAME)=' /etc/os-release 2>/dev/null | tr -d '"' | sed 's/^/os /'
echo "cpus $(grep -c ^processor /proc/cpuinfo)"
sed -n 's/^MemTotal: *\([0-9]*\) kB/memory \1/p; s/^MemAvailable: *\([0-9]*\) kB/available \1/p' /proc/meminfo
for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
  if [ -r $file ]; then echo "limit $(cat $file)"; fi
done
for place in $PLACES; do
  folder=$place; while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  df -Pk "$folder" 2>/dev/null | tail -n 1 | {
    read -r _ total _ free _ mount
    inodes=$(df -Pi "$folder" 2>/dev/null | tail -n 1 | awk '{ print $2, $4 }')
    flags=$(awk -v mount="$mount" '$2 == mount { found = $3 " "; n = split($4, all, ",")
      for (i = 1; i <= n; i++) if (all[i] ~ /^(ro|noexec|nosuid|nodev)$/) found = found all[i] "," } END { print found }' /proc/mounts)
    echo "place $place $(stat -c %d "$folder") $mount $total $free ${inodes:-0 0} $flags"
  }
done
for path in $WRITTEN; do
  here=$path; while [ ! -e "$here" ]; do here=$(dirname "$here"); done
  [ -w "$here" ] || echo "readonly $path"
done
for name in $SYSCTLS; do [ -w /proc/sys/$name ] || echo "readonly /proc/sys/$name"; done
for setting in $SETTINGS; do
  name=${setting%=*}
  [ "$(cat /proc/sys/$name 2>/dev/null)" = "${setting#*=}" ] || [ -w /proc/sys/$name ] || echo "readonly /proc/sys/$name"
done
while read -r said name; do
  grep -lE "^[[:space:]]*${name}[[:space:]]*=[[:space:]]*0" /etc/sysctl.conf /etc/sysctl.d/*.conf 2>/dev/null | sed "s/^/$said /"
done <<'END'
unforward net[./]ipv4[./]ip_forward
unforward6 net[./]ipv6[./]conf[./]all[./]forwarding
END
if [ "$(cat /proc/sys/net/ipv6/conf/default/disable_ipv6 2>/dev/null)" = 1 ]; then echo 'without6 yes'; fi
echo "capabilities $(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)"
echo "files $(awk '/^Max open files/ { print $5 }' /proc/1/limits 2>/dev/null)"
for file in /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max; do if [ -r $file ]; then echo "tasks $(cat $file)"; fi; done
if [ -r /dev/kmsg ]; then echo "kmsg yes"; fi
if grep -qs -e --eviction-hard /etc/default/kubelet; then echo "evicts otherwise"; fi
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  echo "cgroup 2"
  tr ' ' '\n' < /sys/fs/cgroup/cgroup.controllers | sed '/./s/^/controller /'
else
  echo "cgroup 1"
  awk '$4 == 1 { print "controller " $1 }' /proc/cgroups 2>/dev/null
fi
if [ -d /run/systemd/system ]; then echo "systemd yes"; fi
for name in $FEATURES; do
  if [ -d /sys/module/$name ] || grep -qw $name /proc/filesystems || modprobe -n $name 2>/dev/null; then echo "feature $name"; fi
done
if [ -d /proc/sys/net/bridge ]; then echo "feature br_netfilter"; fi
if [ -e /proc/sys/net/netfilter/nf_conntrack_max ]; then echo "feature nf_conntrack"; fi
# Where it is built in, nothing but its symbols tells.
if grep -qs ' nf_tables_newtable' /proc/kallsyms; then echo "feature nf_tables"; fi
# What is only loaded when it is used, a container cannot look for: the kernel's configuration tells whether it can be there at all.
configuration() { gzip -dc /proc/config.gz 2>/dev/null || cat "/boot/config-$(uname -r)" 2>/dev/null; }
listed() { [ -d "/lib/modules/$(uname -r)" ] && command -v modprobe > /dev/null; }
while read -r name symbol option; do
  if grep -qs " $symbol" /proc/kallsyms || modprobe -n $name 2>/dev/null || configuration | grep -q "^$option=[ym]"; then
    echo "has $name yes"
  elif listed || configuration | grep -q '^CONFIG_'; then
    echo "has $name no"
  fi
done <<END
$ENFORCERS
END
for tool in $TOOLS; do command -v "$tool" > /dev/null && echo "tool $tool"; done
if command -v iptables > /dev/null; then
  if said=$(iptables -t nat -S 2>&1); then echo "nat yes"; else echo "nat no $(printf '%s' "$said" | head -n 1)"; fi
  iptables -S 2>/dev/null | sed -n 's/^-P \([A-Z]*\) DROP$/drop \1/p'
fi
if command -v ip6tables > /dev/null; then
  if said=$(ip6tables -t nat -S 2>&1); then echo "nat6 yes"; else echo "nat6 no $(printf '%s' "$said" | head -n 1)"; fi
fi
if command -v nft > /dev/null; then
  echo "nft $(nft --version 2>/dev/null)"
  nft list ruleset 2>/dev/null | sed -n 's/.*hook \(input\|forward\) .*policy drop.*/drop \1/p' | sort -u
fi
if grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; then echo "service ufw active"; fi
awk 'NR > 1 { print "swap " $1 }' /proc/swaps 2>/dev/null
echo "selinux $(cat /sys/fs/selinux/enforce 2>/dev/null)"
echo "apparmor $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)"
echo "machine-id $(cat /etc/machine-id 2>/dev/null)"
echo "uuid $(cat /sys/class/dmi/id/product_uuid 2>/dev/null)"
for link in /sys/class/net/*; do
  name=${link##*/}
  if [ "$name" != lo ]; then echo "link $name $(cat $link/address 2>/dev/null) $(cat $link/mtu 2>/dev/null)"; fi
done
awk 'NR > 1 { print "route", $1, $2, $3, $8 }' /proc/net/route 2>/dev/null
awk '$10 != "lo" && $1 !~ /^f[ef]/ { print "route6", $10, $1, $2, $5 }' /proc/net/ipv6_route 2>/dev/null
listening=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "0A" { n = split($2, parts, ":"); print parts[n], $10 }' | sort -u)
printf '%s\n' "$listening" | awk 'NF { print "port " $1 }' | sort -u
taken=$(printf '%s\n' "$listening" | awk -v ports="$PORTS" 'NF && index(ports, $1) { print $1 ":" $2 }' | tr '\n' ' ')
if [ -n "$taken" ]; then
  ls -l /proc/[0-9]*/fd 2>/dev/null | awk -v taken="$taken" '
    BEGIN { n = split(taken, pairs, " "); for (i = 1; i <= n; i++) { split(pairs[i], one, ":"); port[one[2]] = one[1] } }
    /^\/proc\// { split($1, path, "/"); pid = path[3] }
    $NF ~ /^socket:/ { inode = substr($NF, 9, length($NF) - 9); if (inode in port) print port[inode], pid }' | sort -u |
  while read -r port pid; do echo "owner $port $pid $(cat /proc/$pid/comm 2>/dev/null)"; done
fi
for file in $LEFT; do if [ -e "$file" ]; then echo "left $file"; fi; done
ls -A /etc/cni/net.d 2>/dev/null | sed 's/^/network /'
set -- $SERVICES
systemctl is-active "$@" 2>/dev/null | while read -r state; do
  if [ "$state" = active ]; then echo "service $1 active"; fi
  shift
done
for folder in /run/containerd/io.containerd.runtime.v2.task/*; do
  count=$(ls "$folder" 2>/dev/null | wc -l)
  if [ "$count" -gt 0 ]; then echo "containers ${folder##*/} $count"; fi
done
if [ -e "$STATE/cluster" ]; then echo "cluster $(cat "$STATE/cluster")"; fi
awk -v name="$API_NAME" -v own="$(uname -n)" '/# slipway$/ || /^[[:space:]]*#/ { next }
  { for (i = 2; i <= NF; i++) if ($i == name || $i == own || $i == "localhost") { print "hosts", $1, $i } }' /etc/hosts 2>/dev/null
resolver=/etc/resolv.conf
if systemctl is-active --quiet systemd-resolved 2>/dev/null && [ -e /run/systemd/resolve/resolv.conf ]; then
  resolver=/run/systemd/resolve/resolv.conf
fi
grep -E '^(nameserver|search|domain)[[:space:]]' $resolver 2>/dev/null | sed 's/^/resolv /'
# A proxy's address may hold a password: only that there is one is told.
systemctl show-environment 2>/dev/null | awk -F= '{ name = tolower($1) }
  name == "http_proxy" || name == "https_proxy" { print "proxy", name } name == "no_proxy" { print "direct", $2 }'
if command -v ip > /dev/null; then
  # Some go away: those that were made to be hard to trace, and those of router advertisements, which a kernel that forwards ignores.
  ip -o addr show scope global | awk '{ kind = ""
    if (/ (temporary|deprecated|dadfailed)/) kind = "passing"
    else if ($3 == "inet6" && / dynamic/) {
      heeds = 0; file = "/proc/sys/net/ipv6/conf/" $2 "/accept_ra"; getline heeds < file; close(file)
      if (heeds == 1) kind = "advertised"
    }
    sub("/.*", "", $4); print "address", $4, $2, kind }'
else
  for address in $(hostname -I 2>/dev/null); do echo "address $address"; done
fi
echo "time $(date +%s.%N)"
