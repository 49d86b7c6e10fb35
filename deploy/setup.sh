#!/bin/sh
# Everything the project needs, on a fresh Debian with Python >= 3.11 and Node >= 20.
#
# Called by `make setup`; run it as often as you like, it does nothing when nothing changed.
# 1. uv (exact version, from PyPI, in .tools/) unless a new enough one is on PATH
# 2. .venv from uv.lock
# 3. contracts/evm/node_modules from package-lock.json
# 4. bytecode of the sources
# Sources: PyPI, the npm registry, and Debian's packages when something native is missing.
# As root it installs the missing Debian packages; otherwise it prints the line to type.
set -eu

UV_VERSION=0.13.9
PYTHON_MINOR_MIN=11
NODE_MAJOR_MIN=20

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Two set-ups at once (two terminals, a job and a person) would write into the same folders.
if command -v flock >/dev/null 2>&1; then
    exec 9<"$root"
    flock 9
fi

# A cache needs a home; without one everything stays inside the checkout.
if [ -z "${HOME:-}" ] || ! [ -w "${HOME:-/nonexistent}" ]; then
    HOME="$root/.tools/home"
    mkdir -p "$HOME"
    export HOME
fi
export UV_PYTHON_DOWNLOADS=never
export PIP_DISABLE_PIP_VERSION_CHECK=1

# need PACKAGE... : installs Debian packages as root, or says what to type.
need() {
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "missing: $* (Debian's names). Install them with this system's package tool, then run make setup again."
    fi
    if [ "$(id -u)" -ne 0 ]; then
        fail "missing Debian packages. Type this line, then run make setup again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    fi
    say "installing Debian packages: $*"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null ||
        fail "apt-get update failed; needed: $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        fail "apt-get install failed; needed: $*"
}

# --- Python -----------------------------------------------------------------------------------

python_is_good() {
    "$1" -c "import sys; sys.exit(sys.version_info[:2] < (3, $PYTHON_MINOR_MIN))" >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if python_is_good "$path"; then
            # A version manager's shim depends on the working directory; take what stands behind it.
            "$path" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# The first Debian package name that fits this interpreter: python3.12-venv, python3.12-dev, ...
python_package() {
    "$python" -c "import sys; print('python3.%d-$1' % sys.version_info[1])"
}

uv_is_good() {
    have=$("$1" --version 2>/dev/null | awk '{ print $2 }') || return 1
    [ -n "$have" ] || return 1
    [ "$(printf '%s\n%s\n' "$UV_VERSION" "$have" | sort -V | head -n 1)" = "$UV_VERSION" ]
}

find_uv() {
    for candidate in "$root/.tools/bin/uv" "$(command -v uv 2>/dev/null || true)"; do
        if [ -n "$candidate" ] && uv_is_good "$candidate"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

install_uv() {
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || need "$(python_package venv)"
    say "uv $UV_VERSION into .tools"
    "$python" -m venv --clear .tools || fail "could not create the virtual environment .tools"
    .tools/bin/python -m pip install --quiet "uv==$UV_VERSION" ||
        fail "could not install uv $UV_VERSION from PyPI"
}

# fastecdsa (pinned by libp2p) has no Linux wheel: it is compiled against gmp and Python's headers.
native_packages() {
    command -v gcc >/dev/null 2>&1 || printf 'gcc '
    if command -v gcc >/dev/null 2>&1; then
        echo '#include <stdio.h>' | gcc -E -x c - >/dev/null 2>&1 || printf 'libc6-dev '
        echo '#include <gmp.h>' | gcc -E -x c - >/dev/null 2>&1 || printf 'libgmp-dev libgmp10 '
    else
        printf 'libc6-dev libgmp-dev libgmp10 '
    fi
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$headers/Python.h" ] || python_package dev
}

stamp_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

sync_python() {
    python=$(find_python) || fail "no Python >= 3.$PYTHON_MINOR_MIN found (looked at \$PYTHON, python3, python3.13, .12, .11, .14).
    On Debian 12 or newer: apt-get install -y python3 python3-venv python3-dev"
    uv=$(find_uv) || { install_uv; uv=$(find_uv) || fail "uv does not run after its installation"; }
    if ! .venv/bin/python -c 'import fastecdsa.curve' >/dev/null 2>&1; then
        missing=$(native_packages)
        # shellcheck disable=SC2086  # a list of package names
        [ -z "$missing" ] || need $missing
    fi
    say "Python packages from uv.lock into .venv ($("$python" --version))"
    # Not UV_PYTHON and not an active environment: the place is always .venv of this checkout.
    env -u VIRTUAL_ENV -u UV_PROJECT_ENVIRONMENT -u UV_PYTHON \
        "$uv" sync --frozen --quiet --compile-bytecode --python "$python" ||
        fail "uv sync failed; what it said stands above"
    # libgmp10 may be gone while a cached build of fastecdsa is there.
    .venv/bin/python -c 'import fastecdsa.curve' 2>/dev/null || need libgmp10
    .venv/bin/python -c 'import fastecdsa.curve' || fail "fastecdsa was installed but does not load"
    printf '%s\n' "$python_stamp" >.venv/.setup-stamp
}

# --- Node -------------------------------------------------------------------------------------

check_node() {
    command -v node >/dev/null 2>&1 ||
        fail "no Node found; Node >= $NODE_MAJOR_MIN is needed for the contract tools (anvil, forge, solc)"
    command -v npm >/dev/null 2>&1 || fail "no npm found beside $(command -v node)"
    major=$(node -p 'process.versions.node.split(".")[0]') || fail "node does not run"
    [ "$major" -ge "$NODE_MAJOR_MIN" ] ||
        fail "Node $(node --version) is too old; Node >= $NODE_MAJOR_MIN is needed"
}

sync_node() {
    say "npm packages from package-lock.json into contracts/evm/node_modules"
    # Scripts stay off: the platform packages carry the executables themselves.
    (cd contracts/evm && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null) ||
        fail "npm ci failed in contracts/evm; what it said stands above"
    printf '%s\n' "$node_stamp" >contracts/evm/node_modules/.setup-stamp
}

[ -f contracts/evm/package-lock.json ] || fail "contracts/evm/package-lock.json is missing: not a whole checkout"

python_stamp=$(stamp_of uv.lock pyproject.toml)
node_stamp=$(stamp_of contracts/evm/package-lock.json)
python_due=no
node_due=no
if [ "$(cat .venv/.setup-stamp 2>/dev/null || true)" != "$python_stamp" ] ||
    ! [ -x .venv/bin/dstack-cluster ] || ! python_is_good .venv/bin/python; then
    python_due=yes
fi
if [ "$(cat contracts/evm/node_modules/.setup-stamp 2>/dev/null || true)" != "$node_stamp" ]; then
    node_due=yes
fi
# What only the person can provide is said before minutes of work, not after.
[ "$node_due" = no ] || check_node
[ "$python_due" = no ] || sync_python
[ "$node_due" = no ] || sync_node
# Ours is not installed but run from here: where Python may not write beside it, or was told not to,
# each start of a daemon would compile all of it, for a quarter of a second.
.venv/bin/python -m compileall -q attest bench chain consensus contracts/*.py deploy node *.py ||
    say "the sources could not be compiled beforehand; daemons start more slowly"
[ "$python_due$node_due" = nono ] || say "done"
