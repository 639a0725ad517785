#!/bin/bash
# Replace the databases of a backup by what it has. $BACKUP is the name of its file; `newest` the last one.
set -euo pipefail
if [ "$BACKUP" = newest ]; then
  BACKUP=$(find /backup -maxdepth 1 -name 'mysql-*.sql.gz' -printf '%f\n' | sort | tail -n 1)
fi
case $BACKUP in
  '' | */*) echo "no backup ${BACKUP@Q}" >&2; exit 1 ;;
esac
# A damaged file is found before anything is changed.
gzip --test "/backup/$BACKUP"
{
  gzip --decompress --stdout "/backup/$BACKUP"
  # The backup sets the passwords of its time, and the one of root is in the Secret. Digits need no quotes, whatever the password holds.
  echo 'SET NAMES utf8mb4;'
  echo "SET @password = CONVERT(X'$(printf %s "$MYSQL_PWD" | od -An -v -tx1 | tr -d ' \n')' USING utf8mb4);"
  echo "EXECUTE IMMEDIATE CONCAT('ALTER USER root@''%'' IDENTIFIED BY ', QUOTE(@password));"
} | mariadb --no-defaults --host=mysql --user=root
echo "restored $BACKUP"
