#!/bin/bash
# Start Patroni, which starts PostgreSQL.
set -eu
# A pod that was deleted by force may still run on this machine: two servers must never have one folder of data.
exec 9> /var/lib/postgresql/lock
flock --nonblock 9 || { echo 'another pod has this data; waiting until it ends'; flock 9; }
umask 077
# A quarter of the memory, as PostgreSQL's manual recommends.
sed "s/SHARED_BUFFERS/$((MEMORY / 4))MB/" /member/patroni.yaml > /run/postgresql/patroni.yaml
exec patroni /run/postgresql/patroni.yaml
