"""Mixout: what a step sees, what it learns, and the same on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import Optimizer, TuneConfig
from t5x_lite.errors import UserError
from t5x_lite.training import mixout, partitioning, paths
from t5x_lite.training.step import make_program
from tests.training import runs, small

PLAIN = {'dropout': 0.0, 'attention_dropout': 0.0}
TOY = {'module': runs.TOY}  # steps in a moment


def config(p=0.5, tune=None, **fields):
    tune = dataclasses.replace(tune or TuneConfig(), mixout=p)
    return small.config(model=PLAIN | fields.pop('model', {}), tune=tune, init_from='somewhere', **fields)


def mixed(run, learns, start, step=0):
    return mixout.mixed(run, learns, (mixout.Pretrained(start),), jnp.int32(step), run.seed)


def test_a_step_sees_one_or_the_other_and_their_mean_is_what_is_learnt():
    """As in the paper: (u or w, less p u) / (1 - p), at each place alone."""
    rng = np.random.default_rng(0)
    w, u = ({'a': {'kernel': jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)}} for _ in range(2))
    for p in (0.2, 0.9):
        run, total = config(p), np.zeros((40, 50))
        for step in range(200):
            seen = np.asarray(mixed(run, w, u, step)['a']['kernel'])
            either = [np.asarray((x['a']['kernel'] - p * u['a']['kernel']) / (1 - p)) for x in (u, w)]
            dropped = np.isclose(seen, either[0], atol=1e-5)
            assert (dropped | np.isclose(seen, either[1], atol=1e-5)).all()
            assert abs(dropped.mean() - p) < 4 * np.sqrt(p * (1 - p) / w['a']['kernel'].size) + 1e-3
            total += seen
        # By the spread of one draw, |w - u| sqrt(p / (1 - p)).
        error = np.abs(w['a']['kernel'] - u['a']['kernel']) * np.sqrt(p / (1 - p) / 200)
        assert np.mean(np.abs(total / 200 - w['a']['kernel']) / error) < 1.0  # 0.8 of a normal one


def test_with_zeros_for_the_pretrained_weights_it_is_dropout_of_weights():
    w = {'kernel': jnp.ones((100, 100))}
    seen = np.asarray(mixed(config(0.75), w, {'kernel': jnp.zeros((100, 100))})['kernel'])
    assert set(np.unique(seen)) == {0.0, 4.0} and abs((seen == 0).mean() - 0.75) < 0.02


def test_draws_differ_by_step_seed_and_path_and_nothing_else():
    w, u = ({name: jnp.full((30, 30), value) for name in 'ab'} for value in (1.0, 0.0))
    first = mixed(config(), w, u)
    again = mixed(config(), w, u)
    assert all(np.array_equal(first[name], again[name]) for name in 'ab')
    for other in (first['b'], mixed(config(), w, u, 1)['a'], mixed(config(seed=7), w, u)['a']):
        assert 0.4 < np.mean(np.asarray(first['a'] == other)) < 0.6


def test_the_first_step_is_that_without_it_and_moves_what_was_not_dropped():
    """Before anything is learnt w = u, and so the loss is the plain one; gradients are (1 - dropped) / (1 - p) of the plain ones."""
    sgd = {'model': TOY, 'optim': {'b1': 0.0, 'b2': 0.0, 'eps': 1e6, 'learning_rate': 1e6, 'clip_norm': 0.0, 'decay': (('.*', 0.0),)}}
    one = {'steps': 1, 'devices': small.one_device()}
    run = config(**sgd)
    program = make_program(run, partitioning.make_mesh(run, small.one_device()))
    before = jax.tree.map(np.asarray, program.init().params)
    plain, mix = (small.train(one_or_other, **one) for one_or_other in (config(0.0, **sgd), run))
    np.testing.assert_allclose(plain.curve[0, 0], mix.curve[0, 0], rtol=1e-6)
    for path, leaf in paths.leaves(before).items():
        moved, twice = (paths.leaves(outcome.state.params)[path] - leaf for outcome in (mix, plain))
        kept = np.abs(moved) > 0
        np.testing.assert_allclose(moved[kept], 2 * twice[kept], rtol=2e-2, atol=2e-5, err_msg=path)
        if path == 'layers/kernel':
            assert 0.45 < kept.mean() < 0.55, path


def test_what_is_new_or_added_or_does_not_learn_is_not_mixed():
    run = config(tune=TuneConfig(freeze=('encoder/embeddings/.*',)), init_fresh=('nsp/.*',))
    abstract = make_program(run, partitioning.make_mesh(run, small.one_device())).abstract
    kept = {path.split('/values/')[1] for path in paths.leaves(abstract.opt_state) if '/values/' in path}
    assert kept == {path for path in paths.leaves(abstract.params) if not path.startswith(('nsp/', 'encoder/embeddings/'))}
    lora = TuneConfig(lora=(('.*/attention/query', 2, 4.0),), mixout=0.5)
    with pytest.raises(UserError, match='config.tune.mixout=0.5 mixes what learns with its pretrained value, and nothing that learns has one'):
        make_program(config(tune=lora, init_fresh=('mlm/.*',)), partitioning.make_mesh(run, small.one_device()))
    with pytest.raises(UserError, match='mixes in the weights of config.init_from, and there are none'):
        small.config(tune=TuneConfig(mixout=0.5))
    with pytest.raises(UserError, match='config.tune.mixout is 1.0; it must be at least 0 and below 1'):
        config(1.0)


@pytest.mark.parametrize('optim, model', [({}, {}), ({'name': Optimizer.adafactor, 'learning_rate': 1e-3}, TOY)], ids=['BERT, adamw', 'adafactor'])
def test_on_a_mesh_in_microbatches_scanned_or_unrolled(optim, model):
    tune = TuneConfig(freeze=('(encoder/)?layers/0/.*',))
    one = small.train(config(tune=tune, model=model | {'scan_layers': False}, optim=optim), devices=small.one_device())
    many = small.train(config(tune=tune, model=model, mesh={'data': 2, 'fsdp': 2, 'tensor': 2}, optim=optim | {'microbatches': 2}))
    np.testing.assert_allclose(one.curve, many.curve, rtol=2e-5)
    assert small.largest_difference(one.state.params, many.state.params) < 2e-5
    plain = small.train(small.config(model=PLAIN | model, tune=tune, optim=optim), devices=small.one_device())
    assert small.largest_difference(one.state.params, plain.state.params) > (1e-4 if optim else 1e-3)


def test_what_is_mixed_in_stays_as_it_was():
    run = config(0.9, model=TOY)
    before = jax.tree.map(np.asarray, make_program(run, partitioning.make_mesh(run, small.one_device())).init().params)
    outcome = small.train(run, steps=4, devices=small.one_device())
    pretrained = {path.split('/values/')[1]: leaf for path, leaf in paths.leaves(outcome.state.opt_state).items() if '/values/' in path}
    assert pretrained.keys() == paths.leaves(before).keys()
    for path, leaf in paths.leaves(before).items():
        np.testing.assert_array_equal(pretrained[path], leaf, err_msg=path)
