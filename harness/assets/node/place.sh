#!/bin/sh
# Put files in their places. Standard input is a tar of them. What stood there is kept, so that `unplace.sh` can bring it back: each path
# is noted before it is replaced and what stood there is kept before it is noted, so a kill at any point can be undone.
#
#   STATE  the folder of slipway
#
# Prints the paths that are different now.

set -eu
umask 022
state=$STATE
mkdir -p "$state/saved"
chmod 700 "$state/saved"
# One at a time, so that none keeps for later what another has just put there.
exec 9< "$state/saved"
if command -v flock > /dev/null; then flock -w 600 9; fi
stage=$(mktemp -d "$state/stage.XXXXXX")
trap 'rm -rf "$stage"' EXIT
tar -C "$stage" -xopf -
touch "$state/placed" "$state/folders"
same() {
  if [ -L "$1" ] || [ -L "$2" ]; then
    [ -L "$1" ] && [ -L "$2" ] && [ "$(readlink "$1")" = "$(readlink "$2")" ]
  else
    [ -f "$2" ] && [ "$(stat -c %a "$1")" = "$(stat -c %a "$2")" ] && [ "$(cksum < "$1")" = "$(cksum < "$2")" ]
  fi
}
folder() {
  [ -d "$1" ] || { folder "$(dirname "$1")"; echo "$1" >> "$state/folders"; mkdir -p "$1"; }
}
cd "$stage"
find . ! -type d | sed 's/^\.//' | while IFS= read -r path; do
  if ! grep -qxF -- "$path" "$state/placed"; then
    if [ -e "$path" ] || [ -L "$path" ]; then
      mkdir -p "$state/saved$(dirname "$path")"
      cp -a "$path" "$state/saved$path"
    fi
    echo "$path" >> "$state/placed"
  fi
  if ! same "$stage$path" "$path"; then
    folder "$(dirname "$path")"
    # The process is in the name: the script of a controller that was killed may still run.
    new=$(dirname "$path")/.slipway-new.$$
    rm -rf "$new"
    cp -a "$stage$path" "$new"
    mv -fT "$new" "$path"
    echo "$path"
  fi
done
