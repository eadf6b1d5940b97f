"""A step as a TPU's compiler writes it, cut down by hand to one instruction of each kind (after libtpu 0.0.42, for v5e and v5p)."""

from pathlib import Path

from t5x_lite.planning import hlo

TRIPS = 4  # from 0 to 8 by twos
MESH = {'data': 2, 'fsdp': 4, 'tensor': 1, 'sequence': 1}


def module() -> hlo.Module:
    return hlo.parse((Path(__file__).resolve().parents[1] / 'fixtures/planning/tpu_step.hlo').read_text(encoding='utf-8'))
