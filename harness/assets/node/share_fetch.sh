#!/bin/sh
# Fetch files from another machine. tar takes only names of the list, whatever is served. A machine that dies says nothing: it is given up
# when nothing arrives any more.
#
#   CONNECTED  seconds for a connection
#   NAME       the parcel
#   PEER       the address of the other machine
#   PORT       on which it serves
#   STALLED    seconds without a byte after which it is given up
#   WORK       the folder of the parcel

cd $WORK/tree || exit 1
rm -f ../connected
bash -c 'exec 3<> "/dev/tcp/$1/$2" || exit 1
  : > ../connected
  IFS= read -r nonce <&3 || exit 1
  code=$({ cat ../key; printf "%s\n" "$nonce" "$3"; cat ../lacking; } | b2sum)
  { printf "%s\n" "${code%% *}" "$3" "$(($(wc -c < ../lacking)))"; cat ../lacking; } >&3 || exit 1
  exec tar -b 512 -xof - -T ../lacking <&3 3>&-' bash "$PEER" "$PORT" "$NAME" &
fetching=$!
( sleep "$CONNECTED"
  [ -e ../connected ] || kill -9 $fetching
  before=$(du -sk .)
  while sleep "$STALLED"; do now=$(du -sk .); [ "$now" != "$before" ] || kill -9 $fetching; before=$now; done
) > /dev/null 2>&1 < /dev/null &
watching=$!
wait $fetching
kill $watching
