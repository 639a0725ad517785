#!/bin/sh
# helm for launch commands: the release that it is about to make is noted, so that it can be taken back.

. ./launch_notes.sh
. ./helm_upgrades.sh
verb='' dry=''
for word in "$@"; do
  case $word in
    --dry-run|--dry-run=*|-h|--help|--generate-name|-g|--name-template*) dry=1 ;;
    install|upgrade) [ -n "$verb" ] || verb=$word ;;
  esac
done
if [ -n "$verb" ] && [ -z "$dry" ]; then
  helm "$@" --dry-run 2>/dev/null | awk '/^NAME: /{ name = $2 } /^NAMESPACE: /{ print "helm Release", $2, name; exit }' > "$tmp/all"
  read -r _ _ namespace name < "$tmp/all" || name=
  if [ -n "$name" ] && command helm status "$name" --namespace "$namespace" > "$tmp/status" 2>/dev/null; then
    cat "$tmp/all" > "$tmp/there"
  fi
  note < "$tmp/all"
  # A launch that was killed may have left helm at work, or dead on the way.
  state() { command helm status "$name" --namespace "$namespace" 2>/dev/null | sed -n 's/^STATUS: //p'; }
  if [ -s "$tmp/there" ] && grep -qxF -e "+ $(cat "$tmp/all")" "$notes/objects"; then
    end=$(($(date +%s) + 30))
    while case $(state) in pending-*) true ;; *) false ;; esac && [ "$(date +%s)" -lt "$end" ]; do sleep 1; done
    case $(state) in
      pending-install) command helm uninstall "$name" --namespace "$namespace" ;;
      pending-*) command helm rollback "$name" --namespace "$namespace" ;;
    esac
  elif [ -s "$tmp/there" ]; then
    # Somebody else's: to install it means what helm takes it for.
    command helm "$@"
    exit
  fi
fi
helm "$@"
