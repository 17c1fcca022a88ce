#!/bin/sh
# A client on the tool of gearman-tools. Usage: client.sh HOST PORT run FUNCTION WORKLOAD
set -eu
host=$1 port=$2 command=$3 function=$4 workload=$5
[ "$command" = run ]
result=$(gearman -h "$host" -p "$port" -f "$function" "$workload")
echo "complete $result"
