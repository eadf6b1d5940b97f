# Sourced by the other scripts.
#
#   root=CLONE; make_environment EXTRA    leaves CLONE/.venv with the project and the extra installed, and its interpreter in $python
#
# PYTHON=COMMAND selects the interpreter; without it the .venv that is there is kept, or the first suitable one of the PATH is taken.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Whether $1 runs, is 3.11 to 3.13, and has the modules $2.
suitable() {
    "$1" -c "import sys, $2; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" >/dev/null 2>&1
}

version_of() {
    "$1" -c 'import platform, sys; print(sys.implementation.name, platform.python_version())' 2>/dev/null || true
}

find_python() {
    local candidate found
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" ensurepip,venv && { printf '%s\n' "$PYTHON"; return; }
        found=$(version_of "$PYTHON")
        fail "PYTHON=$PYTHON is ${found:-no Python that runs}; this project needs Python 3.11 to 3.13 with its venv module"
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        suitable "$candidate" ensurepip,venv && { printf '%s\n' "$candidate"; return; }
    done
    found=$(version_of python3)
    fail "found no Python 3.11 to 3.13 that can make virtual environments (python3 is ${found:-absent}). Install one: 'apt install python3.12 python3.12-venv'" \
        "(Debian, Ubuntu), 'brew install python@3.12' (macOS), or from python.org; then repeat, or name it with PYTHON=/path/to/python"
}

make_environment() {
    local extra=$1 venv=$root/.venv stamp broken='' base id began
    stamp=$venv/installed-$extra
    python=$venv/bin/python
    suitable "$python" pip || broken=1
    if [ -n "$broken" ] || [ -n "${PYTHON:-}" ]; then
        base=$(find_python)
        if [ -n "$broken" ] || [ "$(version_of "$base")" != "$(version_of "$python")" ]; then
            [ ! -e "$venv" ] || printf 'environment: .venv is of another Python or broken; making it anew\n'
            rm -rf "$venv"
            "$base" -m venv "$venv" || fail "$base could not make $venv; on Debian and Ubuntu install python3-venv"
        fi
    fi
    # What was installed, from what and where: a changed setup.cfg, or a clone that was moved, installs again.
    id=$("$python" -c '
import hashlib, pathlib, platform, sys
parts = [platform.python_version(), sys.argv[1], *(pathlib.Path(sys.argv[1], name).read_text() for name in ("setup.cfg", "pyproject.toml"))]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())' "$root")
    if [ "$(cat "$stamp" 2>/dev/null || true)" != "$id" ]; then
        printf 'environment: %s in %s; installing the project with its libraries, a minute or two ...\n' "$(version_of "$python")" "$venv"
        began=$SECONDS
        "$python" -m pip install -qq --disable-pip-version-check --no-input --editable "$root[$extra]" </dev/null \
            || fail "pip could not install the project, see above; without a way to the package index set PIP_INDEX_URL to a mirror, then repeat"
        printf '%s\n' "$id" >"$stamp"
        printf 'environment: installed in %d s\n' $((SECONDS - began))
    else
        printf 'environment: %s in %s, installed before\n' "$(version_of "$python")" "$venv"
    fi
}

# Becomes python -m t5x_lite.launching.$1 with the other arguments, where the caller stands. A launcher needs Python alone; PYTHON, .venv or the PATH has one.
launcher() {
    local name=$1 candidate
    shift
    for candidate in ${PYTHON:+"$PYTHON"} "$root/.venv/bin/python" python3.11 python3.12 python3.13 python3 python; do
        suitable "$candidate" argparse || continue
        PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$candidate" -m "t5x_lite.launching.$name" "$@"
    done
    fail "found no Python 3.11 to 3.13 (PYTHON=/path/to/python names one); this launcher needs nothing else of it"
}
