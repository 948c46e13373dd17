#!/bin/sh
# Runs once, when the database of docker-compose.yml is made: the roles and databases of Dalang and of Temporal.
set -eu
psql --username postgres --no-password --set ON_ERROR_STOP=1 \
    --set owner="$DATABASE_OWNER_PASSWORD" --set app="$DATABASE_APP_PASSWORD" --set temporal="$TEMPORAL_PASSWORD" <<'SQL'
CREATE ROLE dalang_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner';
CREATE ROLE dalang_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'app';
CREATE ROLE dalang_system NOLOGIN;
GRANT dalang_system TO dalang_app WITH INHERIT FALSE;
CREATE ROLE temporal LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'temporal';
CREATE DATABASE dalang OWNER dalang_owner;
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
REVOKE ALL ON DATABASE dalang, temporal, temporal_visibility FROM PUBLIC;
GRANT CONNECT ON DATABASE dalang TO dalang_app;
SQL
