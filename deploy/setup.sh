#!/bin/sh
# Everything the project needs, on a fresh Debian with Python 3.11 to 3.13 and Node >= 20.
#
# Called by `make setup`; run it as often as you like, it does nothing when nothing changed.
# 1. Debian's packages, when something native is missing: a compiler, headers, Python or Node itself
# 2. uv (exact version, from PyPI, in .tools/) unless a new enough one is on PATH
# 3. .venv from uv.lock
# 4. contracts/evm/node_modules from package-lock.json
# 5. bytecode of the sources
# As root it installs the missing Debian packages; otherwise it prints the line to type.
# PYTHON=/path/to/python takes that interpreter, and makes .venv anew when it has another one.
set -eu

UV_VERSION=0.13.9
PYTHON_MIN=3.11
PYTHON_END=3.14 # the first that is too new: coincurve (pinned by libp2p) cannot be built there
NODE_MAJOR_MIN=20

# -P: a checkout that is reached by a symbolic link is still the same one.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
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

# --- Debian's packages ------------------------------------------------------------------------

# loudly_if_it_fails COMMAND... : what it prints is shown only when it fails.
loudly_if_it_fails() {
    said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2; return 1; }
}

# at_least MINIMUM VERSION
at_least() {
    [ -n "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Once in a run, and only when a package is needed. A new container has no lists at all.
apt_lists=old
refresh_apt() {
    [ "$apt_lists" = old ] || return 0
    loudly_if_it_fails apt-get update -qq || fail "apt-get update failed; what it said stands above"
    apt_lists=new
}

# debian_offers PACKAGE MINIMUM END : whether this system's packages have it, in a version before END.
debian_offers() {
    command -v apt-get >/dev/null 2>&1 || return 1
    ! is_root || refresh_apt
    offered=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }')
    at_least "$2" "$offered" && ! at_least "$3" "$offered"
}

# need PACKAGE... : installs Debian packages as root, or says what to type.
need() {
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "missing: $* (Debian's names). Install them with this system's package tool, then run make setup again."
    fi
    if ! is_root; then
        fail "missing Debian packages. Type this line, then run make setup again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    fi
    say "installing Debian packages: $*"
    refresh_apt
    DEBIAN_FRONTEND=noninteractive loudly_if_it_fails apt-get install -y -qq --no-install-recommends "$@" ||
        fail "apt-get install failed; needed: $*"
}

# --- Python -----------------------------------------------------------------------------------

python_is_good() {
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
    at_least "$PYTHON_MIN" "$version" && ! at_least "$PYTHON_END" "$version"
}

# recorded LINE : of what the last set-up left in .venv: stamp, checkout, interpreter.
recorded() { sed -n "$1p" .venv/.setup-stamp 2>/dev/null || true; }

# The interpreter itself: a version manager's shim depends on the working directory, and an active
# virtual environment may be the very one that is made anew. Once chosen, it stays.
find_python() {
    for candidate in ${PYTHON:-$(recorded 3) python3 python3.13 python3.12 python3.11}; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if python_is_good "$path"; then
            "$path" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)'
            return 0
        fi
    done
    return 1
}

no_python() {
    wanted="Python >= $PYTHON_MIN and < $PYTHON_END"
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no $wanted"
    fail "no $wanted found (looked for python3, python3.13, .12, .11). Debian 12 and 13 have one;
    PYTHON=/path/to/python make setup takes any other"
}

# python_package NAME : for this interpreter, python3.12-venv, python3.12-dev, ...
python_package() {
    "$python" -c "import sys; print('python3.%d-$1' % sys.version_info[1])"
}

uv_is_good() {
    at_least "$UV_VERSION" "$("$1" --version 2>/dev/null | awk '{ print $2 }')"
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
    say "uv $UV_VERSION into .tools"
    "$python" -m venv --clear .tools || fail "could not create the virtual environment .tools"
    .tools/bin/python -m pip install --quiet "uv==$UV_VERSION" ||
        fail "could not install uv $UV_VERSION from PyPI; what pip said stands above (no network? a proxy?)"
}

# Without libgmp10, or after the system went to another Python, it does not.
venv_works() { .venv/bin/python -c 'import fastecdsa.curve' >/dev/null 2>&1; }

# A copied .venv starts the code of the checkout it came from, a moved one nothing: paths are in it.
venv_may_stay() {
    [ "$(recorded 2)" = "$root" ] && [ "$(recorded 3)" = "$python" ] && venv_works
}

