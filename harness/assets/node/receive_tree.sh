#!/bin/sh
# Put a tree, a tar on standard input, in place of a folder. The old tree stays until the new one is complete; programs that run from it keep
# running.
#
#   FOLDER  the folder
#   UMASK   of folders that are created

set -e
umask "$UMASK"
rm -rf "$FOLDER.new"
mkdir -p "$FOLDER.new"
tar -C "$FOLDER.new" -xopf -
rm -rf "$FOLDER.old"
if [ -d "$FOLDER" ]; then mv "$FOLDER" "$FOLDER.old"; fi
mv "$FOLDER.new" "$FOLDER"
rm -rf "$FOLDER.old"
