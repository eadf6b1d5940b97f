#!/usr/bin/env bash
# A Slurm job on a GPU cluster trains one run; ./launch/slurm.sh --help explains it.
#
#   ./launch/slurm.sh --nodes=4 --gpus_per_node=8 --partition=gpu --time=24:00:00 -- --config=configs/gpt.py:gpt2 --config.data.path=DIR --workdir=DIR
set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"
launcher slurm "$@"
