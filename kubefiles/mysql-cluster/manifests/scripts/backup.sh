#!/bin/bash
# Write all databases and accounts into a file of the claim, as of one moment, without stopping writers; keep the newest $KEEP files.
set -euo pipefail
connection=(--no-defaults --host=mysql --user=root)
umask 077
new=/backup/.new.sql.gz
databases=$(mariadb "${connection[@]}" -NBe "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA
  WHERE SCHEMA_NAME NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys') ORDER BY SCHEMA_NAME")
mapfile -t names <<< "$databases"
{
  if [ -n "$databases" ]; then
    mariadb-dump "${connection[@]}" --single-transaction --routines --events --triggers --hex-blob --add-drop-database --databases "${names[@]}"
  fi
  # Accounts that exist at a restore keep their passwords, root among them: the Secret has that one.
  # Those that members have for themselves are there in every cluster, and root may not change all of them.
  mariadb-dump "${connection[@]}" --system=users --insert-ignore |
    grep -vE "['\`](root|mysql|mariadb\.sys)['\`]@['\`]localhost['\`]"
} | gzip > $new
# A file is there under its name when it is whole, and on the disk.
gzip --test $new
sync $new
name=/backup/mysql-$(date -u +%Y%m%dT%H%M%SZ).sql.gz
mv $new "$name"
sync /backup
echo "wrote $name, $(stat --format=%s "$name") bytes"
find /backup -maxdepth 1 -name 'mysql-*.sql.gz' | sort | head -n "-$KEEP" | while read -r old; do
  rm -f "$old"
  echo "removed $old"
done
