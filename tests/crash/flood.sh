# Submits background jobs with Debian's gearman, and says which ones were acknowledged, until the server is gone.
# Usage: sh flood.sh PORT FUNCTION FIRST LAST
serial=$3
while [ "$serial" -le "$4" ]; do
    # It exits with 0 whatever happens, and complains if something does.
    complaint=$(gearman -h 127.0.0.1 -p "$1" -b -f "$2" "$serial foreign" 2>&1) || exit
    [ -z "$complaint" ] || exit
    echo "$serial"
    serial=$((serial + 1))
done
