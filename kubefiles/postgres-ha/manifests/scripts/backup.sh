#!/bin/bash
# Write accounts and every database but `postgres` into a folder of the claim, each as of one moment, without stopping writers; keep the newest
# $KEEP folders.
set -euo pipefail
export PGHOST=postgres PGUSER=postgres PGCONNECT_TIMEOUT=10
umask 077
new=/backup/.new
rm -rf $new
mkdir $new
# Accounts that this image makes have the passwords of the cluster's Secret, and are in every cluster.
pg_dumpall --globals-only | { grep -vE '^(CREATE|ALTER) ROLE (postgres|standby|pgbouncer)[ ;]' || test $? = 1; } > $new/accounts.sql
psql --no-psqlrc -AtXq0 -c "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' ORDER BY datname" \
  postgres > /tmp/names
mapfile -d '' -t names < /tmp/names
for number in "${!names[@]}"; do
  # A name may hold anything, and a file cannot be called so.
  printf %s "${names[number]}" > "$new/$number.name"
  # Quoted as a connection string wants it.
  quoted=${names[number]//\\/\\\\}
  pg_dump --format=custom --create --file="$new/$number.dump" "dbname='${quoted//\'/\\\'}'"
done
(cd $new && sha256sum -- * > /tmp/sums && mv /tmp/sums sums)
# A backup is there under its name when it is whole, and on the disk.
sync
name=postgres-$(date -u +%Y%m%dT%H%M%SZ)
mv $new "/backup/$name"
sync
echo "wrote $name, ${#names[@]} databases"
find /backup -maxdepth 1 -name 'postgres-*' | sort | head -n "-$KEEP" | while read -r old; do
  rm -rf "$old"
  echo "removed $old"
done
