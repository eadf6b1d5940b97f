"""A sweep whose workdir is gs://: its runs, table, picture and best config land there, and it goes on from there. (gs:// is a folder here.)"""

import dataclasses
import json
import os
import shutil

import pytest

from t5x_lite.config_values import from_json
from t5x_lite.sweeps import grid, picture, plan, runs, table
from tests import bucket_stand_ins
from tests.commands import material
from tests.sweeps import fake_runs
from tests.sweeps.test_sweep_command import BASE, cells

SWEPT = f'gs://{bucket_stand_ins.BUCKET}/sweeps/rates'


def test_what_a_sweep_keeps_is_kept_in_the_bucket(tmp_path, monkeypatch):
    bucket = bucket_stand_ins.folders(tmp_path / 'buckets', monkeypatch)
    there = tmp_path / 'buckets' / bucket_stand_ins.BUCKET / 'rates'
    sweep = fake_runs.sweep_of(f'{bucket}/rates', 'optim.learning_rate=1e-5,3e-5,1e-4,1e-3')
    done, torn, begun, diverged = (dataclasses.replace(run, workdir=str(there / 'runs' / run.name)) for run in sweep.runs)
    for run in (done, torn):
        fake_runs.trained(run, {20: {'mlm_loss': 2.0}})
        (there / 'runs' / run.name / 'checkpoints' / '20' / 'array').write_text('of the last step')
    (there / 'runs' / done.name / 'checkpoints' / '20' / 'commit_success.txt').touch()  # the other was killed before it was whole
    fake_runs.trained(begun, {10: {'mlm_loss': 3.0}}, finished=False)
    runs._record(sweep.runs[3], runs.NotFinite('step 3: loss nan'))
    kinds = [runs.state_of(run.workdir).kind for run in sweep.runs]
    assert kinds == [runs.FINISHED, runs.BEGUN, runs.BEGUN, runs.DIVERGED]
    assert [run.name for run in runs.to_train(sweep)] == [torn.name, begun.name]
    results = table.collect(sweep)
    text = table.write(sweep, results)
    assert (there / 'sweep.md').read_text() == f'{text}\n' and '1 of 4 runs are finished.' in text and len((there / 'sweep.csv').read_text().splitlines()) == 5
    assert from_json(str(there / 'best.json')).optim.learning_rate == 1e-5 and diverged.name in text
    added = plan.opened(f'{bucket}/rates', fake_runs.BASE, grid.combinations('optim.learning_rate=1e-5; seed=7', '', fake_runs.BASE))
    assert [run.name for run in added.runs[:4]] == [run.name for run in sweep.runs] and len(added.runs) == 5
    pytest.importorskip('matplotlib', reason='pictures need matplotlib')
    picture.write(sweep.folder, results)
    assert (there / 'sweep.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_a_sweep_in_a_bucket_goes_on_and_is_collected(tmp_path):
    buckets = tmp_path / 'buckets'
    there = buckets / bucket_stand_ins.BUCKET / 'sweeps' / 'rates'
    material.table(tmp_path / 'reviews.tsv', material.reviews(16))
    flags = (*BASE, f'--config.data.train={tmp_path}/reviews.tsv', '--grid=optim.learning_rate=1e-2,1e30', '--metric=accuracy', f'--workdir={SWEPT}')
    first = bucket_stand_ins.command(buckets, 'sweep', *flags)
    reasons = f'error: 1 of 2 runs failed: learning_rate=1e+30; the reasons are in {SWEPT}/sweep.md\n'
    assert first.returncode == 2 and first.stderr == reasons, (first.stdout, first.stderr)
    assert {'base.json', 'sweep.json', 'sweep.md', 'sweep.csv', 'best.json', 'runs'} <= set(os.listdir(there))
    text = (there / 'sweep.md').read_text()
    assert text in first.stdout and '1 of 2 runs are finished.' in text and f'written to {SWEPT}: sweep.md' in first.stdout
    assert cells(text)[3][-1] == 'learning_rate=1e+30 (diverged)' and from_json(str(there / 'best.json')).optim.learning_rate == 1e-2
    assert not any(path.name == 'launch.json' for path in there.rglob('*'))

    # As after a kill: without what was written last, and without the cache of this machine.
    run = there / 'runs' / 'learning_rate=0.01'
    whole = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    steps = sorted(int(name) for name in os.listdir(run / 'checkpoints') if name.isdigit())
    shutil.rmtree(run / 'checkpoints' / str(steps[-1]))
    (run / 'outcome.json').unlink()
    shutil.rmtree(buckets / 'cache')
    again = bucket_stand_ins.command(buckets, 'sweep', f'--workdir={SWEPT}')
    assert f'resumed {SWEPT}/runs/learning_rate=0.01 from step {steps[-2]}' in again.stdout, (again.stdout, again.stderr)
    assert 'run 1 of 1: learning_rate=0.01' in again.stdout and again.stderr == reasons, 'what diverged is not repeated'
    resumed = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    assert [{name: line[name] for name in ('step', 'loss', 'eval/accuracy') if name in line} for line in resumed] == [
        {name: line[name] for name in ('step', 'loss', 'eval/accuracy') if name in line} for line in whole
    ]

    (there / 'sweep.md').unlink()
    collected = bucket_stand_ins.command(buckets, 'sweep', f'--workdir={SWEPT}', '--collect')
    assert collected.returncode == 0 and '1 of 2 runs are finished.' in (there / 'sweep.md').read_text(), collected.stderr
    shown = bucket_stand_ins.command(buckets, 'train', f'--config={SWEPT}/best.json', '--dry_run')
    assert shown.returncode == 0 and '--config.optim.learning_rate=0.01' in shown.stdout, shown.stderr
