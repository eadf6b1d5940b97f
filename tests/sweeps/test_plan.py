"""The folder of a sweep: names, what is added to it, what is refused; and runs one after another."""

import dataclasses
import json
import pathlib
import shlex
import types

import pytest

from t5x_lite import running
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.errors import Interrupted, NotFinite, UserError
from t5x_lite.sweeps import grid, plan, runs
from tests.sweeps.fake_runs import BASE, failed, sweep_of, trained


def names(sweep):
    return [run.name for run in sweep.runs]


def test_names_are_read_at_a_glance_and_are_folders(tmp_path):
    sweep = sweep_of(tmp_path, 'optim.learning_rate=1e-5; seed=0,1')
    assert names(sweep) == ['learning_rate=1e-05_seed=0', 'learning_rate=1e-05_seed=1']
    assert sweep.runs[0].workdir == f'{tmp_path}/runs/learning_rate=1e-05_seed=0' and sweep.runs[1].config.seed == 1
    both = sweep_of(tmp_path / 'b', 'data.lm.prefix_fraction=(0.5, 1.0); optim.name=lamb; data.weights=(),(1.0,); tune.train=(),.*/bias')
    assert len(set(names(both))) == 4 and all('/' not in name and ',' not in name and ' ' not in name for name in names(both)), names(both)
    clash = sweep_of(tmp_path / 'c', 'eval.every_steps=5; log.every_steps=6')
    assert names(clash) == ['eval.every_steps=5_log.every_steps=6']
    long = sweep_of(tmp_path / 'd', 'init_from=' + ','.join(f'runs/{"x" * 300}{number}' for number in range(3)))
    assert len(set(names(long))) == 3 and max(map(len, names(long))) < 100


def test_another_grid_adds_and_the_same_run_is_one(tmp_path):
    sweep_of(tmp_path, 'seed=0,1')
    again = sweep_of(tmp_path, 'seed=1,2')
    assert names(again) == ['seed=0', 'seed=1', 'seed=2'] and [run.name for run in again.wanted] == ['seed=1', 'seed=2']
    # seed=1 with the rate that the base has already.
    more = sweep_of(tmp_path, f'seed=1; optim.learning_rate={BASE.optim.learning_rate},3e-5')
    assert [run.name for run in more.wanted] == ['seed=1', 'seed=1_learning_rate=3e-05']
    assert [run['name'] for run in json.loads((tmp_path / 'sweep.json').read_text())['runs']] == names(more)
    # Without a grid: all that are there.
    whole = plan.opened(str(tmp_path), BASE)
    assert whole.wanted == whole.runs == more.runs


def test_names_of_other_runs_are_not_taken(tmp_path):
    sweep_of(tmp_path, 'eval.every_steps=5')
    assert names(sweep_of(tmp_path, 'log.every_steps=5')) == ['every_steps=5', 'log.every_steps=5']


def test_what_was_asked_for_is_remembered(tmp_path):
    sweep_of(tmp_path, 'seed=0', metric='accuracy', best='lowest')
    assert (plan.opened(str(tmp_path), BASE).metric, plan.opened(str(tmp_path), BASE).best) == ('accuracy', 'lowest')
    assert plan.opened(str(tmp_path), BASE, None, 'f1').metric == 'f1'


def test_another_base_is_refused_by_its_field(tmp_path):
    sweep_of(tmp_path, 'optim.learning_rate=1e-5; seed=0,1')
    other = dataclasses.replace(BASE, batch_size=8)
    with pytest.raises(UserError, match=r'another config; it differs in batch_size \(32 there, 8 here\)') as caught:
        sweep_of(tmp_path, 'optim.learning_rate=1e-5; seed=2', other)
    assert '\n' not in str(caught.value) and from_json(str(tmp_path / 'base.json')).batch_size == 32
    # What all runs set, and what changes nothing, may differ.
    same = dataclasses.replace(BASE, seed=7, log=dataclasses.replace(BASE.log, every_steps=1))
    assert len(sweep_of(tmp_path, 'optim.learning_rate=1e-5; seed=2', same).runs) == 3
    with pytest.raises(UserError, match=r'seed \(7 there, 8 here\)'):
        sweep_of(tmp_path, 'optim.learning_rate=3e-5', dataclasses.replace(same, seed=8))


def test_folders_that_are_no_sweep(tmp_path):
    with pytest.raises(UserError, match='neither --grid nor --runs is given'):
        plan.opened(str(tmp_path), BASE)
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(UserError, match='is the folder of a run'):
        plan.opened(str(tmp_path), BASE, [{'seed': 0}])
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'sweep.json').write_text('{"runs": [\n')
    with pytest.raises(UserError, match=r'sweep\.json:2: not JSON'):
        plan.opened(str(tmp_path / 'b'), BASE)


