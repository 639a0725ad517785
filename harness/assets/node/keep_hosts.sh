#!/bin/sh
# Put the names of the cluster into the file of hosts, in place of those that it has. The file is written in place, since in a container it is a
# mount, and from memory: what a full disk cuts off must not replace it.
#
#   HOSTS  the file
#   MARK   the end of the lines that are of the cluster
#   STATE  the folder of slipway, which has these lines

own=$(cat "$STATE/hosts") && others=$(grep -v "$MARK\$" "$HOSTS" || [ $? = 1 ]) || exit 1
new=$(printf '%s\n' ${others:+"$others"} "$own")
if [ "$new" != "$(cat "$HOSTS")" ]; then printf '%s\n' "$new" > "$HOSTS"; fi
