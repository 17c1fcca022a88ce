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
        step "installing cargo-deny $CARGO_DENY, which takes about four minutes, once per machine"
        cargo install --quiet --locked --version "$CARGO_DENY" cargo-deny
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

step 'peers of the tests'
tests/install-peers.sh

# A released program is linked by one thread for minutes: meanwhile the other one checks the sources.
step 'the first command of the README, beside what follows'
first_job=$(mktemp)
./first-job.sh >"$first_job" 2>&1 &
first_job_pid=$!
trap 'kill "$first_job_pid" 2>/dev/null || true; rm -f "$first_job"' EXIT

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

step 'what came of the first command of the README'
if ! wait "$first_job_pid"; then
    cat "$first_job"
    exit 1
fi
tail -n 4 "$first_job"

step 'tests'
if cargo nextest --version >/dev/null 2>&1; then
    cargo test --locked --doc
    cargo nextest run --locked --no-fail-fast
else
    echo 'cargo-nextest is not here: cargo test runs the same tests, one program after another'
    cargo test --locked --no-fail-fast
fi
