#!/bin/sh
# Functions: `reach ADDRESS PORT` and `packet ADDRESS PORT` print how that ended. A machine that is busy may take its time; one that drops
# packets takes for ever.

reach() {
  for seconds in 3 8; do
    said=$(timeout $seconds bash -c "exec 3<>/dev/tcp/$1/$2" 2>&1)
    code=$?
    case $code in 124 | 143) ;; *) break ;; esac
  done
  case $code/$said in
    0/*) how=ok ;;
    124/* | 143/*) how=silent ;;
    *refused*) how=refused ;;
    *route* | *unreachable*) how=unroutable ;;
    *) how=unknown ;;
  esac
  echo "reach $1 $2 $how"
}
packet() {
  # A datagram is read at once, and what is not taken of it is gone.
  ask="exec 3<>/dev/udp/$1/$2; for again in 1 2 3; do echo slipway >&3; read -r -t 1 -n 1 -u 3 && exit 0; done; exit 1"
  if timeout 5 bash -c "$ask" 2>/dev/null; then echo "packet $1 yes"; else echo "packet $1 no"; fi
}
