"""Runs trained abreast end as if each had been trained alone, whatever becomes of the others. (Eight devices, unless said.)"""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from t5x_lite.assemble import assemble
from t5x_lite.config import TuneConfig
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.training import abreast, partitioning, sharing
from t5x_lite.training.step import make_program, make_train_step, numbers
from t5x_lite.training.trainer import Trainer
from tests.training import runs, small

STEPS = 10
RATES, SEEDS = (1e-2, 3e-3), (1, 2)


def a_config(corpus, rate, seed, **fields):
    """Two stages, microbatches, averaged weights, dropout; saved every 5 steps, looked at every 4."""
    stages = {'data.stages': ((0, 16, 16, 3), (7, 32, 16, 5)), 'eval.every_steps': 4, 'checkpoint.best_metric': 'mlm_loss', 'steps': STEPS}
    return runs.small_config(corpus, seed=seed, **(stages | {'optim.learning_rate': rate} | fields))


def four(corpus, data=DataFunction, **fields):
    made = [assemble(a_config(corpus, rate, seed, **fields)) for rate in RATES for seed in SEEDS]
    for run in made:
        run.train = data(run.config, 'train')
    return made


def evaluations(run):
    return lambda program, step: Evaluator(program, run.validation, step)


def together(made, folder):
    return abreast.train_abreast(made, [str(folder / str(number)) for number in range(len(made))], evaluations)


def alone(made, folder):
    """The first and the last each compiled for itself, so that a number of another run in the shared program would show."""
    for number, run in enumerate(made):
        if number in (0, len(made) - 1):
            sharing.forget()
        Trainer(run.config, str(folder / str(number)), run.train, evaluations(run), run.tokenizer_path).run()


def opened(workdir):
    run = runs.Run.__new__(runs.Run)
    run.workdir, run.checkpoints = workdir, workdir / 'checkpoints'
    return run


