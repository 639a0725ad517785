#!/bin/sh
# Bring back what a machine had before the cluster: names, folders, settings of the kernel, services. The folder of slipway goes.
#
#   FOLDERS  words: folders that a cluster uses, children before their parents
#   HOSTS    the file of hosts
#   MARK     the end of the lines in it that are of the cluster
#   STATE    the folder of slipway

set -u
before=$STATE/before
# In memory: what a full disk cuts off must not replace the file.
hosts=$(grep -v "$MARK\$" "$HOSTS" || [ $? = 1 ]) || exit 1
if [ "$hosts" != "$(cat "$HOSTS")" ]; then printf '%s\n' "$hosts" > "$HOSTS"; fi
if [ -e "$before/services" ]; then
  for folder in $FOLDERS; do
    if [ -d "$folder" ] && ! grep -qxF "$folder" "$before/folders"; then rm -rf "$folder" 2>/dev/null; fi
  done
  if [ -e "$before/modes" ]; then
    while read -r mode folder; do if [ -d "$folder" ]; then chmod "$mode" "$folder"; fi; done < "$before/modes"
  fi
  sysctl -e -q -p "$before/sysctl" 2>/dev/null
  systemctl daemon-reload
  while read -r unit enabled active; do
    if [ "$enabled" = enabled ]; then systemctl enable "$unit" 2>/dev/null; else systemctl disable "$unit" 2>/dev/null; fi
    if [ "$active" = active ]; then systemctl restart "$unit"; else systemctl stop "$unit" 2>/dev/null; fi
    systemctl reset-failed "$unit" 2>/dev/null
  done < "$before/services"
fi
systemctl reset-failed 'slipway-*' 2>/dev/null
if [ -s "$before/hostname" ]; then hostname "$(cat "$before/hostname")"; cat "$before/hostname" > /etc/hostname; fi
# A folder that cannot go, since a disk of its own is mounted there, has the mode again that it had.
mode=$(cat "$before/mode" 2>/dev/null)
find $STATE -mindepth 1 -delete
rmdir $STATE 2>/dev/null || { [ -n "$mode" ] && chmod "$mode" $STATE; }
exit 0
