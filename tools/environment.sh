# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by the tools; gives them
#
#   find_python        sets PYTHON to a Python >= 3.11
#   environment EXTRAS makes the virtual environment with these extras of
#                      setup.cfg ("lab", "test,lab") and puts it first on PATH
#
# The environment is .venv in the checkout, or KEYSTONE_CASSANDRA_VENV.  It is
# made once for each state of the files that describe it; after that a call
# takes a moment.  KEYSTONE_CASSANDRA_PYTHON names the Python to use.

# With CDPATH, cd may go elsewhere, and says where.
CHECKOUT="$(unset CDPATH && cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$CHECKOUT/tools${PYTHONPATH:+:$PYTHONPATH}"
# Then nothing that is installed leads to it; see make_environment.
[ -w "$CHECKOUT" ] || PYTHONPATH="$PYTHONPATH:$CHECKOUT"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

find_python() {
    local candidate
    for candidate in "${KEYSTONE_CASSANDRA_PYTHON:-}" python3 python3.11 \
        python3.12 python3.13 python3.14 /usr/bin/python3; do
        [ -n "$candidate" ] || continue
        # Also resolves wrappers that choose among several Pythons.
        PYTHON="$("$candidate" -c 'import sys
if sys.version_info < (3, 11):
    sys.exit(1)
print(sys.executable)' 2>/dev/null)" && return
        [ "$candidate" != "${KEYSTONE_CASSANDRA_PYTHON:-}" ] ||
            fail "KEYSTONE_CASSANDRA_PYTHON=$candidate is no Python 3.11" \
                "or newer."
    done
    fail 'Python 3.11 or newer is needed, and none was found.
On Debian 12:  apt-get install python3 python3-venv
If it is elsewhere, let KEYSTONE_CASSANDRA_PYTHON name it.'
}