def assert_alike(ours, theirs, tolerance=2e-5):
    """The same lines, the same checkpoints, the same files, but for rounding."""
    ours, theirs = opened(ours), opened(theirs)
    for line, other in zip(ours.lines(), theirs.lines(), strict=True):
        assert line.keys() == other.keys() and line['step'] == other['step']
        np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=tolerance, atol=tolerance)
    assert ours.saved() == theirs.saved() and ours.saved()
    for step in ours.saved():
        found, expected = ours.contents(step), theirs.contents(step)
        assert found.keys() == expected.keys()
        for path in found:
            np.testing.assert_allclose(found[path], expected[path], rtol=tolerance, atol=tolerance, err_msg=path)
    files = [{str(path.relative_to(run.workdir)) for path in run.workdir.glob('*')} for run in (ours, theirs)]
    assert files[0] == files[1]
    assert json.loads((ours.workdir / 'config.json').read_text()) == json.loads((theirs.workdir / 'config.json').read_text())


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return runs.prepare_corpus(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def separate(corpus, tmp_path_factory):
    """The workdirs of four runs, each trained alone."""
    folder = tmp_path_factory.mktemp('separate')
    alone(four(corpus), folder)
    return folder


@pytest.fixture(scope='module')
def grouped(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp('grouped')
    assert together(four(corpus), folder) == ('', [None] * 4)
    return folder


def test_two_rates_and_two_seeds_abreast_end_as_alone(separate, grouped):
    for number in range(4):
        assert_alike(grouped / str(number), separate / str(number))
    ends = [opened(grouped / str(number)).contents(STEPS)['params/output'] for number in range(4)]
    assert min(np.abs(one - other).max() for n, one in enumerate(ends) for other in ends[:n]) > 1e-3


def test_each_goes_on_from_its_own_newest_checkpoint(corpus, separate, grouped, tmp_path, capsys):
    shutil.copytree(grouped, tmp_path, dirs_exist_ok=True)
    for number, steps in ((0, ['10']), (1, ['10']), (2, opened(tmp_path / '2').saved())):
        for step in steps:
            shutil.rmtree(tmp_path / str(number) / 'checkpoints' / str(step))
    first = [opened(tmp_path / str(number)).saved()[-1:] for number in range(4)]
    assert first[:2] != [[10], [10]] and first[2:] == [[], [10]]
    assert together(four(corpus), tmp_path) == ('', [None] * 4)
    said = capsys.readouterr().out
    assert f'[0] resumed {tmp_path / "0"} from step {first[0][0]}' in said and '[3] finished: all 10 steps' in said and '4 runs abreast' not in said
    for number in range(4):
        assert_alike(tmp_path / str(number), separate / str(number))


class Poisoned(DataFunction):
    """Of seed 2, whose fourth batch has no finite loss."""

    def batch(self, step, rows=None):
        batch = super().batch(step, rows)
        if step == 3 and self.config.seed == 2:
            batch['masked_weights'][0, 0] = np.inf
        return batch


def test_a_loss_that_is_not_finite_ends_that_run_alone(corpus, separate, tmp_path):
    signal_name, failures = together(four(corpus, Poisoned), tmp_path)
    assert not signal_name and [failure is None for failure in failures] == [True, False, True, False]
    assert 'step 4: loss nan' in str(failures[1]) and 'step 4: loss nan' in str(failures[3])
    for number in (0, 2):
        assert_alike(tmp_path / str(number), separate / str(number))
    assert opened(tmp_path / '1').saved() == []


class OfAnyWidth(DataFunction):
    """Batches some of which have more columns, as with config.data.length_buckets."""

    def batch(self, step, rows=None):
        batch = super().batch(step, rows)
        if (step + self.config.seed) % 3 == 0:
            for name in ('tokens', 'token_types', 'sequence_ids'):
                batch[name] = np.pad(batch[name], ((0, 0), (0, 8)))
        return batch


def test_batches_of_different_lengths_are_taken_apart(corpus, tmp_path):
    fields = {'data.stages': (), 'data.seq_len': 16, 'batch_size': 16, 'steps': 6}
    assert together(four(corpus, OfAnyWidth, **fields), tmp_path / 'abreast') == ('', [None] * 4)
    alone(four(corpus, OfAnyWidth, **fields), tmp_path / 'alone')
    for number in range(4):
        assert_alike(tmp_path / 'abreast' / str(number), tmp_path / 'alone' / str(number))


def test_schedules_may_differ_in_length_and_parts_begin_to_learn_on_the_way(corpus, tmp_path):
    fields = {'data.stages': (), 'data.seq_len': 16, 'batch_size': 16, 'tune': TuneConfig(freeze=('tokens/.*',), unfreeze=((3, 'tokens/.*', 0.5),))}
    made = four(corpus, **fields)[:2] + four(corpus, **fields, **{'optim.warmup_steps': 1})[2:]
    made[1].config.steps = 6
    assert together(made, tmp_path / 'abreast') == ('', [None] * 4)
    alone(made, tmp_path / 'alone')
    for number, steps in enumerate((10, 6, 10, 10)):
        assert opened(tmp_path / 'alone' / str(number)).saved()[-1] == steps
        assert_alike(tmp_path / 'abreast' / str(number), tmp_path / 'alone' / str(number))


class Ending(DataFunction):
    """Data in the midst of which the process is asked to end."""

    def batch(self, step, rows=None):
        if step == 5 and self.config.seed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, rows)


def test_a_signal_saves_and_ends_all(corpus, separate, tmp_path):
    made = [run for run in four(corpus, Ending, **{'data.prefetch': 1}) if run.config.optim.learning_rate == RATES[0]]
    assert together(made, tmp_path) == ('SIGTERM', [None] * 2)
    saved = [opened(tmp_path / str(number)).saved()[-1] for number in range(2)]
    assert max(saved) < STEPS and abs(saved[0] - saved[1]) <= 1  # one may have asked for its next step already
    assert together(four(corpus)[:2], tmp_path) == ('', [None] * 2)
    for number in range(2):
        ours, theirs = (opened(folder / str(number)).contents(STEPS) for folder in (tmp_path, separate))
        assert max(np.abs(ours[path].astype(np.float64) - theirs[path]).max() for path in ours) < 2e-5


def test_a_group_that_does_not_fit_says_how_many_do(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(abreast, '_memory', lambda: 100_000.0)
    with pytest.raises(UserError, match=r'4 runs abreast need .* GiB a device, which has 0\.0 GiB; train (at most [23] at a time|them one after the other)'):
        together(four(corpus), tmp_path)
    assert all(opened(tmp_path / str(number)).saved() == [] for number in range(4))


def test_which_go_together(corpus, tmp_path):
    made = four(corpus) + [assemble(a_config(corpus, 1e-2, 1, **{'model.dropout': 0.2}))]
    assert abreast.groups([run.config for run in made]) == [[0, 1, 2, 3], [4]]
    with pytest.raises(UserError, match=r'runs that differ in config\.model\.dropout cannot be trained abreast'):
        together(made, tmp_path)
    with pytest.raises(UserError, match='2 runs abreast need a --workdir each, all different'):
        abreast.train_abreast(made[:2], [str(tmp_path), f'{tmp_path}/'], evaluations)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('mesh', [None, {'data': 4, 'tensor': 2}])
def test_a_bert_with_dropout_in_its_attention(mesh):
    """Losses of each step, and parameters at the end."""
    configs = [small.config(seed=seed, optim={'learning_rate': rate}, mesh=mesh, model={'num_layers': 1}) for rate in (1e-2, 1e-3) for seed in (1, 2)]
    batches = [[small.batch(seed=10 * config.seed + step) for step in range(2)] for config in configs]
    devices = None if mesh else small.one_device()
    programs = [make_program(config, partitioning.make_mesh(config, devices)) for config in configs]
    stack = lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves])  # noqa: E731
    with jax.set_mesh(programs[0].mesh):
        step, state, curve = jax.jit(make_train_step(programs[0])), [program.init() for program in programs], []
        several, states = jax.jit(jax.vmap(make_train_step(programs[0]))), jax.tree.map(stack, *state)
        given = jax.tree.map(stack, *map(numbers, programs))
        for number in range(2):
            states, metrics = several(states, jax.tree.map(stack, *(one[number] for one in batches)), given)
            for place, program in enumerate(programs):
                state[place], own = step(state[place], batches[place][number], numbers(program))
                curve.append((float(own['loss']), float(metrics['loss'][place])))
    np.testing.assert_allclose(*zip(*curve), rtol=1e-5)
    for place in range(4):
        assert small.largest_difference(state[place].params, jax.tree.map(lambda x: x[place], states.params)) < 1e-5
    assert len({loss for loss, _ in curve[-4:]}) == 4  # no two runs are one
