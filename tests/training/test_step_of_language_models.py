"""Decoders and encoder-decoders: sharded, accumulated, unrolled and rematerialised, a step gives the same numbers. (As tests/training/test_step.py of BERT.)"""

import jax
import numpy as np
import pytest

from t5x_lite.config import Activation, Init, Norm, NormPlace, Positions, Remat, SequenceAttention, TuneConfig
from t5x_lite.models.vocabulary import OutputLayer
from t5x_lite.training import partitioning
from t5x_lite.training.step import eval_step, make_program, make_train_step
from tests.training import small
from tests.training.test_step import assert_equal, assert_equal_gradients

ROWS, LENGTH, TARGETS = small.ROWS, small.LENGTH, 8
GPT = {'module': 't5x_lite.models.language_model:Decoder', 'norm_place': NormPlace.pre, 'norm_eps': 1e-5, 'init': Init.residual, 'local_window': 4}
T5 = {
    'module': 't5x_lite.models.language_model:EncoderDecoder', 'norm': Norm.rms, 'norm_place': NormPlace.pre, 'norm_eps': 1e-6, 'init': Init.fan_in,
    'positions': Positions.relative, 'use_bias': False, 'scale_attention': False, 'gated': True, 'tie_embeddings': False, 'head_size': 8,
    'activation': Activation.gelu_tanh, 'relative_buckets': 8, 'relative_max_distance': 12, 'hidden_dropout': 0.1, 'output_dropout': 0.1,
}  # fmt: skip
KINDS = {'decoder': GPT, 'encoder_decoder': T5}


def rows(length: int, seed: int, prefix: str = '') -> dict[str, np.ndarray]:
    """Two sequences packed in each row, and padding."""
    rng = np.random.default_rng(seed)
    first, used = rng.integers(2, length - 3, (ROWS, 1)), rng.integers(length - 2, length + 1, (ROWS, 1))
    columns = np.arange(length)[None]
    ids = np.where(columns < first, 1, np.where(columns < used, 2, 0)).astype(np.int32)
    positions = np.where(ids == 1, columns, np.where(ids == 2, columns - first, 0)).astype(np.int32)
    tokens = rng.integers(0, small.VOCAB, (ROWS, length), dtype=np.int32)
    return {f'{prefix}tokens': tokens, f'{prefix}sequence_ids': ids, f'{prefix}positions': positions}


def batch(kind: str, seed: int) -> dict[str, np.ndarray]:
    made, length = rows(LENGTH, seed), LENGTH
    if kind == 'encoder_decoder':
        made |= rows(TARGETS, seed + 50, 'decoder_')
        length = TARGETS
    ids = made['decoder_sequence_ids' if kind == 'encoder_decoder' else 'sequence_ids']
    rng = np.random.default_rng(seed + 100)
    made['targets'] = rng.integers(0, small.VOCAB, (ROWS, length), dtype=np.int32)
    made['target_weights'] = (ids > 0).astype(np.float32)
    if kind == 'decoder':
        made['prefix'] = ((made['positions'] < 3) & (ids > 0)).astype(np.int32)
        made['target_weights'] *= 1 - made['prefix']
    return made


def train(kind: str, devices=None, model=None, **fields):
    run = small.config(model=KINDS[kind] | (model or {}), loss='t5x_lite.training.losses:LmLoss', z_loss=1e-3, **fields)
    return small.train(run, devices=devices, batches=[batch(kind, seed) for seed in range(3)])


@pytest.fixture(scope='module')
def single():
    return {kind: train(kind, small.one_device()) for kind in KINDS}


MESHES = [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'fsdp': 2, 'tensor': 2, 'sequence': 2}]
SLICES = {'data': 2, 'fsdp': 4, 'slices': 2, 'slices_along': 'fsdp'}


