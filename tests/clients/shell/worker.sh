#!/bin/sh
# A worker on the tool of gearman-tools. It runs one command per job: `reverse` is all it can do.
# Usage: worker.sh HOST PORT
exec gearman -w -h "$1" -p "$2" -f reverse -- rev
