#!/bin/sh
# End the API server of a control-plane node, and what stands on it. The controllers end first: while the API server still answers, those of
# other nodes take over at once what these led. Then the API server: it is not ready any more, takes its address out of the service
# `kubernetes`, serves on until nobody is sent to it (--shutdown-delay-duration), ends its watches and lets other requests come to their end.
#
#   AWAY       the folder for the manifests meanwhile
#   CLIENTS    words: the parts that end first
#   MANIFESTS  the folder of the manifests
#   SERVER     the API server
#   TIMEOUT    seconds
#
# Prints the part that does not end, and fails.

. ./running.sh
. ./kubectl.sh
. ./arm_return.sh
# shellcheck disable=SC2174
mkdir -p -m 700 $AWAY
end=$(($(date +%s) + $TIMEOUT))
take() {
  if [ -e $MANIFESTS/"$1".yaml ]; then
    cp -p $MANIFESTS/"$1".yaml $AWAY/.part && mv -f $AWAY/.part $AWAY/"$1".yaml && rm -f $MANIFESTS/"$1".yaml || exit 1
  fi
}
ended() {
  while [ -n "$(running "$1")" ]; do
    if [ "$(date +%s)" -gt "$end" ]; then echo "$1 does not end"; exit 1; fi
    sleep 0.3
  done
}
release() {
  holder=$(kubectl --request-timeout=5s --namespace=kube-system get lease "$1" -o jsonpath='{.spec.holderIdentity}' 2>/dev/null)
  case $holder in *[!A-Za-z0-9._-]*) ;; "$(uname -n)"_*)
    at='"path":"/spec/holderIdentity"'
    patch="[{\"op\":\"test\",$at,\"value\":\"$holder\"},{\"op\":\"replace\",$at,\"value\":\"\"}]"
    kubectl --request-timeout=5s --namespace=kube-system patch lease "$1" --type=json -p "$patch" > /dev/null 2>&1 ;;
  esac
}
for part in $CLIENTS; do take $part; done
for part in $CLIENTS; do ended $part; release $part; done
take $SERVER
ended $SERVER
exit 0
