#!/bin/sh
# A fresh database in /data, open to everybody who reaches it: the mesh is what guards it.
set -e
if [ ! -e /data/pg ]; then
    initdb --pgdata /data/pg --username postgres --auth trust --no-locale --encoding UTF8 --no-sync
    echo 'host all all all trust' >> /data/pg/pg_hba.conf
fi
exec postgres -D /data/pg -c 'listen_addresses=*' -c unix_socket_directories=/tmp -c fsync=off