def test_launch_lines_say_what_the_runs_are(tmp_path):
    sweep = sweep_of(tmp_path / 'my sweep', 'optim.name=lamb; tune.lora=((".*/query", 8, 16.0),); init_from="it\'s"; optim.learning_rate=1e-5,1')
    lines = plan.launch_lines(sweep, sweep.runs)
    assert len(lines) == 2
    for line, run in zip(lines, sweep.runs, strict=True):
        words = shlex.split(line)
        assert words[:3] == ['python', '-m', 't5x_lite.train'] and words[-1] == f'--workdir={run.workdir}'
        base, *given = (word.removeprefix('--config').lstrip('.=') for word in words[3:-1])
        fields = {name: grid.value_of(name, value, '') for name, _, value in (item.partition('=') for item in given)}
        assert grid.changed(from_json(base), fields) == run.config


def test_states_are_those_on_disk(tmp_path):
    sweep = sweep_of(tmp_path, 'seed=0..4')
    trained(sweep.runs[0], {20: {'mlm_loss': 1.0}})
    trained(sweep.runs[1], {10: {'mlm_loss': 1.0}}, finished=False)
    failed(sweep.runs[2])
    failed(sweep.runs[3], runs.FAILED, 'the disk is full')
    kinds = [runs.state_of(run.workdir).kind for run in sweep.runs]
    assert kinds == [runs.FINISHED, runs.BEGUN, runs.DIVERGED, runs.FAILED, runs.WAITING]
    assert [run.name for run in runs.to_train(sweep)] == ['seed=1', 'seed=3', 'seed=4'], 'what diverged would do so again'
    assert runs.state_of(sweep.runs[3].workdir).reason == 'the disk is full'
    trained(sweep.runs[3], {20: {'mlm_loss': 1.0}})
    assert runs.state_of(sweep.runs[3].workdir) == runs.State(runs.FINISHED), 'by hand, say'


@pytest.fixture
def ways(monkeypatch):
    """{seed: what training does}; the seeds that were trained."""
    ways, done = {}, []

    def train(config, workdir, *, checked, baselines):
        done.append((config.seed, baselines))
        way = ways.get(config.seed, '')
        if isinstance(way, Exception):
            raise way
        return way

    monkeypatch.setattr(running, 'train', train)
    monkeypatch.setattr(runs, 'assemble', lambda config, workdir: config)
    return ways, done


def test_a_run_that_fails_does_not_keep_others_from_going_on(tmp_path, ways):
    ways[0].update({1: NotFinite('step 3: loss nan'), 2: OSError(28, 'No space left', 'f'), 3: RuntimeError('RESOURCE_EXHAUSTED: 9 GiB')})
    sweep, said = sweep_of(tmp_path, 'seed=0..4'), []
    assert runs.train(sweep, sweep.runs, said.append) == ''
    assert ways[1] == [(0, True), (1, False), (2, False), (3, False), (4, False)], 'baselines are said once'
    states = [runs.state_of(run.workdir) for run in sweep.runs]
    assert [state.kind for state in states] == [runs.FINISHED, runs.DIVERGED, runs.FAILED, runs.FAILED, runs.FINISHED]
    assert states[1].reason == 'step 3: loss nan' and 'no space left' in states[2].reason and 'out of memory' in states[3].reason
    assert said[0] == '\nrun 1 of 5: seed=0' and said[1].startswith('\nrun 2 of 5: seed=1, about 0:0') and 'run seed=1 failed: step 3' in said[2]


def test_the_time_left_is_told_by_runs_that_have_ended(tmp_path, monkeypatch):
    now, sweep, said = [0.0], sweep_of(tmp_path, 'seed=0..5'), []
    monkeypatch.setattr(runs.time, 'perf_counter', lambda: now[0])

    def two_by_two(configs, workdirs, begins, ends, together):
        for first in range(0, len(configs), together):
            for place in range(first, first + together):
                begins(place)
            now[0] += 60.0
            for place in range(first, first + together):
                ends(place, None)
        return ''

    monkeypatch.setattr(runs, 'run_group', two_by_two)
    runs.train(sweep, sweep.runs, said.append, 2)
    assert [line.partition(', about ')[2] for line in said] == ['', '', '2:00 left', '2:00 left', '1:00 left', '1:00 left']


