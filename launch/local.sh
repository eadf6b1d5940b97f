#!/usr/bin/env bash
# Several processes on this machine train one run together; ./launch/local.sh --help explains it.
#
#   ./launch/local.sh --processes=4 --devices=2 -- --config=configs/bert.py:tiny --config.data.path=data/mine --workdir=runs/tiny
set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"
launcher local "$@"
