#!/bin/sh
# A function for the folder of a parcel's files. `lacking`: writes into ../lacking the files that are not here as ../sums has them. A path that
# is no plain file, or not the one that the list names, is removed: it must not be taken for it.
#
#   PATHS  the column at which the path begins in a list that b2sum reads

lacking() {
  cut -c $PATHS- ../sums | tr '\n' '\0' | xargs -0 sh -c 'for path; do
    if [ -L "$path" ] || { [ -e "$path" ] && [ ! -f "$path" ]; }; then rm -rf "$path"; fi
  done' sh
  : > ../lacking
  [ -s ../sums ] || return 0
  b2sum -c ../sums > ../checked 2> /dev/null
  code=$?
  sed -n 's/: FAILED\( open or read\)\{0,1\}$//p' ../checked > ../lacking
  # It may also have been killed.
  if [ $code != 0 ] && [ ! -s ../lacking ]; then echo 'b2sum did not read the files' >&2; exit 1; fi
  tr '\n' '\0' < ../lacking | xargs -0 rm -f --
}
