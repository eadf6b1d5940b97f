#!/usr/bin/env bash
# A TPU slice on Google Cloud trains one run; ./launch/tpu_vm.sh --help explains it.
#
#   ./launch/tpu_vm.sh --name=t5 --project=P --zone=us-east5-a --type=v5p-128 --spot -- --config=configs/t5.py:v1_1_base --config.data.path=DIR --workdir=DIR
set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/environment.sh"
launcher tpu_vm "$@"
