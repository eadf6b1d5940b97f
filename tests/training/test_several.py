"""Several heads learn together: gradients of a head are those of its single run, exactly so under microbatches and a mesh, and strategies know no heads."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import several
from t5x_lite.config import MeshConfig, TuneConfig
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.several import params_of
from t5x_lite.training import partitioning, paths
from t5x_lite.training.step import gradients, make_program
from tests import several_material as material
from tests.data.table_material import VOCAB
from tests.training import small


def rows_of(name, seed=0, rows=8, length=16):
    """A batch of a head as its data would make it."""
    rng = np.random.default_rng(seed)
    real = (np.arange(length) < rng.integers(4, length + 1, (rows, 1))).astype(np.int32)
    batch = {
        'tokens': rng.integers(5, len(VOCAB), (rows, length), dtype=np.int32) * real, 'token_types': np.zeros((rows, length), np.int32),
        'sequence_ids': real, 'example_weights': np.ones(rows, np.float32),
    }  # fmt: skip
    if name == 'mood':
        return batch | {'labels': rng.integers(0, 3, rows, dtype=np.int32)}
    if name == 'spans':
        return batch | {side: rng.integers(0, 4, rows, dtype=np.int32) for side in ('answer_starts', 'answer_ends')}
    tagged = real * (np.arange(length) > 0)
    labels = np.where(tagged, rng.integers(0, 5, (rows, length), dtype=np.int32), -1).astype(np.int32)
    return batch | {'labels': labels, 'tagged': tagged.astype(np.int32), 'words': np.where(tagged, np.arange(length), -1).astype(np.int32)}


def marked(name, **options):
    batch = rows_of(name, **options)
    return batch | {several.FEATURE + name: np.ones(len(batch['tokens']), np.int32)}


@pytest.fixture(scope='module')
def heavy():
    """{head: (gradients of the several, of the head alone, metrics of both)}, with losses of other weights."""
    config = material.config()
    config.heads[0].weight, config.heads[2].weight = 3.0, 1e-6
    mesh = partitioning.make_mesh(config, small.one_device())
    program, found = make_program(config, mesh), {}
    params = program.init().params
    key = DropoutKey.create(0, jnp.int32(0), jnp.arange(8, dtype=jnp.uint32))
    for name, one in several.apart(config).items():
        alone = make_program(one, mesh)

        def both(params, batch, name=name, alone=alone):
            own = {feature: values for feature, values in batch.items() if not feature.startswith(several.FEATURE)}
            return gradients(program, params, batch, key), gradients(alone, _only(alone, params_of(params, name)), own, key)

        found[name] = jax.tree.map(np.asarray, jax.jit(both)(params, marked(name)))
    return config, found


def _only(program, params):
    """Of the parameters of several heads, those that a single run has (no pooler, say)."""
    available = paths.leaves(params)
    return paths.map_paths(lambda path, _: available[path], program.abstract.params)


@pytest.mark.parametrize('name', material.SOURCES)
def test_gradients_are_those_of_the_single_run_times_the_weight(heavy, name):
    config, found = heavy
    (loss, grads, metrics), (alone_loss, alone, alone_metrics) = found[name]
    weight = several.find(config, name, '').weight
    np.testing.assert_allclose(loss, weight * alone_loss, rtol=1e-5)
    ours, theirs = paths.leaves(grads), paths.leaves(alone)
    for path, leaf in ours.items():
        own = path.removeprefix(f'heads/{name}/')
        if own in theirs:
            np.testing.assert_allclose(leaf, weight * theirs[own], rtol=1e-4, atol=1e-6 * weight, err_msg=path)
        else:
            assert not leaf.any(), f'{path} is no part of {name}'
    assert np.abs(ours['encoder/layers/mlp/wi/kernel']).max() > 1e-5 * weight
    assert metrics.keys() == {f'{name}/{metric}' for metric in alone_metrics}
    for metric, pair in alone_metrics.items():
        np.testing.assert_allclose(metrics[f'{name}/{metric}'], pair, rtol=1e-5, err_msg='metrics are not multiplied')


def test_a_loss_of_next_to_no_weight_moves_next_to_nothing(heavy):
    largest = {name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) for name, ((_, grads, _), _) in heavy[1].items()}
    assert largest['spans'] < 1e-5 < 1e-2 < largest['mood']


def trained(config, devices=None):
    return [small.train(config, devices=devices, batches=[marked(name, seed=step) for step in range(2)]) for name in ('mood', 'tags')]


@pytest.fixture(scope='module')
def alone():
    return trained(material.config(), small.one_device())


@pytest.mark.parametrize('fields', [{'microbatches': 4}, {'data': 2, 'fsdp': 2, 'tensor': 2}], ids=str)
def test_microbatches_and_meshes_give_the_numbers_of_one_device(alone, fields):
    config = material.config(mesh=MeshConfig(**{name: size for name, size in fields.items() if name != 'microbatches'}))
    config.optim.microbatches = fields['microbatches'] if 'microbatches' in fields else 1
    for ours, theirs in zip(alone, trained(config, small.one_device() if 'microbatches' in fields else None), strict=True):
        np.testing.assert_allclose(ours.curve, theirs.curve, atol=5e-6, rtol=5e-6)
        assert small.largest_difference(ours.state.params, theirs.state.params) < 5e-6


def test_a_strategy_knows_no_heads():
    """Heads alone, of a frozen body; and beside LoRA, what is new."""
    for tune, learns in (
        (TuneConfig(train=('heads/.*',)), lambda path: path.startswith('heads/mood/')),
        (TuneConfig(lora=(('.*/attention/query', 2, 4.0),)), lambda path: path.startswith('heads/mood/') or path.endswith('lora_b')),
    ):
        config = material.config(tune=tune, init_fresh=('heads/.*',))
        config.optim.decay = (('.*', 0.0),)
        program = make_program(config, partitioning.make_mesh(config, small.one_device()))
        before = paths.leaves(jax.tree.map(np.asarray, nn.unbox(program.init().params)))
        after = paths.leaves(small.train(config, devices=small.one_device(), batches=[marked('mood')]).state.params)
        changed = {path for path in after if after[path].tobytes() != before[path].tobytes()}
        assert changed == {path for path in after if learns(path)}


def test_a_batch_says_whose_it_is():
    with pytest.raises(KeyError, match='head/NAME'):
        several.name_in(rows_of('mood'))
    assert several.name_in(marked('mood')) == 'mood'
    assert dataclasses.asdict(several.single(material.config(), material.head('mood')))['heads'] == ()
