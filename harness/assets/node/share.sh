#!/bin/sh
# Functions for machines that hand parcels on to each other. `put MODE PATH` writes a file in one move. `offer` prepares a parcel that is
# here, its key on standard input; fails where it is not whole. `serve` lets other machines fetch, and prints `opens`, then `serves` where
# that works.
#
# All lies in /run, so that it does not outlive a reboot. Older versions of systemd find a new unit only after they have been told to look,
# and its folder only if it was there then: the socket, which starts it all, comes last.
#
#   ADDRESS      the machine's own
#   CLOSE        the text of the script that ends the serving
#   END_SERVICE  the unit that runs it
#   END_TIMER    the unit that starts that one
#   FOLDER       what a machine can hand on
#   MOST         machines that may be connected at the same time
#   MOST_OF_ONE  connections of one of them
#   NAME         the parcel
#   PORT         on which the machine serves
#   RUNNING      what serving needs
#   SERVE        the text of the script that answers
#   SERVICE      the unit that runs it
#   UNIT         the units of serving, without their endings

put() { (umask "$1"; cat > "$2.$$" && mv "$2.$$" "$2"); }
offer() {
  place=$(head -n 1 $FOLDER/$NAME.have) && [ -n "$place" ] && [ -d "$place" ] && [ -s $FOLDER/$NAME.list ] || return 1
  mkdir -p $RUNNING && chmod 700 $RUNNING && mkdir -p $RUNNING/root $RUNNING/offers/$NAME $UNIT@.service.d || return 1
  put 022 $RUNNING/offers/$NAME/key && put 022 $RUNNING/offers/$NAME/list < $FOLDER/$NAME.list || return 1
  put 022 $UNIT@.service.d/$NAME.conf <<END
[Service]
BindReadOnlyPaths=-$RUNNING/offers/$NAME:/offers/$NAME -$place:/parcels/$NAME
END
}
serve() {
  echo opens
  put 022 $RUNNING/serve <<END
$SERVE
END
  put 022 $RUNNING/end <<END
$CLOSE
END
  put 022 $UNIT@.service <<END
$SERVICE
END
  put 022 $UNIT-end.service <<END
$END_SERVICE
END
  put 022 $UNIT-end.timer <<END
$END_TIMER
END
  case $ADDRESS in *:*) listen="[$ADDRESS]:$PORT" ;; *) listen=$ADDRESS:$PORT ;; esac
  before=$(cat $UNIT.socket 2>/dev/null)
  put 022 $UNIT.socket <<END
[Unit]
Description=slipway: what other machines of the cluster may fetch here

[Socket]
ListenStream=$listen
FreeBind=yes
Accept=yes
MaxConnections=$MOST
MaxConnectionsPerSource=$MOST_OF_ONE
END
  [ "$before" = "$(cat $UNIT.socket)" ] || systemctl stop slipway-share.socket > /dev/null 2>&1
  start() { systemctl restart slipway-share-end.timer && systemctl start slipway-share.socket; }
  { start || { systemctl daemon-reload; start; }; } > /dev/null 2>&1 || return 0
  # A socket accepts whatever becomes of the service behind it: only one that answers serves.
  if command -v bash > /dev/null 2>&1; then
    answer=$(timeout 20 bash -c 'exec 3<> "/dev/tcp/$1/$2" && read -r nonce <&3 && echo "$nonce"' bash "$ADDRESS" "$PORT" 2>/dev/null)
    [ ${#answer} = 64 ] || return 0
  fi
  echo serves
}
