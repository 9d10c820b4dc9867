#!/usr/bin/env bash
# Makes .venv from the hash-pinned lock, and puts this checkout into it. `make venv` calls it when the lock is newer.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'venv: %s\n' "$@" >&2; exit 1; }

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
        if usable "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "no Python from 3.11 to 3.14 was found (python3 here: $(python3 --version 2>&1 || true))." \
        "Install one, or name it: make PYTHON=/path/to/python3.12 ..."
}

create() {
    local python=$1
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv --clear .venv
    elif command -v uv >/dev/null; then
        uv venv --quiet --clear --seed --python "$python" .venv
    elif command -v virtualenv >/dev/null; then
        virtualenv --quiet --clear --python "$python" .venv
    else
        fail "$python cannot make environments: its modules venv and ensurepip are missing." \
            "On Debian and Ubuntu: sudo apt-get install python3-venv"
    fi
}

if ! usable .venv/bin/python; then
    python=$(find_python)
    echo "venv: $("$python" --version) makes .venv"
    create "$python"
fi

# uv comes by pip, with its hash. An index that pip is told of serves both, and so do the system's own authorities.
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
offline="are you offline, or behind a proxy or an index that pip has to be told of (https_proxy, pip config)?"
if index=$(pip config get global.index-url 2>/dev/null); then
    export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
fi
pip install --quiet --require-hashes -r requirements/bootstrap.txt || fail "uv could not be installed; $offline"
export UV_SYSTEM_CERTS=true
packages=$(grep -c '==' requirements/lock.txt)
echo "venv: installing what requirements/lock.txt names, $packages packages at most, each with its hash"
# Bytecode is compiled here, once: uv by itself leaves that to the first start of each program.
export UV_PYTHON=.venv/bin/python
.venv/bin/uv pip sync --quiet --compile-bytecode --require-hashes requirements/lock.txt requirements/bootstrap.txt ||
    fail "the locked packages could not be installed; $offline"
.venv/bin/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
touch .venv/.ready
