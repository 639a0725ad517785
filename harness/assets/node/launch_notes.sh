#!/bin/sh
# For programs that stand in for others in launch commands: `note` writes down the objects that a command is about to make.
# $SLIPWAY_NOTES is the folder of the notes, $SLIPWAY_PATH the PATH without these programs. Standard input of `note` is what is to
# be made, $tmp/there lists what of it is there already.

umask 077
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
PATH=$SLIPWAY_PATH
notes=$SLIPWAY_NOTES
note() {
  touch "$notes/objects" "$tmp/there"
  while IFS= read -r line; do
    case $line in *'<'*) continue ;; esac
    printf '%s\n' "$line" >> "$notes/touched"
    if grep -qxF -e "+ $line" -e "= $line" "$notes/objects"; then continue; fi
    if grep -qxF -e "$line" "$tmp/there"; then sign='='; else sign='+'; fi
    printf '%s %s\n' "$sign" "$line" >> "$notes/objects"
  done
}
