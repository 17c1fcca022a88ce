#!/usr/bin/env bash
# Everything a change must pass, on a Debian 12 machine with Rust. It installs what is missing (Debian packages as root),
# stops at the first failure, and ends with the count of tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A new version may come with new rules: it is raised by hand.
CARGO_DENY=0.20.2

step() {
    printf '\n== %s (%d s so far)\n' "$*" "$SECONDS"
}

# Whichever version a machine has will do; the one installed here is the one that the rules were written with.
install_cargo_deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        step "installing cargo-deny $CARGO_DENY, which takes about a minute, once per machine"
        # Without optimisation: it runs for a second.
        cargo install --quiet --locked --debug --version "$CARGO_DENY" cargo-deny
    fi
}

check_supply_chain() {
    cargo deny --locked check bans licenses sources
    # The advisories are a git repository elsewhere; a machine that cannot reach it says so and goes on.
    if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check --disable-fetch advisories
    else
        echo 'NOT CHECKED: advisories (their database cannot be reached from this machine)'
    fi
}

# What has to wait for a network or for one thread of the compiler goes on beside what has not.
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT

beside() {
    local name=$1
    shift
    step "$name, beside what follows"
    "$@" >"$logs/$name" 2>&1 &
    printf -v "pid_${name//[^a-z]/_}" %s $!
}

# Waits for what was begun by `beside`, and shows what it said.
finished() {
    local name=$1 pid=pid_${1//[^a-z]/_}
    step "what came of: $name"
    if ! wait "${!pid}"; then
        cat "$logs/$name"
        exit 1
    fi
    tail -n 4 "$logs/$name"
}

# Without a linker nothing can be built: it is among the peers' packages.
if command -v cc >/dev/null; then
    beside 'peers of the tests' tests/install-peers.sh
else
    step 'peers of the tests'
    tests/install-peers.sh
fi
# As it is for users, but for the optimisation, which takes minutes.
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
