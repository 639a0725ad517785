#!/bin/sh
# End a turn of gathering a parcel. Only with all that it should hold it is put into its place, and only then offered to others.
#
#   FOLDER  what a machine can hand on
#   NAME    the parcel
#   PATHS   the column at which the path begins in a list that b2sum reads
#   WORK    the folder of the parcel
#
# Prints the files that are lacking, or `whole`.

lacking
if [ -s ../lacking ]; then cat ../lacking; exit 0; fi
( set -e
finish
)
code=$?
[ $code = 0 ] || exit $code
mkdir -p $FOLDER && chmod 700 $FOLDER
cut -c $PATHS- $WORK/sums | sort | put 022 $FOLDER/$NAME.list && put 022 $FOLDER/$NAME.have < $WORK/have || exit 1
offer < $WORK/key
offered=$?
cd / && rm -rf $WORK
echo whole
if [ $offered = 0 ]; then serve; fi
