# Submits background jobs with Debian's gearman, and says which ones were acknowledged, until the server is gone.
# Usage: sh flood.sh PORT FUNCTION FIRST LAST
serial=$3
while [ "$serial" -le "$4" ] && gearman -h 127.0.0.1 -p "$1" -b -f "$2" "$serial foreign" >/dev/null 2>&1; do
    echo "$serial"
    serial=$((serial + 1))
done
