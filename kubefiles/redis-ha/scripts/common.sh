#!/bin/sh
# shellcheck disable=SC2034,SC3028 # variables are for the other scripts; the kubelet sets HOSTNAME
# common.sh: for the other scripts. What each pod announces is the address of a Service of its own: it is the same for every pod that comes
# later, and no name server has to answer while a machine is down. Kubernetes hands these addresses to pods as variables.
umask 077
port=6379
sentinel_port=26379
number=${HOSTNAME##*-}

address() { # address REDIS_0
  eval "echo \"\${$1_SERVICE_HOST:?the Service of $1 has no address yet}\""
}

is_redis() { # is_redis ADDRESS
  for each in 0 1 2; do
    [ "$1" != "$(address "REDIS_$each")" ] || return 0
  done
  return 1
}

ask() { # ask ADDRESS PORT WORD...: what redis-cli prints. The password goes by the environment.
  server=$1 at=$2
  shift 2
  secret=$(cat /secret/password; echo x)
  REDISCLI_AUTH=${secret%x} timeout 3 redis-cli -h "$server" -p "$at" --no-auth-warning "$@" 2>&1 | tr -d '\r'
}

quoted_password() { # As a word of a configuration file: any byte may be in it.
  printf '"'
  od -An -v -tx1 /secret/password | tr -d '\n' | sed 's/ /\\x/g'
  printf '"'
}

primary() { # Print the address on which two of three Sentinels agree.
  answers=' '
  for each in 0 1 2; do
    answer=$(ask "$(address "REDIS_SENTINEL_$each")" $sentinel_port SENTINEL get-master-addr-by-name primary | head -n 1)
    [ -n "$answer" ] || continue
    case $answers in *" $answer "*)
      echo "$answer"
      return ;;
    esac
    answers="$answers$answer "
  done
  return 1
}
