"""Sweeps from the command line, of real fine-tuning: checked first, resumed, added to, collected, their best config used."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from t5x_lite.config_values import from_json
from tests.commands import forked, material

BASE = (
    '--config=configs/classify.py', f'--config.init_from={material.PRETRAINED}', '--config.data.seq_len=16', '--config.data.length_buckets=()',
    '--config.epochs=1', '--config.batch_size=8', '--config.eval.batch_size=8', '--config.checkpoint.every_steps=2', '--config.checkpoint.keep_last=9',
    '--config.log.tensorboard=False',
)  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('sweeps')
    material.table(place / 'reviews.tsv', material.reviews(16))
    return place


def flags(place, name, *more):
    return (*BASE, f'--config.data.train={place}/reviews.tsv', f'--workdir={place}/{name}', *more)


@pytest.fixture(scope='module')
def swept(place):
    """Two rates, one of them beyond bounds."""
    return forked.run('sweep', *flags(place, 'rates', '--grid=optim.learning_rate=1e-2,1e30', '--metric=accuracy'))


def cells(text):
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in text.splitlines() if line.startswith('|')]


def written(folder):
    """{file: time} of what training writes."""
    return {path: path.stat().st_mtime_ns for path in folder.glob('runs/*/metrics.jsonl')}


def test_a_sweep_trains_all_that_can_be_and_says_what_failed(place, swept):
    assert '1 of 2 runs failed: learning_rate=1e+30; the reasons are in' in swept.error
    shown = [line.partition(',')[0] for line in swept.out.splitlines() if re.match(r'run \d of', line)]
    assert shown == ['run 1 of 2: learning_rate=0.01', 'run 2 of 2: learning_rate=1e+30']
    assert re.search(r'run learning_rate=1e\+30 failed: step \d: loss nan', swept.out) and swept.out.count('baseline, majority') == 1
    text = (place / 'rates' / 'sweep.md').read_text()
    assert text in swept.out and '1 of 2 runs are finished.' in text
    head, _, first, second = cells(text)
    assert head[:3] == ['learning rate', 'accuracy', 'cross entropy'] and second[-1] == 'learning_rate=1e+30 (diverged)'
    last = [json.loads(line) for line in (place / 'rates/runs/learning_rate=0.01/metrics.jsonl').read_text().splitlines()][-1]
    assert first[:3] == ['0.01', f'{last["eval/accuracy"]:.4f}', f'{last["eval/cross_entropy"]:.4f}']
    pytest.importorskip('matplotlib')
    assert (place / 'rates' / 'sweep.png').exists()


def test_the_best_config_is_used_as_it_is(place, swept):
    shown = forked.run('train', f'--config={place}/rates/best.json', '--dry_run').success
    assert '--config.optim.learning_rate=0.01' in shown and 'its first example:' in shown


def test_repeated_it_trains_nothing_and_a_larger_grid_adds(place, swept):
    before = written(place / 'rates')
    assert '1 of 2 runs failed' in forked.run('sweep', f'--workdir={place}/rates').error, 'without a config and a grid: as before'
    assert written(place / 'rates') == before
    added = forked.run('sweep', *flags(place, 'rates', '--grid=optim.learning_rate=1e-2', '--grid=seed=0,1')).success
    assert '2 runs, 1 of them done, the others checked' in added and '\nrun 1 of 1: learning_rate=0.01_seed=1' in added
    after = written(place / 'rates')
    assert {path: after[path] for path in before} == before and len(after) == len(before) + 1
    assert '2 of 3 runs are finished.' in added and '| 0.01          |' in added and ', 2 runs)' in added


def test_an_interrupted_run_goes_on_from_its_checkpoint(place, swept):
    """As after a kill: without what was written last."""
    shutil.copytree(place / 'rates', place / 'killed')
    run = place / 'killed' / 'runs' / 'learning_rate=0.01'
    (run / 'outcome.json').unlink()
    steps = sorted(int(name) for name in os.listdir(run / 'checkpoints') if name.isdigit())
    shutil.rmtree(run / 'checkpoints' / str(steps[-1]))

    def lines():
        timing = re.compile('second|tokens_per|goodput|badput')
        kept = (run / 'metrics.jsonl').read_text().splitlines()
        return [{name: value for name, value in json.loads(line).items() if not timing.search(name)} for line in kept]

    whole = lines()
    said = forked.run('sweep', *flags(place, 'killed', '--grid=optim.learning_rate=1e-2')).success
    assert f'resumed {run} from step {steps[-2]}' in said and 'run 1 of 1: learning_rate=0.01' in said
    assert lines() == whole


def test_another_base_is_refused(place, swept):
    said = forked.run('sweep', *flags(place, 'rates', '--config.batch_size=4', '--grid=seed=5')).error
    assert 'holds a sweep of another config; it differs in batch_size (8 there, 4 here)' in said


def test_what_cannot_be_is_said_before_the_first_run(place):
    (place / 'runs.txt').write_text('seed=0\ntune.freeze_layers=9\n')
    cases = {
        '--grid=optim.learning_rat=1': "did you mean 'optim.learning_rate'", '--grid=seed=0,x': 'seed=x: expected a whole number',
        '--grid=seed=0; batch_size=8,0': 'run seed=0_batch_size=0: config.batch_size is 0', f'--runs={place}/runs.txt': 'run freeze_layers=9: ',
        f'--runs={place}/none.txt': 'none.txt: no such file', '--grid=seed=0; tune.train=(),.*/nothing': 'matches no parameter',
        '--grid=init_from=runs/nowhere': 'run init_from=', '--grid=data.fold=0,1': 'give the number of folds too',
    }  # fmt: skip
    for flag, words in cases.items():
        said = forked.run('sweep', *flags(place, 'never', flag)).error
        assert words in said, said
    assert "did you mean 'accuracy'" in forked.run('sweep', *flags(place, 'never', '--grid=seed=0', '--metric=acuracy')).error
    assert 'neither --grid nor --runs is given' in forked.run('sweep', *flags(place, 'never')).error
    assert 'never/base.json does not exist' in forked.run('sweep', f'--workdir={place}/never', '--collect').error
    assert not (place / 'never').exists()


def test_lines_for_a_cluster_and_what_they_left_collected(place):
    (place / 'strategies.jsonl').write_text('{"tune.freeze_layers": 1}\n{"tune.lora": [[".*/attention/(query|value)", 2, 4.0]], "optim.learning_rate": 0.01}\n')
    said = forked.run('sweep', *flags(place, 'lines', f'--runs={place}/strategies.jsonl', '--grid=seed=3', f'--lines={place}/lines.sh')).success
    assert '2 lines written to' in said and not (place / 'lines' / 'runs').exists()
    _, line = (place / 'lines.sh').read_text().splitlines()
    words = shlex.split(line)
    forked.run('train', *words[3:]).success
    collected = forked.run('sweep', f'--workdir={place}/lines', '--collect').success
    assert '1 of 2 runs are finished.' in collected and 'freeze_layers=1_seed=3 (waiting)' in collected
    best = from_json(f'{place}/lines/best.json')
    assert best.tune.lora == (('.*/attention/(query|value)', 2, 4.0),) and best.seed == 3 and best.optim.learning_rate == 0.01
    left = forked.run('sweep', f'--workdir={place}/lines', '--lines=-').success.splitlines()
    assert len(left) == 1 and shlex.split(left[0])[-1] == f'--workdir={place}/lines/runs/freeze_layers=1_seed=3'


def test_folds_give_a_mean(place):
    said = forked.run('sweep', *flags(place, 'folds', '--config.data.folds=2', '--grid=data.fold=all')).success
    assert 'held out as fold 1 of 0 to 1, by seed 0' in said and 'Best by cross_entropy (lowest mean): all alike (' in said and ', 2 runs)' in said
    assert cells((place / 'folds' / 'sweep.md').read_text())[4] == ['cross entropy, mean', 'standard deviation', 'runs']
    config = from_json(f'{place}/folds/best.json')
    assert config.data.folds == 0
    both = forked.run('train', *flags(place, 'never', '--config.data.folds=2', f'--config.data.validation={place}/reviews.tsv')).error
    assert 'config.data.validation is given too' in both
    run = f'{place}/folds/runs/fold=1'
    assert 'accuracy' in forked.run('evaluate', f'--workdir={run}').success
    assert 'accuracy' in forked.run(
        'evaluate', f'--workdir={run}', '--config.data.folds=0', '--config.data.fold=0', f'--config.data.validation={place}/reviews.tsv'
    ).success


def test_without_matplotlib_the_table_is_there_all_the_same(place, swept):
    """In an interpreter that cannot find it."""
    shutil.copytree(place / 'rates', place / 'plain')
    code = 'import runpy, sys; sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None; runpy.run_module("t5x_lite.sweep", run_name="__main__")'
    done = subprocess.run([sys.executable, '-c', code, f'--workdir={place}/plain', '--collect'], cwd=forked.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "no picture: pictures need matplotlib, which is not installed; run  python -m pip install" in done.stdout, done
    assert done.stdout.splitlines()[-1] == f'written to {place}/plain: sweep.md, sweep.csv'


def test_runs_abreast_are_those_that_are_trained_alone(place):
    grid = '--grid=optim.learning_rate=1e-3,1e-2'
    alone = forked.run('sweep', *flags(place, 'alone', grid)).success
    abreast = forked.run('sweep', *flags(place, 'abreast', grid, '--abreast=2')).success
    assert 'of 2 runs abreast' in abreast and 'of 2 runs abreast' not in alone
    assert alone.count('compiled the step') == 1, 'the second run takes the step of the first'
    for name in ('learning_rate=0.001', 'learning_rate=0.01'):
        ours, theirs = (
            [json.loads(line) for line in (place / folder / 'runs' / name / 'metrics.jsonl').read_text().splitlines()] for folder in ('abreast', 'alone')
        )
        assert [line['step'] for line in ours] == [line['step'] for line in theirs]
        for one, other in zip(ours, theirs):
            for field in ('loss', 'eval/cross_entropy', 'eval/accuracy'):
                assert (field in one) == (field in other) and (field not in one or one[field] == pytest.approx(other[field], rel=1e-4))