def test_a_signal_ends_the_sweep_and_a_bug_is_not_hidden(tmp_path, ways):
    sweep = sweep_of(tmp_path, 'seed=0..3')
    ways[0][1] = 'SIGTERM'
    assert runs.train(sweep, sweep.runs, lambda line: None) == 'SIGTERM'
    assert [seed for seed, _ in ways[1]] == [0, 1] and runs.state_of(sweep.runs[1].workdir).kind == runs.WAITING
    ways[0][1] = Interrupted('interrupted without saving')
    with pytest.raises(Interrupted):
        runs.train(sweep, sweep.runs[1:], lambda line: None)
    ways[0][1] = KeyError('a bug')
    with pytest.raises(KeyError):
        runs.train(sweep, sweep.runs[1:], lambda line: None)
    assert [seed for seed, _ in ways[1]] == [0, 1, 1, 1]


def test_two_at_once_are_kept_apart(tmp_path, ways):
    sweep = sweep_of(tmp_path, 'seed=0')
    with runs.workdirs.locked(sweep.folder), pytest.raises(UserError, match='another process is training in'):
        runs.train(sweep, sweep.runs, lambda line: None)


def test_the_base_config_is_saved_as_it_is(tmp_path):
    assert sweep_of(tmp_path, 'seed=0').base == from_json(str(tmp_path / 'base.json')) != Config()


@pytest.fixture
def abreast_ways(ways, monkeypatch):
    """As `ways`, and the groups of seeds that were trained as one; {seed: what it fails of}."""
    groups, failures = [], {}

    def train_abreast(assembled, workdirs, *, baselines):
        groups.append(([run.config.seed for run in assembled], baselines))
        return ways[0].get('group', ''), [failures.get(run.config.seed) for run in assembled]

    monkeypatch.setattr(running, 'train_abreast', train_abreast)
    monkeypatch.setattr(running, 'train', lambda run, workdir, *, checked, baselines: groups.append(([run.config.seed], baselines)) or '')
    monkeypatch.setattr(runs, 'assemble', lambda config, workdir: types.SimpleNamespace(config=config))
    return ways[0], groups, failures


def test_runs_that_differ_in_numbers_alone_go_together(tmp_path, abreast_ways):
    _, groups, failures = abreast_ways
    failures[1] = NotFinite('step 3: loss nan')
    sweep = sweep_of(tmp_path, 'model.dropout=0.1,0.2; seed=0..2; optim.learning_rate=1e-4')
    assert runs.train(sweep, sweep.runs, lambda line: None, together=2) == ''
    assert groups == [([0, 1], True), ([2], False), ([0, 1], False), ([2], False)], 'other dropout is another program'
    kinds = {run.name: runs.state_of(run.workdir).kind for run in sweep.runs}
    assert [kind for name, kind in kinds.items() if 'seed=1' in name] == [runs.DIVERGED] * 2
    assert [kind for name, kind in kinds.items() if 'seed=1' not in name] == [runs.FINISHED] * 4


def test_a_signal_leaves_those_that_go_together_to_be_gone_on_with(tmp_path, abreast_ways):
    ways, groups, failures = abreast_ways
    ways['group'], failures[0] = 'SIGTERM', UserError('the disk is full')
    sweep = sweep_of(tmp_path, 'seed=0..3')
    assert runs.train(sweep, sweep.runs, lambda line: None, together=2) == 'SIGTERM'
    assert groups == [([0, 1], True)]
    assert [runs.state_of(run.workdir).kind for run in sweep.runs] == [runs.FAILED, runs.WAITING, runs.WAITING, runs.WAITING]


def test_a_run_that_stopped_early_is_finished(tmp_path):
    sweep = sweep_of(tmp_path, 'seed=0')
    run = sweep.runs[0]
    config = dataclasses.replace(run.config, steps=100)
    config.eval = dataclasses.replace(config.eval, patience=2, every_steps=10)
    config.checkpoint = dataclasses.replace(config.checkpoint, best_metric='accuracy')
    trained(dataclasses.replace(run, config=config), {step: {'accuracy': 0.5} for step in (10, 20, 30)}, finished=False)
    pathlib.Path(run.workdir, 'checkpoints', '30').mkdir(parents=True)
    assert runs.state_of(run.workdir).kind == runs.FINISHED
    lines = pathlib.Path(run.workdir, 'metrics.jsonl').read_text().splitlines()
    pathlib.Path(run.workdir, 'metrics.jsonl').write_text('\n'.join(lines[:-1]) + '\n')
    assert runs.state_of(run.workdir).kind == runs.BEGUN, 'two evaluations without a gain are yet to come'
