#!/bin/sh
# Begin to gather a parcel. What the machine may have since earlier is linked, and believed no more than anything else.
#
#   EARLIER  words, patterns: folders that may have some of the files
#   FOLDER   what a machine can hand on
#   PATHS    the column at which the path begins in a list that b2sum reads
#   TOOLS    words: programs
#   WORK     the folder of the parcel
#
# Prints `without TOOL` and ends where one is missing, `part NAME` for each part that is here, `fetches` where other machines can be asked.

mkdir -p $WORK/tree && tar -C $WORK -xopf - && cd $WORK/tree || exit 1
for tool in $TOOLS; do command -v $tool > /dev/null 2>&1 || { echo "without $tool"; exit 0; }; done
begin
for old in $EARLIER; do
  [ -d "$old" ] || continue
  cut -c $PATHS- ../sums | while IFS= read -r path; do
    if [ -f "$old/$path" ] && [ ! -e "$path" ]; then mkdir -p "${path%/*}"; ln "$old/$path" "$path"; fi
  done
done
sed -n '2,$s/^/part /p' $FOLDER/*.have 2>/dev/null
if command -v bash > /dev/null 2>&1; then echo fetches; fi
