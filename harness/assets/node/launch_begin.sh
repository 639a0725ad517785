#!/bin/sh
# Enter the rootfs of an application for a launch command. A command that was killed may still be at work: two at once would disturb each other.
#
#   FOLDER  the folder of the application

cd "$FOLDER/rootfs" || exit 1
exec 9< ..; if command -v flock > /dev/null; then flock -w 600 9; fi
unset FOLDER
