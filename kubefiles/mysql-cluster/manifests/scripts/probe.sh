#!/bin/bash
# probe.sh ready: it serves. probe.sh live: it serves, or it is on its way there. A member without a majority does not serve; started again
# it joins the others as soon as they can be reached.
set -u
run=/run/mysqld

# SHOW is answered by a member that does not serve, too.
status() {
  mariadb --no-defaults --connect-timeout=3 --socket=$run/mysqld.sock -NBe "SHOW GLOBAL STATUS LIKE '$1'" 2> /dev/null | cut -f 2
}

receives_state() {
  local process
  for process in /proc/[0-9]*; do
    case $(tr '\0' ' ' 2> /dev/null < "$process/cmdline") in *wsrep_sst_*'--role joiner'* | *wsrep_sst_*"--role 'joiner'"*) return 0 ;; esac
  done
  return 1
}

case $1 in
  ready)
    [ "$(status wsrep_ready)" = ON ] || exit 1
    # Synced; a donor serves too, since it sends a copy that is made beside its work.
    case $(status wsrep_local_state) in 4 | 2) exit 0 ;; *) exit 1 ;; esac
    ;;
  live)
    read -r line < $run/phase || exit 0
    [ "$line" = running ] || exit 0
    [ "$(status wsrep_cluster_status)" = Primary ] || receives_state
    ;;
esac
