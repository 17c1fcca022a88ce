#!/usr/bin/env bash
# Installs what the tests need in addition to Rust on a Debian 12 machine: Debian's gearmand (to compare
# with), its tools, Gearman libraries for PHP, Perl, C, Python and Node.js, the databases that can hold
# queues, beanstalkd (for benches), tools that check HTTP (promtool, schemathesis), a browser, and tools that
# create separate hosts for a fleet. Needs root only if a Debian package is missing; exits quickly if
# everything is installed.
#
#   tests/install-peers.sh           install what is missing
#   tests/install-peers.sh --check   only report what is missing; exit status 1 if anything is
#
# No gearmand, database or Prometheus is left running: the tests start their own, on their own ports.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
clients=$here/clients
venv=$clients/venv

# Required files, and the Debian packages that contain them.
packages_of_files() {
    cat <<'LIST'
/usr/sbin/gearmand gearman-job-server
/usr/bin/beanstalkd beanstalkd
/usr/bin/gearman gearman-tools
/usr/bin/gearadmin gearman-tools
/usr/share/perl5/Gearman/Client.pm libgearman-client-perl
/usr/include/libgearman/gearman.h libgearman-dev
/usr/include/stdlib.h libc6-dev
/usr/sbin/mariadbd mariadb-server
/usr/bin/promtool prometheus
/usr/bin/redis-server redis-server
LIST
}
packages_of_commands() {
    cat <<'LIST'
cc gcc
chromium chromium
ip iproute2
nsenter util-linux
perl perl
php php-cli
mariadb mariadb-client
mkfs.ext4 e2fsprogs
nc netcat-openbsd
psql postgresql-client
python3 python3-venv
node nodejs
npm npm
redis-cli redis-tools
sqlite3 sqlite3
tmux tmux
LIST
}

# Services that these packages would start.
services_of_packages() {
    cat <<'LIST'
beanstalkd beanstalkd
gearman-job-server gearman-job-server
mariadb-server mariadb
postgresql postgresql
prometheus prometheus
redis-server redis-server
LIST
}

missing_packages() {
    local item package
    while read -r item package; do
        [[ -e $item ]] || echo "$package"
    done < <(packages_of_files)
    while read -r item package; do
        command -v "$item" >/dev/null || echo "$package"
    done < <(packages_of_commands)
    if command -v php >/dev/null && ! php -r 'exit(extension_loaded("gearman") ? 0 : 1);' 2>/dev/null; then
        echo php-gearman
    elif ! command -v php >/dev/null; then
        echo php-gearman
    fi
    # Its programs are in a directory named after their version.
    if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
        echo postgresql
    fi
    # nc.traditional has no -N.
    if command -v nc >/dev/null && [[ $(readlink -f "$(command -v nc)") != *nc.openbsd ]]; then
        echo netcat-openbsd
    fi
    if command -v python3 >/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
        echo python3-venv
    fi
}

# A directory is up to date if it contains a copy of the list that it was installed from.
python_is_current() {
    [[ -x $venv/bin/python ]] && cmp -s "$clients/requirements.txt" "$venv/installed-from"
}
node_is_current() {
    cmp -s "$clients/package-lock.json" "$clients/node_modules/installed-from"
}

install_packages() {
    if [[ $(id -u) -ne 0 ]]; then
        echo "install-peers: not root; ask for: apt-get install $*" >&2
        exit 1
    fi
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [[ ! -e $policy ]]; then
        # 101 means "forbidden by policy": the packages' own gearmand, databases and Prometheus are not
        # started.
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made_policy=yes
        # shellcheck disable=SC2064
        trap "rm -f '$policy'" EXIT
    fi
    if [[ " $* " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
        # The tests create their own clusters; the package need not create one.
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    echo "install-peers: apt-get install $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    if [[ $made_policy ]]; then
        rm -f "$policy"
        trap - EXIT
    fi
    # Do not start them at the next boot either.
    local package service
    while read -r package service; do
        [[ " $* " == *" $package "* ]] || continue
        if command -v systemctl >/dev/null; then
            systemctl disable --now "$service" >/dev/null 2>&1 || true
        fi
        if command -v update-rc.d >/dev/null; then
            update-rc.d "$service" disable >/dev/null 2>&1 || true
        fi
    done < <(services_of_packages)
    if [[ " $* " == *" gearman-job-server "* ]] && (: <>/dev/tcp/127.0.0.1/4730) 2>/dev/null; then
        echo "install-peers: warning: something listens on port 4730; the tests do not use it" >&2
    fi
}

install_python() {
    echo "install-peers: Python libraries into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --requirement "$clients/requirements.txt"
    "$venv/bin/python" -c 'import gear, gearman, schemathesis'
    cp "$clients/requirements.txt" "$venv/installed-from"
}

install_node() {
    echo "install-peers: Node.js libraries into $clients/node_modules"
    npm ci --prefix "$clients" --no-audit --no-fund --loglevel=error
    cp "$clients/package-lock.json" "$clients/node_modules/installed-from"
}

mapfile -t packages < <(missing_packages | sort -u)

if [[ ${1:-} == --check ]]; then
    status=0
    if [[ ${#packages[@]} -gt 0 ]]; then
        echo "missing Debian packages: ${packages[*]}"
        status=1
    fi
    python_is_current || { echo "missing or outdated: $venv"; status=1; }
    node_is_current || { echo "missing or outdated: $clients/node_modules"; status=1; }
    exit "$status"
elif [[ $# -gt 0 ]]; then
    echo "usage: $0 [--check]" >&2
    exit 2
fi

if [[ ${#packages[@]} -gt 0 ]]; then
    install_packages "${packages[@]}"
fi
python_is_current || install_python
node_is_current || install_node
echo "install-peers: all peers of the tests are there"
