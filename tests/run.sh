#!/usr/bin/env bash
# Runs every check that a change must pass, on a Debian 12 machine with Rust. Installs what is missing (Debian
# packages as root), stops at the first failure, and prints the count of tests at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Raised manually: a new version may come with new rules.
CARGO_DENY=0.20.2

step() {
    printf '\n== %s (%d s so far)\n' "$*" "$SECONDS"
}

# Any version that is already installed is used. This one is installed otherwise: the rules were written with
# it.
install_cargo_deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        step "installing cargo-deny $CARGO_DENY, which takes about a minute, once per machine"
        # Without optimisation: it runs for only a second.
        cargo install --quiet --locked --debug --version "$CARGO_DENY" cargo-deny
    fi
}

check_supply_chain() {
    cargo deny --locked check bans licenses sources
    # The advisories are in a remote git repository. If it cannot be reached, this is reported and the script
    # continues.
    if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check --disable-fetch advisories
    else
        echo 'NOT CHECKED: advisories (their database cannot be reached from this machine)'
    fi
}

# Steps that wait for a network or use a single compiler thread run in the background.
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT

beside() {
    local name=$1
    shift
    step "$name, beside what follows"
    "$@" >"$logs/$name" 2>&1 &
    printf -v "pid_${name//[^a-z]/_}" %s $!
}

# Waits for a step started by `beside`, and shows its output.
finished() {
    local name=$1 pid=pid_${1//[^a-z]/_}
    step "what came of: $name"
    if ! wait "${!pid}"; then
        cat "$logs/$name"
        exit 1
    fi
    tail -n 4 "$logs/$name"
}

# Without a linker nothing can be built: it is among the packages of the peers.
if command -v cc >/dev/null; then
    beside 'peers of the tests' tests/install-peers.sh
else
    step 'peers of the tests'
    tests/install-peers.sh
fi
# Built as by users, but without optimisation, which takes minutes.
beside 'first command of the readme' env CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=0 ./first-job.sh

step 'format'
cargo fmt --check

step 'lints'
cargo clippy --locked --all-targets -- -D warnings

step 'documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

install_cargo_deny
step 'licences, sources and bans of dependencies'
check_supply_chain

step 'programs of the tests'
cargo test --locked --no-run

finished 'first command of the readme'
[[ -z ${pid_peers_of_the_tests:-} ]] || finished 'peers of the tests'

step 'tests'
if cargo nextest --version >/dev/null 2>&1; then
    cargo test --locked --doc
    cargo nextest run --locked --no-fail-fast
else
    echo 'cargo-nextest is not here: cargo test runs the same tests, one program after another'
    cargo test --locked --no-fail-fast
fi
