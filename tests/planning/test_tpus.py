"""Plans by the real compiler for TPUs: skipped where libtpu is not installed (pip install 'jax[tpu]'), which no default or test installation has."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.planning import shipped

pytestmark = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="plans for TPUs need libtpu: pip install 'jax[tpu]'")

TINY = ('--config=configs/bert.py:tiny', '--config.model.dtype=bfloat16', '--config.model.default_vocab_size=1000')


def plan(*flags: str) -> subprocess.CompletedProcess:
    """A process of its own: libtpu stays in the one that has loaded it."""
    environment = {name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'JAX_PLATFORMS')}
    return subprocess.run([sys.executable, '-m', 't5x_lite.plan', *flags], capture_output=True, text=True, env=environment, check=False)


def test_a_slice_that_is_not_there(tmp_path):
    done = plan(*TINY, '--topology=v5e:2x2', '--config.mesh.data=1', '--config.mesh.fsdp=4', '--price_per_chip_hour=1.2', f'--output={tmp_path}')
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = json.loads((tmp_path / 'plan.json').read_text())
    (stage,) = found['stages']
    assert found['compiled'] and found['chips'] == 4 and stage['fits'] is True and not stage['untold']
    assert abs(stage['flops'] / stage['model_flops'] - 1) < 0.02
    assert {'all-gather'} <= {one['kind'] for one in stage['collectives']} and {axis for one in stage['collectives'] for axis in one['axes']} == {'fsdp'}
    estimate = stage['estimate']
    assert 0 < estimate['products'] <= estimate['busy'] <= estimate['best'] <= estimate['step'] * 1.5
    assert found['cost'] == pytest.approx(found['run_seconds'] * 4 / 3600 * 1.2)


def test_slices_that_are_not_there(tmp_path):
    done = plan(*TINY, '--topology=v5e:2x2', '--slices=2', '--config.mesh.fsdp=4', f'--output={tmp_path}')
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = json.loads((tmp_path / 'plan.json').read_text())
    (stage,) = found['stages']
    assert found['chips'] == 8 and found['slices'] == 2 and found['mesh'] == {'data': 2, 'fsdp': 4, 'tensor': 1, 'sequence': 1}
    assert abs(stage['flops'] / stage['model_flops'] - 1) < 0.02
    across = [one for one in stage['collectives'] if one['slices'] > 1]
    assert {axis for one in across for axis in one['axes']} == {'data'} and {one['devices'] for one in across} == {2}
    # Gradients alone, of which each chip has a quarter: what is small is whole on each.
    sent = sum(one['times'] * one['sent_between_slices'] for one in across)
    assert 4 * found['parameters'] / 4 < sent < 4 * found['parameters'] / 4 * 1.1
    assert {axis for one in stage['collectives'] if one['slices'] == 1 for axis in one['axes']} == {'fsdp'}
    assert 'MiB to other slices' in done.stdout and stage['estimate']['step'] > sent / 3.125e9 / 2


def test_what_does_not_fit_is_said_with_what_would():
    done = plan(*TINY, '--topology=v5e:2x2', '--config.batch_size=262144')
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    assert 'does not fit' in done.stdout and 'what would make it fit:\n  --config' in done.stdout


@pytest.mark.parametrize('flag, said', [
    ('--topology=v5e:3x5', 'refuses it'),
    ('--topology=v5e:4x4 --config.mesh.data=3', 'does not fit 16 devices'),
    ('--topology=v5e:4x4 --slices=2 --config.mesh.data=1 --config.mesh.fsdp=32', 'slices_along=fsdp'),
    ('--topology=v5e:4x4 --slices=2 --config.mesh.slices=4', 'the plan is for 2'),
    ('--topology=v5e:4x4 --config.batch_size=24', 'data x fsdp = 16 do not divide'),
])  # fmt: skip
def test_mistakes(flag, said):
    done = plan(*TINY, *flag.split())
    assert done.returncode == 2 and done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_meshes_are_laid_out_as_by_formula():
    """What ranks meshes needs no libtpu; it must lay them where JAX would with it."""
    code = """
import itertools, math, jax, numpy as np
from jax.sharding import AxisType
from t5x_lite.errors import UserError
from t5x_lite.planning import meshes, topologies
compared = 0
for text in ('v5p:4x4x4', 'v4:2x2x4', 'v5e:4x4', 'v5e:2x4', 'v6e:4x4'):
    topology = topologies.parse(text)
    devices = topology.devices()
    sides = [side for side in (1, 2, 4, 8, 16, 32, 64) if side <= topology.chips]
    for sizes in [sizes for sizes in itertools.product(sides, repeat=4) if math.prod(sizes) == topology.chips]:
        try:
            mesh = jax.make_mesh(sizes, ('a', 'b', 'c', 'd'), axis_types=(AxisType.Auto,) * 4, devices=devices)
        except NotImplementedError:
            mesh = None
        try:
            found = meshes.coordinates(topology, sizes)
        except UserError:
            found = None
        assert (mesh is None) == (found is None), (text, sizes)
        if mesh is not None:
            there = np.array([device.coords[: topology.chip.dimensions] for device in mesh.devices.reshape(-1)])
            assert (there == found.reshape(there.shape)).all(), (text, sizes)
            compared += 1
print(compared)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'JAX_PLATFORMS')} | {'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_the_best_mesh_is_found_and_kept(tmp_path):
    asked = (*TINY, '--topology=v5e:2x2', '--mesh=auto', '--compile=1', f'--cache_dir={tmp_path}')
    first, again = plan(*asked), plan(*asked)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert 'compiling' in first.stdout and 'compiling' not in again.stdout and 'kept from an earlier command' in again.stdout
    assert 's/step' in again.stdout and 'best: ' in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize('name', ['bert_base', 't5_base', 'gpt2_xl', 'gpt3_6_7b', 't5_11b', 'gpt3_175b', 'bert_large_256'])
def test_shipped_plans(name, tmp_path):
    """Hold to all gates."""
    for stage in shipped.made(name, str(tmp_path)).stages:
        assert {gate.name for gate in stage.gates} >= {'no unplanned collective', 'FLOPs', 'overlap', 'memory'}
        assert all(gate.held for gate in stage.gates), stage.gates
