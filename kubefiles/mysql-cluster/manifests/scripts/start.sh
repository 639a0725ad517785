#!/bin/bash
# Start a member. If any other serves, join it. If none does, the member with the newest data begins, and the others join that one.
#
# Which data is newest can be known only when every member has shown its position: the last majority may have been any of them, so a member
# that is missing may have rows that all others lack. Every member therefore waits, and shows its position on port 4569, until it sees one
# that serves, or all others waiting. The second time that it sees the same incarnations wait, all of them have waited in between at one
# moment, and none served then. From that moment on only one of them may begin: the one with the highest position, the lowest ordinal among
# equals. All of them compute the same one.
set -eu
volume=/var/lib/mysql
data=$volume/data
run=/run/mysqld
config=$run/member.cnf
set_name=${HOSTNAME%-*}
ordinal=${HOSTNAME##*-}
none=00000000-0000-0000-0000-000000000000
server=

say() { echo "member $ordinal: $*" >&2; }

# Only what is new: the loop below looks every second.
said=
note() {
  [ "$said" = "$*" ] || say "$*"
  said=$*
}

phase() {
  echo "$*" > $run/phase.new
  mv $run/phase.new $run/phase
}

stop() {
  trap '' TERM INT
  if [ -n "$server" ]; then
    kill -TERM "$server" 2> /dev/null || true
    wait "$server" || true
  fi
  exit 0
}
trap stop TERM INT

# "UUID SEQNO" of the data here; "fresh -1" when there was never any.
position() {
  local uuid='' seqno='' found
  if [ ! -d $data/mysql ]; then
    echo fresh -1
    return
  fi
  if [ -e $data/grastate.dat ]; then
    uuid=$(sed -n 's/^uuid: *\([0-9a-f-]*\) *$/\1/p' $data/grastate.dat)
    seqno=$(sed -n 's/^seqno: *\(-\{0,1\}[0-9]*\) *$/\1/p' $data/grastate.dat)
  fi
  if [ "${seqno:--1}" = -1 ] || [ "${uuid:-$none}" = $none ]; then
    # It was not stopped in good order: InnoDB finishes or takes back what was under way, and has the position of the last commit.
    : > $run/recovery.log
    # It wants an address, and ends before it would use it.
    mariadbd --defaults-file=$config --wsrep-recover --wsrep-cluster-address=gcomm://127.0.0.1:9 --skip-networking \
      --log-error=$run/recovery.log >&2 || true
    found=$(sed -n 's/.*Recovered position:* *\([0-9a-f-]\{36\}\):\(-\{0,1\}[0-9]*\).*/\1 \2/p' $run/recovery.log | tail -n 1)
    if [ -n "$found" ]; then
      uuid=${found% *} seqno=${found#* }
    elif [ -e $volume/joining ]; then
      uuid=$none seqno=-1
    else
      tail -n 30 $run/recovery.log >&2
      say 'the data here cannot be recovered; to take a copy of another member, delete the claim and the pod of this one'
      return 1
    fi
  fi
  echo "$uuid $seqno"
}

# The line that another member shows; "unreachable" without one, or with anything else than such a line.
ask() {
  local line
  line=$(timeout 8 socat -u "TCP:$(host "$1"):4569,connect-timeout=3" - 2> /dev/null | head -c 200 | head -n 1) || true
  if [[ $line =~ ^(primary|busy|waiting\ [0-9a-f-]{36}\ ([0-9a-f-]{36}|fresh|partial)\ -?[0-9]{1,19})$ ]]; then echo "$line"; else echo unreachable; fi
}

host() { echo "$set_name-$1.$SERVICE"; }

addresses() {
  local member address all=
  for member; do
    address=$(getent ahosts "$(host "$member")" | awk 'NR == 1 { print index($1, ":") ? "[" $1 "]" : $1 }')
    all=$all${address:+,$address}
  done
  echo "gcomm://${all#,}"
}

# The first data of the cluster. What was cut short is made again: it becomes the data by one rename.
initialize() {
  local new=$volume/data.new pid
  say 'make the first data of the cluster'
  rm -rf $new
  mkdir -m 700 $new
  mariadb-install-db --no-defaults --datadir=$new --auth-root-authentication-method=socket --auth-root-socket-user=mysql --skip-test-db \
    --skip-name-resolve --tmpdir=/tmp >&2
  mariadbd --no-defaults --datadir=$new --wsrep-on=OFF --skip-networking --socket=$run/first.sock --pid-file=$run/first.pid --tmpdir=/tmp >&2 &
  pid=$!
  until mariadb --no-defaults --socket=$run/first.sock -e 'SELECT 1' > /dev/null 2>&1; do
    kill -0 $pid 2> /dev/null || return 1
    sleep 0.2
  done
  # The password goes in as hexadecimal digits on standard input: no character of it needs quotes, and no list of processes shows it.
  {
    echo 'SET NAMES utf8mb4;'
    echo "SET @password = CONVERT(X'$(od -An -v -tx1 /root-password/password | tr -d ' \n')' USING utf8mb4);"
    echo "EXECUTE IMMEDIATE CONCAT('CREATE USER root@''%'' IDENTIFIED BY ', QUOTE(@password));"
    echo "GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;"
  } | mariadb --no-defaults --socket=$run/first.sock
  kill -TERM $pid
  wait $pid
  sync
  rm -rf $data
  mv $new $data
  sync $volume
}

# Run the server until it ends. With `new` it begins a cluster; its addresses are of members that will join.
serve() {
  local how=$1 address=$2 options=()
  rm -f $run/mysqld.sock
  if [ "$how" = new ]; then
    options+=(--wsrep-new-cluster)
    sed -i 's/^safe_to_bootstrap:.*/safe_to_bootstrap: 1/' $data/grastate.dat 2> /dev/null || true
  else
    # What a copy has left that was cut short is no data, although InnoDB may find a position in it.
    if [ -e $volume/joining ]; then
      say 'take a whole copy: the last one was cut short'
      rm -rf $data
      uuid=fresh seqno=-1
    fi
    mkdir -p $data
    chmod 700 $data
    : > $volume/joining
    sync $volume
  fi
  [ "$seqno" -lt 0 ] || options+=("--wsrep-start-position=$uuid:$seqno")
  phase running
  mariadbd --defaults-file=$config --wsrep-node-name="$HOSTNAME" --wsrep-node-address="$POD_IP" --wsrep-cluster-address="$address" \
    "${options[@]}" &
  server=$!
  joined &
  wait $server
}

# Once it serves, its data counts again, and gets the system tables of this version.
joined() {
  local version
  until bash /cluster/probe.sh ready; do
    kill -0 $server 2> /dev/null || return 0
    sleep 1
  done
  sync
  rm -f $volume/joining
  sync $volume
  say serves
  version=$(mariadb --no-defaults --socket=$run/mysqld.sock -NBe "SELECT REGEXP_SUBSTR(VERSION(), '^[0-9]+[.][0-9]+')")
  if ! grep -qs "^$version" $data/mariadb_upgrade_info $data/mysql_upgrade_info; then
    say "bring the system tables to $version"
    mariadb-upgrade --no-defaults --user=mysql --socket=$run/mysqld.sock --skip-write-binlog >&2
    say "the system tables are of $version"
  fi
}

# The member that begins, from the lines of all: the ordinal, or why there is none.
leader() {
  local member uuid seqno known='' best='' best_seqno=-2 fresh=0
  for ((member = 0; member < MEMBERS; member++)); do
    read -r _ _ uuid seqno <<< "${lines[member]}"
    case $uuid in
      fresh) fresh=$((fresh + 1)); continue ;;
      partial) continue ;;
      "$none") ;;
      *)
        if [ -n "$known" ] && [ "$uuid" != "$known" ]; then echo "two clusters have left data here: $known and $uuid"; return; fi
        known=$uuid
        ;;
    esac
    if [ "$seqno" -gt $best_seqno ]; then best=$member best_seqno=$seqno; fi
  done
  if [ $fresh = "$MEMBERS" ]; then best=0; fi
  echo "${best:-no member has whole data}"
}

