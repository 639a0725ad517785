#!/bin/bash
# Replace the databases of a backup by what it has. $BACKUP is the name of its folder; `newest` the last one. A database is renamed while its
# copy is made, and comes back when that fails.
set -euo pipefail
export PGHOST=postgres PGUSER=postgres PGCONNECT_TIMEOUT=10 PGOPTIONS='-c client_min_messages=warning'
if [ "$BACKUP" = newest ]; then
  BACKUP=$(find /backup -maxdepth 1 -name 'postgres-*' | sort | tail -n 1)
  BACKUP=${BACKUP##*/}
fi
case $BACKUP in
  '' | */*) echo "no backup ${BACKUP@Q}" >&2; exit 1 ;;
esac
cd "/backup/$BACKUP"
# A damaged file is found before anything is changed.
sha256sum -c sums > /tmp/checked || { grep -v ': OK$' /tmp/checked >&2; exit 1; }

sql() { # sql NAME: run standard input with the variables name, the database, and aside, what it is called while its copy is made.
  { echo "SELECT 'before restore ' || md5(:'name') AS aside \\gset" && cat; } |
    psql --no-psqlrc -AtXq --set=ON_ERROR_STOP=1 --set=name="$1" postgres
}

put_aside() { sql "$1" << 'END'
SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS false', :'name') WHERE EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = :'name';
SELECT format('ALTER DATABASE %I RENAME TO %I', :'name', :'aside') WHERE EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
END
}

# Also what a restore left that was interrupted.
bring_back() { sql "$1" << 'END'
SELECT EXISTS (SELECT FROM pg_database WHERE datname = :'aside') AS aside_exists \gset
\if :aside_exists
SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', :'name') \gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', :'aside', :'name') \gexec
SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', :'name') \gexec
\endif
END
}

drop() { sql "$1" << END
SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', :'$2') \gexec
END
}

# Accounts that exist stay, with the passwords of the backup.
sed "s/^CREATE ROLE \(.*\);\$/DO \$create\$ BEGIN CREATE ROLE \1; EXCEPTION WHEN duplicate_object THEN NULL; END \$create\$;/" accounts.sql |
  psql --no-psqlrc -Xq --set=ON_ERROR_STOP=1 postgres
for file in *.name; do
  [ -e "$file" ] || continue
  number=${file%.name}
  name=$(cat "$file"; echo x)
  name=${name%x}
  bring_back "$name"
  put_aside "$name" > /dev/null
  if ! pg_restore --create --exit-on-error --dbname=postgres "$number.dump"; then
    drop "$name" name
    bring_back "$name"
    echo "${name@Q} is as it was before; databases after it were not restored" >&2
    exit 1
  fi
  drop "$name" aside
done
echo "restored $BACKUP"