# python_packages : Debian's names of what is missing before .venv can be made.
python_packages() {
    if ! python=$(find_python); then
        [ -z "${PYTHON:-}" ] && debian_offers python3 "$PYTHON_MIN" "$PYTHON_END" || no_python
        echo python3 python3-venv python3-dev gcc libc6-dev libgmp-dev libgmp10
        return
    fi
    find_uv >/dev/null || "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || python_package venv
    # fastecdsa (pinned by libp2p) has no Linux wheel: it is compiled against gmp and Python's headers.
    ! venv_may_stay || return 0
    if command -v gcc >/dev/null 2>&1; then
        echo '#include <stdio.h>' | gcc -E -x c - >/dev/null 2>&1 || echo libc6-dev
        echo '#include <gmp.h>' | gcc -E -x c - >/dev/null 2>&1 || echo libgmp-dev libgmp10
    else
        echo gcc libc6-dev libgmp-dev libgmp10
    fi
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$headers/Python.h" ] || python_package dev
}

stamp_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

python_is_due() {
    [ "$(recorded 1)" = "$python_stamp" ] && [ "$(recorded 2)" = "$root" ] &&
        [ -x .venv/bin/dstack-cluster ] && venv_works || return 0
    [ -n "${PYTHON:-}" ] || return 1
    [ "$(find_python)" != "$(recorded 3)" ]
}

sync_python() {
    python=$(find_python) || no_python
    uv=$(find_uv) || { install_uv; uv=$(find_uv) || fail "uv does not run after its installation"; }
    venv_may_stay || rm -rf .venv
    say "Python packages from uv.lock into .venv ($("$python" --version))"
    # Not UV_PYTHON and not an active environment: the place is always .venv of this checkout.
    env -u VIRTUAL_ENV -u UV_PROJECT_ENVIRONMENT -u UV_PYTHON \
        "$uv" sync --frozen --quiet --compile-bytecode --python "$python" ||
        fail "uv sync failed; what it said stands above"
    # libgmp10 may be gone while a cached build of fastecdsa is there.
    venv_works || need libgmp10
    .venv/bin/python -c 'import fastecdsa.curve' || fail "fastecdsa was installed but does not load"
    printf '%s\n' "$python_stamp" "$root" "$python" >.venv/.setup-stamp
}

# --- Node -------------------------------------------------------------------------------------

# node_packages : Debian's names of what is missing before the npm packages can be installed.
node_packages() {
    if ! command -v node >/dev/null 2>&1; then
        debian_offers nodejs "$NODE_MAJOR_MIN" 999 ||
            fail "no Node found; Node >= $NODE_MAJOR_MIN is needed for the contract tools (anvil, forge, solc).
    Debian 13 and newer have it (nodejs, npm), Debian 12 has an older one"
        echo nodejs npm
        return
    fi
    major=$(node -p 'process.versions.node.split(".")[0]') || fail "$(command -v node) does not run"
    [ "$major" -ge "$NODE_MAJOR_MIN" ] ||
        fail "$(command -v node) is $(node --version), too old; Node >= $NODE_MAJOR_MIN is needed"
    command -v npm >/dev/null 2>&1 && return
    [ "$(command -v node)" = /usr/bin/node ] && debian_offers npm 0 999 || fail "no npm found beside $(command -v node)"
    echo npm
}

sync_node() {
    say "npm packages from package-lock.json into contracts/evm/node_modules"
    # Scripts stay off: the platform packages carry the executables themselves.
    (cd contracts/evm && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null) ||
        fail "npm ci failed in contracts/evm; what it said stands above (no network? a proxy?)"
    printf '%s\n' "$node_stamp" >contracts/evm/node_modules/.setup-stamp
}

[ -f contracts/evm/package-lock.json ] || fail "contracts/evm/package-lock.json is missing: not a whole checkout"

python_stamp=$(stamp_of uv.lock pyproject.toml)
node_stamp=$(stamp_of contracts/evm/package-lock.json)
python_due=no
node_due=no
! python_is_due || python_due=yes
[ "$(cat contracts/evm/node_modules/.setup-stamp 2>/dev/null || true)" = "$node_stamp" ] || node_due=yes
[ "$python_due$node_due" = nono ] || [ -w . ] || fail "no permission to write into $root"

# What only the person can provide is said before minutes of work, not after, and all of it at once.
missing=
if [ "$node_due" = yes ]; then missing=$(node_packages); fi
if [ "$python_due" = yes ]; then
    more=$(python_packages)
    missing="$missing $more"
fi
# shellcheck disable=SC2086  # a list of package names
set -- $missing
[ $# -eq 0 ] || need "$@"
[ "$python_due" = no ] || sync_python
[ "$node_due" = no ] || sync_node
# Ours is not installed but run from here: where Python may not write beside it, or was told not to,
# each start of a daemon would compile all of it, for a quarter of a second.
.venv/bin/python -m compileall -q attest bench chain consensus contracts/*.py deploy dstack_cluster node ||
    say "the sources could not be compiled beforehand; daemons start more slowly"
[ "$python_due$node_due" = nono ] || say "done"
