#!/usr/bin/env bash
# Runs the tests in an environment of their own making.
#
#   ./launch/test.sh                        all but the slow ones
#   ./launch/test.sh -m slow                those that take minutes
#   ./launch/test.sh tests/data -k masking  arguments are pytest's
#   ./launch/test.sh -n 0                   one after another, in one process
#
# Makes .venv in the clone (Python 3.11 to 3.13; PYTHON=/path/to/python chooses) and installs the project with its extra `test`.
set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"
make_environment test
cd -- "$root"
# A process a core, up to four: each takes some gigabytes. Files stay together, for what their tests share.
exec "$python" -m pytest -n logical --maxprocesses=4 --dist=loadfile "$@"
