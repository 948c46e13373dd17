#!/bin/sh
# Makes the namespace of all runs, which the server of docker-compose.yml does not make itself.
set -eu
temporal operator namespace describe --namespace default >/dev/null 2>&1 ||
    temporal operator namespace create --namespace default --retention 168h
