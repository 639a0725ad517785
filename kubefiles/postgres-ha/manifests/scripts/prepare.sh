#!/bin/bash
# Once, in a new cluster, by its first leader: the account by which PgBouncer asks for the passwords of those that log in. Superusers and
# accounts for replication do not pass through it.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 "$1" << 'END'
\getenv password PGBOUNCER_PASSWORD
CREATE ROLE pgbouncer LOGIN PASSWORD :'password';
CREATE SCHEMA pgbouncer;
GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer;
CREATE FUNCTION pgbouncer.lookup(wanted text, OUT name text, OUT secret text) RETURNS SETOF record
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
  AS $$
    SELECT rolname, rolpassword FROM pg_authid
    WHERE rolname = wanted AND rolcanlogin AND NOT rolsuper AND NOT rolreplication AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
  $$;
REVOKE ALL ON FUNCTION pgbouncer.lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgbouncer.lookup(text) TO pgbouncer;
END
