"""python -m t5x_lite.plan --mesh=auto, as a person calls it."""

import json
import os
import subprocess
import sys

import pytest

TINY = ('--config=configs/bert.py:tiny', '--config.model.default_vocab_size=1000', '--config.model.num_layers=1', '--config.batch_size=32')


def plan(*flags: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'JAX_PLATFORMS')}
    return subprocess.run([sys.executable, '-m', 't5x_lite.plan', *TINY, *flags], capture_output=True, text=True, env=environment, check=False)


def test_ranked_compiled_and_kept(tmp_path):
    pytest.importorskip('matplotlib', reason='pictures need matplotlib')
    asked = ('--topology=cpu:2', '--mesh=auto', '--compile=1', f'--cache_dir={tmp_path / "cache"}')
    first = plan(*asked)
    assert first.returncode == 0 and not first.stderr, first.stderr
    assert first.stdout.count('compiling') == 1 and 'best: ' in first.stdout and 'parameters on cpu:2' in first.stdout
    again = plan(*asked, '--config.steps=77', f'--output={tmp_path / "plan"}')
    assert again.returncode == 0 and 'compiling' not in again.stdout and 'kept from an earlier command' in again.stdout, again.stderr
    found = json.loads((tmp_path / 'plan' / 'plan.json').read_text())
    assert found['topology'] == 'cpu:2' and found['config']['steps'] == 77 and sorted(os.listdir(tmp_path / 'plan')) == ['plan.json', 'plan.png', 'ranking.json']
    # The flags that it prints are those of the plan.
    (flags,) = [line.split() for line in again.stdout.splitlines() if line.startswith('  --config.mesh') or '(the config as it is)' in line]
    for flag in flags:
        if flag.startswith('--config.mesh.'):
            axis, size = flag.removeprefix('--config.mesh.').split('=')
            assert found['mesh'][axis] == int(size)


@pytest.mark.parametrize('flags, said', [
    ('--topology=cpu:2 --mesh=best', 'mesh'),
    ('--topology=cpu:2 --mesh=auto --compile=-1', 'compile'),
    ('--topology=cpu:2 --slices=0', 'slices'),
    ('--topology=cpu:2 --config.mesh.slices=2', 'config.mesh.slices=2, and the plan is for 1; give --slices=2'),
    ('--topology=cpu:2 --compile=2', '--compile is for --mesh=auto; add that, or leave it out'),
    ('--topology=cpu:2 --mesh=auto --cache_dir=setup.cfg', '--cache_dir=setup.cfg'),
])  # fmt: skip
def test_mistakes(flags, said):
    done = plan(*flags.split())
    assert done.returncode == 2 and said in done.stderr and 'Traceback' not in done.stderr, done.stderr
