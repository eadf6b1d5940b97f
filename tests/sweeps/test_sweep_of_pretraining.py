"""Sweeps of pre-training, and a sweep that is told to stop."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from t5x_lite.config_values import to_json
from tests.commands import forked
from tests.training.runs import prepare_corpus, small_config


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('pretraining')
    (place / 'base.json').write_text(to_json(small_config(prepare_corpus(place))))
    return place


def test_fields_of_pretraining_are_swept(place):
    grid = '--grid=optim.learning_rate=1e-2; model.d_ff=16,32; data.mlm.masking=static; steps=14'
    said = forked.run('sweep', f'--config={place}/base.json', grid, f'--workdir={place}/swept').success
    assert '2 of 2 runs are finished.' in said and 'Best by mlm_loss (lowest): model.d_ff=' in said
    names = os.listdir(place / 'swept' / 'runs')
    assert sorted(names) == [f'learning_rate=0.01_d_ff={width}_masking=static_steps=14' for width in (16, 32)]


def test_a_signal_stops_the_sweep_where_it_goes_on(place):
    """The run that trains is saved, the next one does not begin, and the command repeated does the rest."""
    out = place / 'stopped'
    command = [sys.executable, '-m', 't5x_lite.sweep', f'--config={place}/base.json', '--grid=seed=0,1; steps=3000', f'--workdir={out}']
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    process = subprocess.Popen(command, cwd=forked.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = out / 'runs' / 'seed=0_steps=3000' / 'metrics.jsonl'
    end = time.monotonic() + 240
    try:
        while not (lines.exists() and lines.stat().st_size) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0 and 'stopped by SIGTERM; repeat the command to go on' in said, said
    assert '0 of 2 runs are finished.' in said and 'seed=0_steps=3000 (begun)' in said and 'seed=1_steps=3000 (waiting)' in said
    assert not (out / 'runs' / 'seed=1_steps=3000').exists()
    step = max(int(name) for name in os.listdir(lines.parent / 'checkpoints') if name.isdigit())
    assert json.loads((out / 'sweep.json').read_text())['runs'][0]['fields'] == {'seed': 0, 'steps': 3000}
    again = subprocess.run([*command[:3], f'--workdir={out}', '--lines=-'], cwd=forked.ROOT, env=environment, capture_output=True, text=True)
    assert len(again.stdout.splitlines()) == 2 and step > 0, again
