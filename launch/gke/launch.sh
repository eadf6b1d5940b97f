#!/usr/bin/env bash
# A JobSet on Google Kubernetes Engine trains one run on TPU slices; ./launch/gke/launch.sh --help explains it.
#
#   ./launch/gke/launch.sh --name=t5 --image=IMAGE --topology=v5p:4x4x4 --mount=gs://BUCKET:/data -- --config=configs/t5.py:v1_1_base --workdir=/data/t5 ...
set -euo pipefail

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/launch/environment.sh"
launcher jobset "$@"
