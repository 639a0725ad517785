#!/bin/sh
# Put a tree, a tar on standard input, in place of a folder. The old tree stays until the new one is complete; programs that run from it keep
# running.
#
#   FOLDER  the folder
#   UMASK   of folders that are created

set -e
umask "$UMASK"
mkdir -p "$(dirname "$FOLDER")"
# One at a time: the script of a controller that was killed may still run.
exec 9< "$(dirname "$FOLDER")"
if command -v flock > /dev/null; then flock -w 600 9; fi
rm -rf "$FOLDER.new"
mkdir -p "$FOLDER.new"
tar -C "$FOLDER.new" -xopf -
rm -rf "$FOLDER.old"
if [ -d "$FOLDER" ]; then mv "$FOLDER" "$FOLDER.old"; fi
mv "$FOLDER.new" "$FOLDER"
rm -rf "$FOLDER.old"
