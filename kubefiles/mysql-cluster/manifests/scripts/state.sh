#!/bin/bash
# Print one line about this member, for members that start: "waiting INCARNATION UUID SEQNO", "primary" when it can be joined, or "busy".
read -r line < /run/mysqld/phase || exit
case $line in
  waiting*) echo "$line" ;;
  *) if bash "${0%/*}/probe.sh" ready; then echo primary; else echo busy; fi ;;
esac
