"""Worker processes of preparation: light, few blocks in flight, and a death that is said."""

import os
import subprocess
import sys

import pytest

from t5x_lite.data import workers
from t5x_lite.errors import UserError
from tests.data.preparation_material import ROOT, paragraphs, prepare, write_text


def test_worker_processes_stay_light():
    heavy = '{"jax", "flax", "tensorflow", "tensorflow_datasets"}'
    check = f'import sys, t5x_lite.prepare, t5x_lite.data.workers; sys.exit(", ".join({heavy} & set(sys.modules)) or 0)'
    done = subprocess.run([sys.executable, '-c', check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('processes', [1, 2])
def test_few_blocks_are_in_flight_however_slow_the_reader_of_results(processes):
    taken = []

    def blocks():
        for number in range(100):
            taken.append(number)
            yield number

    with workers.Pool(processes) as pool:
        for done, result in enumerate(pool.in_order(divmod, 1000, map(lambda number: number + 1, blocks()))):
            assert result == divmod(1000, done + 1)
            assert len(taken) - done <= workers.IN_FLIGHT * processes
    assert len(taken) == 100


def test_a_dead_worker_is_reported(tmp_path, monkeypatch):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    monkeypatch.setattr(workers, 'scan', os.abort)
    monkeypatch.setattr(workers, '_begin', _die)
    with pytest.raises(UserError, match='a worker process died'):
        prepare(tmp_path, workers=2)


def _die(threads):
    os._exit(9)