@pytest.mark.parametrize('mesh', [*MESHES, SLICES], ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_a_mesh_of_eight_devices_gives_the_numbers_of_one(single, kind, mesh):
    sharded = train(kind, mesh=mesh)
    assert_equal(single[kind], sharded)
    assert_equal_gradients(single[kind], sharded)


@pytest.mark.parametrize('mesh', [{'fsdp': 2, 'sequence': 4}, {'data': 2, 'tensor': 2, 'sequence': 2}], ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_keys_and_values_that_go_round_change_nothing(single, kind, mesh):
    """In a window, with a prefix, packed, across two stacks, with dropout; recomputed too."""
    sharded = train(kind, model={'remat': Remat.full if 'tensor' in mesh else Remat.none}, mesh=mesh | {'sequence_attention': SequenceAttention.ring})
    assert_equal(single[kind], sharded)
    assert_equal_gradients(single[kind], sharded)


def test_gradients_of_relative_positions_are_added_up_as_their_tables():
    """The sum over a batch of what the scores of a row have is left to each device."""
    run = small.config(model=T5, loss='t5x_lite.training.losses:LmLoss', mesh={'data': 8})
    with jax.set_mesh(partitioning.make_mesh(run)):
        program = make_program(run, partitioning.make_mesh(run))
        text = jax.jit(make_train_step(program)).lower(program.abstract, batch('encoder_decoder', 0)).compile().as_text()
    sums = [line for line in text.splitlines() if ' all-reduce(' in line or ' all-reduce-start(' in line]
    assert any('[8,8]' in line for line in sums)  # the tables: buckets x heads
    assert not any(f'[8,{length},{length}]' in line for line in sums for length in (LENGTH, TARGETS))


HOW = [*((kind, {'sum_behind': True, 'gather_again': again}) for kind in KINDS for again in (False, True)), ('encoder_decoder', {})]


@pytest.mark.parametrize('kind, how', HOW, ids=str)
def test_weights_made_whole_a_layer_ahead_change_nothing(single, kind, how):
    """On a mesh that divides them twice, in two parts of a batch, recomputed."""
    mesh = {'data': 2, 'fsdp': 2, 'tensor': 2, 'gather_ahead': True} | how
    ahead = train(kind, model={'remat': Remat.full}, mesh=mesh, optim={'microbatches': 2})
    assert_equal(single[kind], ahead)
    assert_equal_gradients(single[kind], ahead)


@pytest.mark.parametrize('kind', KINDS)
def test_microbatches_unrolled_layers_and_remat_change_nothing(single, kind):
    assert_equal(single[kind], train(kind, small.one_device(), {'scan_layers': False, 'remat': Remat.full}, optim={'microbatches': 4}))


@pytest.mark.parametrize('kind', KINDS)
def test_a_loop_that_is_cut_where_learning_begins_gives_the_numbers_of_unrolled_layers(kind):
    """The lowest layers of each stack are frozen, embeddings are not; on a mesh and recomputed too."""
    model, tune = {'num_layers': 3}, TuneConfig(freeze=('.*layers/[01]/.*',))
    unrolled = train(kind, small.one_device(), model | {'scan_layers': False}, tune=tune)
    for fields in ({}, {'mesh': MESHES[0], 'model': {'remat': Remat.full}}):
        looped = train(kind, None if fields else small.one_device(), model | (fields.pop('model') if fields else {}), tune=tune, **fields)
        assert_equal(unrolled, looped)
        assert_equal_gradients(unrolled, looped)


@pytest.fixture
def chunked(monkeypatch):
    """Output layers that losses asked for sums."""
    asked, sums = [], OutputLayer.sums
    monkeypatch.setattr(OutputLayer, 'sums', lambda layer, *given: asked.append(layer) or sums(layer, *given))
    return asked


FEW = {'logits_megabytes': 1e-3}  # two rows of 128 logits


SHARES = [('decoder', MESHES[0], (4, 1, 2)), ('decoder', {'data': 8}, (8, 1, 1)), ('decoder', MESHES[1], (2, 2, 2)), ('encoder_decoder', MESHES[1], (2, 2, 2))]


@pytest.mark.parametrize('kind,mesh,parts', SHARES, ids=str)
def test_logits_in_chunks_change_nothing_on_any_mesh(single, chunked, kind, mesh, parts):
    """Each device has its rows, positions and columns of every chunk."""
    sharded = train(kind, model=FEW, mesh=mesh)
    assert_equal(single[kind], sharded)
    assert_equal_gradients(single[kind], sharded)
    sizes = {'data': 1, 'fsdp': 1, 'tensor': 1, 'sequence': 1} | mesh
    assert chunked and all(layer.chunks > 1 for layer in chunked)
    assert tuple(int(np.prod([sizes[axis] for axis in axes])) for axes in (chunked[0].batch, chunked[0].length, chunked[0].vocab)) == parts


@pytest.mark.parametrize('kind', KINDS)
def test_logits_in_chunks_change_nothing_where_weights_travel_ahead(single, chunked, kind):
    """The table too goes from device to device; its gradients are added up where it was copied."""
    ahead = train(kind, model=FEW, mesh={'data': 2, 'fsdp': 2, 'tensor': 2, 'gather_ahead': True})
    assert_equal(single[kind], ahead)
    assert_equal_gradients(single[kind], ahead)
    assert chunked and all(layer.copies is not None for layer in chunked)


def test_logits_in_chunks_change_nothing_with_microbatches_unrolled_layers_and_remat(single, chunked):
    model = FEW | {'scan_layers': False, 'remat': Remat.full}
    assert_equal(single['decoder'], train('decoder', small.one_device(), model, optim={'microbatches': 4}))
    assert chunked


@pytest.mark.parametrize('learns', [True, False])
@pytest.mark.parametrize('model,found', [({}, True), (FEW, False)], ids=['whole', 'chunks'])
def test_no_step_makes_all_logits(model, found, learns):
    """Those that a module returns beside its output layer are not computed, in training and in evaluation."""
    run = small.config(model=KINDS['decoder'] | model, loss='t5x_lite.training.losses:LmLoss', z_loss=1e-3)
    program = make_program(run, partitioning.make_mesh(run, small.one_device()))
    given = (program.abstract if learns else program.abstract.params, batch('decoder', 0))
    text = jax.jit(make_train_step(program) if learns else eval_step(program)).lower(*given).compile().as_text()
    assert any(f'f32[{shape},128]' in text for shape in (f'{ROWS},{LENGTH}', ROWS * LENGTH)) == found
