#!/bin/sh
# Run once by PostgreSQL's image, on an empty volume: the service gets a role that owns its database and nothing else,
# and pgvector, which only a superuser may install. The superuser then has no password: it comes in by the socket inside
# the container (`docker compose exec postgres psql -U postgres facemargin`) and not over the network.
set -eu

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password POSTGRES_PASSWORD
CREATE EXTENSION IF NOT EXISTS vector;
CREATE ROLE facemargin LOGIN PASSWORD :'password';
ALTER DATABASE :"DBNAME" OWNER TO facemargin;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
ALTER ROLE CURRENT_USER PASSWORD NULL;
SQL