# need_packages PACKAGE...: installs Debian packages if root, else says how.
need_packages() {
    [ $# -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        fail "These are missing, here by their names in Debian: $*
Install what this system calls them, and try again."
    fi
    if [ "$(id -u)" -ne 0 ]; then
        fail "Debian packages are missing. Install them, and try again:
  sudo apt-get install --yes --no-install-recommends $*"
    fi
    say "Installing Debian packages: $*"
    local log
    log="$(mktemp)"
    # Lists may be absent (fresh images) or too old to find the files.
    if { ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 &&
        apt_install "$@" >"$log" 2>&1; } ||
        { apt-get -o DPkg::Lock::Timeout=300 update && apt_install "$@"; } \
            >"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install: $*"
    fi
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install --yes --no-install-recommends "$@" </dev/null
}

# What must be there before pip runs: a way to make a virtual environment,
# and for the tests a compiler and headers (python-ldap is built from source).
need_for_environment() {
    local extras="$1" debian version missing=()
    version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    case "$PYTHON" in
    /usr/bin/*) debian=yes ;;
    *) debian= ;;
    esac
    if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        [ -n "$debian" ] ||
            fail "$PYTHON lacks the modules venv and ensurepip."
        missing+=("python$version-venv")
    fi
    case ",$extras," in
    *,test,*)
        command -v gcc >/dev/null || missing+=(gcc libc6-dev)
        [ -e /usr/include/ldap.h ] || missing+=(libldap2-dev)
        [ -e /usr/include/sasl/sasl.h ] || missing+=(libsasl2-dev)
        # Keystone's tests of SAML run it.
        command -v xmlsec1 >/dev/null || missing+=(xmlsec1)
        if ! "$PYTHON" -c 'import os, sys, sysconfig
path = sysconfig.get_path("include")
sys.exit(not os.path.exists(os.path.join(path, "Python.h")))'; then
            [ -n "$debian" ] || fail "The headers of $PYTHON are missing."
            missing+=("python$version-dev")
        fi
        ;;
    esac
    need_packages ${missing[@]+"${missing[@]}"}
}

# environment EXTRAS, extras separated by commas without blanks.
environment() {
    local extras="$1" venv="${KEYSTONE_CASSANDRA_VENV:-$CHECKOUT/.venv}" hash
    hash="$(cd "$CHECKOUT" && {
        printf '%s\n' "$CHECKOUT" "${KEYSTONE_CASSANDRA_PYTHON:-}"
        cat setup.cfg setup.py pyproject.toml requirements.txt \
            constraints.txt 2>/dev/null || true
    } | sha256sum)"
    hash="${hash%% *}"
    if ! environment_is_ready "$venv" "$hash" "$extras"; then
        find_python
        # In a subshell, whose end gives the lock back.
        (
            { mkdir -p "$(dirname "$venv")" && true >>"$venv.lock"; } \
                2>/dev/null || fail "$venv cannot be made: let" \
                'KEYSTONE_CASSANDRA_VENV name another folder for the Python' \
                'environment.'
            exec 9>"$venv.lock"
            flock --nonblock 9 || {
                say 'Another run is making the Python environment; waiting.'
                flock 9
            }
            environment_is_ready "$venv" "$hash" "$extras" ||
                make_environment "$venv" "$hash" "$extras"
        ) || exit
    fi
    VIRTUAL_ENV="$(cd "$venv" && pwd)"
    PYTHON="$VIRTUAL_ENV/bin/python"
    PATH="$VIRTUAL_ENV/bin:$PATH"
    export VIRTUAL_ENV PATH
    unset PYTHONHOME
}

# The stamp: a line with the hash, and one with the extras.
environment_is_ready() {
    local stamp="$1/keystone-cassandra.stamp" hash extras extra
    [ -r "$stamp" ] || return 1
    { read -r hash && read -r extras; } <"$stamp" || return 1
    [ "$hash" = "$2" ] || return 1
    for extra in ${3//,/ }; do
        case ",$extras," in *",$extra,"*) ;; *) return 1 ;; esac
    done
    # The Python that it was made with may have gone.
    "$1/bin/python" -c '' 2>/dev/null
}

make_environment() {
    local venv="$1" hash="$2" extras="$3" stamp="$1/keystone-cassandra.stamp"
    local extra had='' log="$1.log" constraints=()
    local what=(--editable "$CHECKOUT[$extras]")
    set -o pipefail # we are in a subshell
    if [ -d "$venv" ] && [ -n "$(ls -A "$venv")" ] &&
        [ ! -e "$venv/pyvenv.cfg" ]; then
        fail "$venv is there already and is no virtual environment."
    fi
    # What an earlier call has asked for stays.
    [ ! -r "$stamp" ] || had="$(sed -n 2p "$stamp")"
    for extra in ${had//,/ }; do
        case ",$extras," in *",$extra,"*) ;; *) extras="$extras,$extra" ;; esac
    done
    rm -f "$stamp"
    need_for_environment "$extras"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "Making a Python environment in $venv ($PYTHON)."
        "$PYTHON" -m venv --clear "$venv" 9>&- ||
            fail "$PYTHON could not make it."
    fi
    [ ! -e "$CHECKOUT/constraints.txt" ] ||
        constraints=(--constraint "$CHECKOUT/constraints.txt")
    # The version comes from git; without its data any will do.
    git -C "$CHECKOUT" rev-parse HEAD >/dev/null 2>&1 ||
        export PBR_VERSION="${PBR_VERSION:-0.0.0}"
    if [ ! -w "$CHECKOUT" ]; then
        # pip would write into it.  Of the copy only its description is used:
        # modules are found in the checkout, by PYTHONPATH.
        COPY="$(mktemp -d)"
        trap 'rm -rf "$COPY"' EXIT # of the subshell
        tar -C "$CHECKOUT" --exclude='./.venv*' --exclude=./.tox -cf - . |
            tar -C "$COPY" -xf -
        what=("$COPY[$extras]")
    fi
    say "Installing the Python packages for: ${extras//,/, }." \
        'The first time this takes one to three minutes.'
    # What is on PYTHONPATH would count as installed.
    if ! env -u PYTHONPATH "$venv/bin/python" -m pip install \
        --disable-pip-version-check --no-input --progress-bar off \
        ${constraints[@]+"${constraints[@]}"} "${what[@]}" </dev/null 2>&1 9>&- |
        tee "$log" | awk '
            /^Collecting / && ++count % 25 == 0 {
                print "  " count " packages found so far"; fflush() }
            /^Building wheel/ { print "  building packages"; fflush() }
            /^Installing collected/ { print "  installing them"; fflush() }
        ' >&2; then
        tail -n 20 "$log" >&2
        fail "pip could not install them; its whole output is in $log"
    fi
    rm -f "$log"
    printf '%s\n' "$hash" "$extras" >"$stamp.new" &&
        mv "$stamp.new" "$stamp" || fail "$stamp cannot be written."
    say 'The Python environment is ready.'
}
