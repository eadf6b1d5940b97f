"""What is compiled once for several runs, and that each of them gets its own numbers all the same."""

import dataclasses

import jax
import pytest

from t5x_lite.config import Optimizer, Schedule, TuneConfig
from t5x_lite.config_values import flatten, from_dict, to_dict
from t5x_lite.training import partitioning, sharing
from t5x_lite.training.losses import LmLoss
from t5x_lite.training.step import make_program, make_train_step, numbers
from tests.training import runs, small

DECAY = (('.*/bias', 0.0), ('.*', 0.05))
ONE = {'seed': 3, 'steps': 50, 'ema_decay': 0.9, 'tune': TuneConfig(layer_decay=0.9, rates=(('output', 2.0),))}
OTHER = {'seed': 4, 'steps': 70, 'ema_decay': 0.8, 'tune': TuneConfig(layer_decay=0.7, rates=(('output', 3.0),))}
ONE_OPTIM = {'learning_rate': 1e-2, 'warmup_steps': 3, 'end_fraction': 0.1, 'b1': 0.9, 'b2': 0.99, 'eps': 1e-3, 'decay': DECAY, 'clip_norm': 0.5}
OTHER_OPTIM = {
    'learning_rate': 3e-2, 'warmup_steps': 2, 'end_fraction': 0.3, 'b1': 0.8, 'b2': 0.98, 'eps': 1e-2, 'decay': (DECAY[0], ('.*', 0.1)), 'clip_norm': 0.7,
}  # fmt: skip


def toy(fields, optim):
    return small.config(model={'module': runs.TOY, 'vocab_multiple': 8}, optim=optim, **fields)


def program_of(config):
    return make_program(config, partitioning.make_mesh(config, small.one_device()))


@pytest.mark.parametrize(
    'name, schedule', [(Optimizer.adamw, Schedule.linear), (Optimizer.lamb, Schedule.inverse_sqrt), (Optimizer.adafactor, Schedule.cosine)]
)
def test_a_step_compiled_for_one_run_serves_another_that_differs_in_every_number(name, schedule):
    kind = {'name': name, 'schedule': schedule}
    theirs, ours = program_of(toy(ONE, ONE_OPTIM | kind)), program_of(toy(OTHER, OTHER_OPTIM | kind))
    assert theirs.key == ours.key and theirs.initializer() is ours.initializer()
    changed = {field.split('.')[-1] for field, value in flatten(ours.config).items() if value != flatten(theirs.config)[field]}
    assert changed == {field.split('.')[-1] for field in sharing.NUMBERS} - {'epochs', 'warmup_fraction'}
    state, ends = ours.init(), []
    for step in (jax.jit(make_train_step(theirs)), jax.jit(make_train_step(ours)), jax.jit(lambda s, b, n, plain=make_train_step(ours): plain(s, b))):
        now = state
        for number in range(4):
            now, metrics = step(now, small.batch(seed=number), numbers(ours))
        ends.append((now, metrics['loss'], metrics['learning_rate']))
    assert small.largest_difference(ends[0], ends[1]) == 0  # compiled with one's numbers at hand or the other's
    assert small.largest_difference(ends[0], ends[2]) < 1e-6  # numbers as inputs or as constants
    # And they are read: one more step with the numbers of the other leads elsewhere.
    step, (now, _, _) = jax.jit(make_train_step(theirs)), ends[0]
    own, foreign = (step(now, small.batch(), numbers(program))[0].params for program in (ours, theirs))
    assert small.largest_difference(own, foreign) > 1e-4


def with_field(config, name, value):
    plain = to_dict(config)
    place = plain
    *parents, last = name.split('.')
    for parent in parents:
        place = place[parent]
    assert last in place
    place[last] = value
    return from_dict(type(config), plain)


@pytest.mark.parametrize('field, value', [
    ('batch_size', 8), ('model.dropout', 0.2), ('optim.schedule', 'cosine'), ('optim.microbatches', 2), ('data.seq_len', 8),
    ('ema_decay', 0.0), ('optim.clip_norm', 0.0), ('optim.decay', [['.*/bias', 0.0], ['.*', 0.0]]), ('optim.decay', [['.*', 0.1]]), ('tune.layer_decay', 1.0),
    ('loss', 'bert_flax.losses:MlmLoss'), ('tune.freeze', ['output']), ('log.layer_norms', True), ('z_loss', 0.1), ('mesh.rules', [])])  # fmt: skip
def test_what_changes_a_computation_is_not_shared(field, value):
    config = toy(ONE, ONE_OPTIM)
    assert sharing.key(with_field(config, field, value)) != sharing.key(config)


@pytest.mark.parametrize('field, value', [('seed', 9), ('epochs', 2.0), ('optim.warmup_fraction', 0.2), ('data.train', 'other.csv'), ('eval.batches', 3)])
def test_what_changes_none_is_shared(field, value):
    config = toy(ONE, ONE_OPTIM)
    assert sharing.key(with_field(config, field, value)) == sharing.key(config)


def test_every_field_that_is_shared_exists():
    groups = {name.rpartition('.')[0] for name in flatten(small.config())}
    assert set(sharing.NUMBERS + sharing.OF_HOST) <= flatten(small.config()).keys() | groups


class Annealed(LmLoss):
    reads = ('steps',)


def test_a_loss_that_computes_with_a_number_says_so_and_is_compiled_for_each_value():
    config = dataclasses.replace(toy(ONE, ONE_OPTIM), loss=f'{__name__}:Annealed')
    assert program_of(config).key != program_of(dataclasses.replace(config, steps=60)).key
    assert program_of(config).key == program_of(dataclasses.replace(config, seed=60)).key


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(sharing, '_MOST', 3)
    monkeypatch.setattr(sharing, '_kept', type(sharing._kept)())
    made = []
    for name in (1, 2, 1, 3, 4, 1, 2):
        assert sharing.kept(name, lambda: made.append(name) or name) == name
    assert made == [1, 2, 3, 4, 2]  # 2 had waited the longest
