"""The page on adding one's own (t5x_lite/ADD_YOUR_OWN.md) does what it says: its files are written and its commands run, a few steps each."""

import json
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

import pytest

from tests.commands import material

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 't5x_lite' / 'ADD_YOUR_OWN.md').read_text(encoding='utf-8')
# What makes the page's runs small enough for a test.
SMALL = (
    '--config.steps=2 --config.batch_size=4 --config.data.seq_len=32 --config.eval.batches=1 --config.eval.batch_size=4 --config.log.tensorboard=False'
    ' --config.optim.warmup_fraction=0 --config.eval.examples=8 --config.eval.examples_while_training=4'
).split()
SMALL_MODEL = '--config.model.num_layers=1 --config.model.d_model=16 --config.model.num_heads=2 --config.model.d_ff=16'.split()


def blocks(kind: str) -> list[str]:
    return re.findall(rf'^```{kind}\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the page's files, a prepared corpus and a table."""
    folder = tmp_path_factory.mktemp('own')
    for block in blocks('python'):
        name = re.match(r'# (\w+\.py)\n', block)[1]
        (folder / name).write_text(block)
    material.corpus(folder / 'data' / 'mine', material.texts(folder / 'texts', documents=20), 'sentencepiece', 250)
    for name in ('reviews.tsv', 'held_out.tsv'):
        material.table(folder / name, material.reviews(10))
    (folder / 'configs').symlink_to(ROOT / 'configs')
    return folder


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[:2] == ['python', '-m']
    train = words[2] == 't5x_lite.train'
    more = (SMALL if words[2] != 't5x_lite.predict' else []) + (SMALL_MODEL if train and 'init_from' not in command else [])
    environment = os.environ | {'PYTHONPATH': f'{folder}:{ROOT}', 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
    result = subprocess.run([sys.executable, *words[1:], *more], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f'{command}\n{result.stdout}\n{result.stderr}'
    return result.stdout


def test_the_page_works(place):
    commands = [line for block in blocks('sh') for line in block.splitlines()]
    assert len(commands) == 7
    said = {command: run(command, place) for command in commands}
    assert re.search(r'held out at step 2: .*average .*\n  my_reviews +accuracy ', said[next(command for command in commands if 'names=both' in command)])
    for command, output in said.items():
        if 't5x_lite.train' in command:
            assert 'finished 2 steps' in output, command
    config = json.loads((place / 'runs' / 'my_gpt' / 'config.json').read_text())
    assert config['model']['positions'] == 'relative' and config['model']['norm'] == 'rms'
    shares = [json.loads(line) for line in (place / 'runs' / 'both' / 'metrics.jsonl').read_text().splitlines()]
    assert {'share/my_reviews', 'share/addition_1_digits'} <= shares[0].keys() | shares[-1].keys()
    assert {'eval/lm_loss', 'eval/my_reviews/accuracy', 'eval/addition_1_digits/exact_match', 'eval/average'} <= shares[-1].keys()
    scores = json.loads((place / 'runs' / 'both' / 'evaluation.json').read_text())['tasks']['as taught']
    assert {'accuracy', 'unparsed'} <= scores['my_reviews'].keys() and 'exact_match' in scores['addition_1_digits']
    evaluated = said[next(command for command in commands if 'evaluate' in command)]
    assert 'average' in evaluated and 'wrote' in evaluated and 'review: ' in evaluated
