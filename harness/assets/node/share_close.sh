#!/bin/sh
# End what other machines may fetch here; harmless where nothing serves.
#
#   FOLDER   what a machine can hand on
#   RUNNING  what serving needs
#   UNIT     the units of serving, without their endings

systemctl stop slipway-share.socket 'slipway-share@*' slipway-share-end.timer 2>/dev/null
rm -rf $UNIT.socket $UNIT@.service $UNIT@.service.d $UNIT-end.timer $UNIT-end.service $RUNNING $FOLDER/password
