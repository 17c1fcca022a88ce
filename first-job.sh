#!/usr/bin/env bash
# Builds gearmand if necessary, and sends one job through it: server, worker and client on a UNIX socket in a
# new directory, so that nothing else on the machine interferes. Needs Rust; installs a C linker if there is
# none. Arguments are passed to cargo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! command -v cc >/dev/null; then
    if [[ $(id -u) -ne 0 ]]; then
        echo 'first-job: Rust needs a C linker; ask for: apt-get install gcc libc6-dev' >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi
cargo build --release --locked "$@"
gearmand=${CARGO_TARGET_DIR:-target}/release/gearmand

directory=$(mktemp -d)
worker=
finish() {
    [[ -z $worker ]] || kill "$worker" 2>/dev/null || true
    [[ ! -s $directory/pid ]] || kill "$(cat "$directory/pid")" 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT
server=unix:$directory/socket

# Returns when the server listens.
"$gearmand" --daemon --listen "$server" --pid-file "$directory/pid" --log-file "$directory/log"
"$gearmand" work --server "$server" --function reverse --count 1 -- rev &
worker=$!
result=$(echo 'olleh' | "$gearmand" submit --server "$server" --function reverse --timeout 30)
wait "$worker"
worker=
"$gearmand" admin --server "$server" status
echo "The job's result is: $result"
[[ $result == hello ]]