# Ask all others; return with "join GCOMM" or "new GCOMM" in $decision, or nothing in it when there is nothing to do yet.
decide() {
  local member others=() serving=() missing=() before=() chosen round
  decision=
  for round in 1 2; do
    lines=() others=() serving=() missing=()
    for ((member = 0; member < MEMBERS; member++)); do
      if [ "$member" = "$ordinal" ]; then
        lines[member]="waiting $incarnation $shown $seqno"
        continue
      fi
      others+=("$member")
      lines[member]=$(ask "$member")
      case ${lines[member]} in
        primary) serving+=("$member") ;;
        waiting*) ;;
        *) missing+=("$set_name-$member is ${lines[member]}") ;;
      esac
    done
    if [ ${#serving[@]} -gt 0 ]; then
      decision="join $(addresses "${serving[@]}")"
      # Without an address it would begin a cluster of its own.
      [[ $decision =~ gcomm://\[?[0-9a-f] ]] || decision=
      return
    fi
    if [ -e $volume/begin ] && [ "$uuid" != fresh ]; then
      say 'begin the cluster without asking the others: the file begin asks for it'
      rm -f $volume/begin
      sync $volume
      decision="new $(addresses "${others[@]}")"
      return
    fi
    if [ ${#missing[@]} -gt 0 ]; then
      note "no member serves; wait for all: ${missing[*]}"
      return
    fi
    chosen=$(leader)
    if [ "$chosen" != "$ordinal" ]; then
      note "no member serves; to begin: ${chosen}"
      return
    fi
    if [ $round = 2 ] && [ "${lines[*]}" = "${before[*]}" ]; then
      say 'begin the cluster: no member serves, all of them wait, and none has newer data'
      decision="new $(addresses "${others[@]}")"
      return
    fi
    before=("${lines[@]}")
  done
}

phase starting
# In a file: the program that copies all data refuses it on the command line, from which it takes the options of the server.
{ cat /cluster/member.cnf; echo "innodb-buffer-pool-size = $((MEMORY * 2 / 5))"; } > $config
# The pod before this one may not have ended yet, when it was removed by force. The server inherits the lock, so it holds until that ends.
exec 9> $volume/lock
flock 9
# For good: clients of this port are members that start, also while this one serves.
socat -U TCP-LISTEN:4569,fork,reuseaddr,max-children=20 EXEC:'bash /cluster/state.sh' &
read -r uuid seqno < <(position) || true
[ -n "${seqno:-}" ] || exit 1
shown=$uuid
# A member that was joining is behind the one that it joined, and its copy may not be whole.
[ ! -e $volume/joining ] || shown=partial
incarnation=$(cat /proc/sys/kernel/random/uuid)
phase "waiting $incarnation $shown $seqno"
say "the data here is at $uuid:$seqno"
while :; do
  decide
  [ -z "$decision" ] || break
  sleep 1
done
read -r how address <<< "$decision"
if [ "$how" = new ] && [ "$uuid" = fresh ]; then
  phase starting
  initialize
  uuid=$none
fi
serve "$how" "$address"
