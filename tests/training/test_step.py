"""Equality claims of the step: sharded, accumulated, scanned, rematerialised and projected differently, it gives the same numbers."""

import itertools
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite.config import Activation, DropoutBits, DType, NormPlace, Optimizer, Remat, SequenceAttention, TuneConfig
from t5x_lite.errors import UserError
from t5x_lite.models import gathering
from t5x_lite.planning import hlo
from t5x_lite.planning.collectives import collectives
from t5x_lite.training import driving, partitioning, paths
from t5x_lite.training.step import eval_step, make_program, make_train_step
from tests.training import small

# In float32 sums over 8 devices differ from those of one in the last bits; three AdamW steps at 1e-2 turn that into this much (measured: 1e-6).
TOLERANCE = 5e-6
# Adafactor divides each gradient by its own size, however small, in the first steps.
ADAFACTOR_TOLERANCE = 2e-4

FACTORISATIONS = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(sizes) == 8]


@pytest.fixture(scope='module')
def single():
    return small.train(small.config(), devices=small.one_device())


def assert_equal(a: small.Outcome, b: small.Outcome, tolerance: float = TOLERANCE):
    np.testing.assert_allclose(a.curve, b.curve, atol=tolerance, rtol=tolerance)
    assert small.largest_difference(a.state.params, b.state.params) < tolerance


def assert_equal_gradients(a: small.Outcome, b: small.Outcome):
    """Element by element, through Adam's first moment: a tenth of the clipped gradient of each step."""
    first, second = (optax.tree.get(outcome.state.opt_state, 'mu') for outcome in (a, b))
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(first)) > 1e-3
    assert small.largest_difference(first, second) < 1e-7


def test_training_moves_the_loss():
    curve = small.train(small.config(), devices=small.one_device(), batches=[small.batch()] * 4).curve
    assert curve[-1, 0] < curve[0, 0] - 0.5


# Each axis alone, and each three together; the meshes between them are for `-m slow`.
@pytest.mark.parametrize(
    'data,fsdp,tensor,sequence', [pytest.param(*sizes, marks=[pytest.mark.slow] if sizes.count(1) == 2 else []) for sizes in FACTORISATIONS]
)
def test_every_mesh_of_eight_devices_gives_the_numbers_of_one(single, data, fsdp, tensor, sequence):
    mesh = {'data': data, 'fsdp': fsdp, 'tensor': tensor, 'sequence': sequence}
    sharded = small.train(small.config(mesh=mesh))
    assert_equal(single, sharded)
    assert_equal_gradients(single, sharded)


@pytest.mark.parametrize('along', ['data', 'fsdp', 'tensor'])
def test_two_slices_of_four_devices_give_the_numbers_of_one_device(single, along):
    sharded = small.train(small.config(mesh={'data': 2, 'fsdp': 2, 'tensor': 2, 'slices': 2, 'slices_along': along}))
    assert_equal(single, sharded)
    assert_equal_gradients(single, sharded)


@pytest.mark.parametrize('mesh', [{'data': 1, 'sequence': 8}, {'fsdp': 2, 'tensor': 2, 'sequence': 2}], ids=str)
def test_keys_and_values_that_go_round_change_nothing(single, mesh):
    sharded = small.train(small.config(mesh=mesh | {'sequence_attention': SequenceAttention.ring}))
    assert_equal(single, sharded)
    assert_equal_gradients(single, sharded)


HOW = {Remat.none: {'gather_side': 2, 'sum_behind': True}, Remat.dots: {'sum_behind': True}, Remat.full: {}}


@pytest.mark.parametrize('remat, scan', [*((remat, True) for remat in Remat), (Remat.none, False), (Remat.dots, False)])
def test_weights_made_whole_a_layer_ahead_change_nothing(single, remat, scan, monkeypatch):
    looped = mock.Mock(wraps=gathering.looped)
    monkeypatch.setattr(gathering, 'looped', looped)
    ahead = small.train(small.config(model={'remat': remat, 'scan_layers': scan}, mesh={'data': 2, 'fsdp': 4, 'gather_ahead': True} | HOW[remat]))
    assert looped.called
    assert_equal(single, ahead)
    assert_equal_gradients(single, ahead)


AGAIN = [({'fsdp': 8}, True), ({'data': 2, 'fsdp': 4, 'gather_side': 2}, True), ({'fsdp': 8, 'gather_side': 8}, True), ({'fsdp': 8}, False)]


@pytest.mark.parametrize('mesh, scan', AGAIN, ids=str)
def test_weights_made_whole_again_change_nothing(single, mesh, scan):
    """In two turns for two layers, and in three: what is on its way when a loop ends is more than it has layers. Eight at once, and by halves."""
    again = small.train(small.config(model={'remat': Remat.full, 'scan_layers': scan}, mesh=mesh | {'gather_ahead': True, 'sum_behind': True, 'gather_again': True}))
    assert_equal(single, again)
    assert_equal_gradients(single, again)


@pytest.mark.parametrize('attention, again', [*((attention, False) for attention in SequenceAttention), (SequenceAttention.ring, True)])
def test_weights_made_whole_a_layer_ahead_of_divided_rows(single, attention, again):
    mesh = {'fsdp': 2, 'tensor': 2, 'sequence': 2, 'gather_ahead': True, 'sum_behind': True, 'gather_again': again, 'sequence_attention': attention}
    ahead = small.train(small.config(model={'remat': Remat.full if again else Remat.none}, mesh=mesh))
    assert_equal(single, ahead)
    assert_equal_gradients(single, ahead)


@pytest.mark.parametrize('again', [False, True])
def test_weights_made_whole_a_layer_ahead_have_adapters_beside_them(again):
    tune, model = TuneConfig(lora=(('.*/attention/(query|value)', 4, 8.0),)), {'remat': Remat.full if again else Remat.none}
    alone = small.train(small.config(tune=tune, model=model), devices=small.one_device())
    mesh = {'data': 2, 'fsdp': 4, 'gather_ahead': True, 'sum_behind': again, 'gather_again': again}
    assert_equal(alone, small.train(small.config(tune=tune, model=model, mesh=mesh)))


def test_weights_made_whole_a_layer_ahead_travel_once_a_step_and_in_turns():
    """Both kernels of a feed-forward, and those of queries, keys and values in one (32 x 96 all three), in two turns (8 devices: four by four, then the two
    sides): before the loop the first layer takes both and the second its first, in the loop each of three turns sends both. What a message carries came in with
    the loop's carry, so that none waits for another; their gradients go the same way back. Nothing is gathered or added up at once. The vocabulary goes along
    in three slices of 48 rows (100 in whole tiles): of the first the first turn is before the loop."""
    model, found = {'num_layers': 3, 'd_ff': 96}, {}
    for ahead in (False, True):
        run = small.config(model=model, mesh={'fsdp': 8, 'gather_ahead': ahead, 'sum_behind': ahead})
        with jax.set_mesh(partitioning.make_mesh(run)):
            program = make_program(run, partitioning.make_mesh(run))
            text = jax.jit(make_train_step(program)).lower(program.abstract, small.batch()).compile().as_text()
        found[ahead] = collectives(hlo.parse(text), dict(partitioning.make_mesh(run).shape))
    whole = 4 * 32 * 96

    def count(ahead, kind, size):
        return sum(one.times for one in found[ahead] if one.kind == kind and one.bytes == size)

    assert (count(False, 'all-gather', whole), count(True, 'all-gather', whole), count(True, 'all-reduce', whole)) == (2 * 3 * 2, 0, 0)
    of_four, of_two, slices = 3 * 3 * (2 + 3), 3 * (1 + 3), 4 * 48 * 32
    assert (count(True, 'collective-permute', whole // 8), count(True, 'collective-permute', whole // 2)) == (2 * of_four, 2 * of_two)
    assert (count(True, 'collective-permute', slices // 8), count(True, 'collective-permute', slices // 2)) == (2 * 3 * (1 + 3), 2 * 3)


def test_devices_that_store_the_same_part_of_a_table_add_up_nothing_twice():
    """The table of the vocabulary goes along in slices, whose gradients come home added up over data, too; those of rows that are looked up are sent likewise."""
    run = small.config(mesh={'data': 2, 'fsdp': 4, 'gather_ahead': True, 'sum_behind': True})
    mesh = partitioning.make_mesh(run)
    with jax.set_mesh(mesh):
        program = make_program(run, mesh)
        text = jax.jit(make_train_step(program)).lower(program.abstract, small.batch()).compile().as_text()
    found = collectives(hlo.parse(text), dict(mesh.shape))
    assert [one for one in found if one.kind == 'all-reduce'] and not [one for one in found if one.kind == 'all-reduce' and one.axes == ('data',)]


@pytest.mark.parametrize('mesh', [{'data': 2, 'fsdp': 2}, {'data': 3, 'fsdp': 2}], ids=str)
def test_weights_made_whole_a_layer_ahead_in_bfloat16(mesh):
    """Sums in bfloat16 are rounded in another order: as far from those of XLA as two orders of addition are apart."""
    curves = {}
    devices, batches = jax.devices()[: math.prod(mesh.values())], [small.batch(12, seed=step) for step in range(3)]
    for ahead in (False, True):
        fields = {'collective_dtype': DType.bfloat16, 'gather_ahead': ahead, 'sum_behind': ahead}
        run = small.config(model={'dtype': DType.bfloat16}, mesh=mesh | fields, batch_size=12)
        curves[ahead] = small.train(run, devices=devices, batches=batches).curve
    np.testing.assert_allclose(curves[True], curves[False], rtol=2e-2)


def test_rows_that_a_mesh_does_not_divide_gather_where_weights_are_used():
    """So that a last, smaller batch is judged as any other."""
    run = small.config(mesh={'fsdp': 4, 'gather_ahead': True})
    mesh = partitioning.make_mesh(run, jax.devices()[:4])
    program, rows = make_program(run, mesh), small.batch(6)
    with jax.set_mesh(mesh):
        found = jax.jit(eval_step(program))(program.init().params, rows)
    alone = make_program(small.config(), partitioning.make_mesh(small.config(), small.one_device()))
    with jax.set_mesh(partitioning.make_mesh(small.config(), small.one_device())):
        expected = jax.jit(eval_step(alone))(alone.init().params, rows)
    assert small.largest_difference(found, expected) < 1e-4


def test_what_travels_ahead_is_added_up_in_the_dtype_of_the_model():
    with pytest.raises(UserError, match='gather_ahead=True.*take --config.mesh.collective_dtype=bfloat16'):
        small.config(model={'dtype': DType.bfloat16}, mesh={'fsdp': 2, 'gather_ahead': True})
    with pytest.raises(UserError, match='sum_behind=True without config.mesh.gather_ahead.*add --config.mesh.gather_ahead'):
        small.config(mesh={'fsdp': 2, 'sum_behind': True})
    with pytest.raises(UserError, match='gather_again=True with config.mesh.sum_behind=True and config.model.remat=dots.*take .*remat=full'):
        small.config(model={'remat': Remat.dots}, mesh={'fsdp': 2, 'gather_ahead': True, 'sum_behind': True, 'gather_again': True})
    with pytest.raises(UserError, match='config.mesh.gather_side=1; it is at least 2'):
        small.config(mesh={'fsdp': 2, 'gather_ahead': True, 'gather_side': 1})


@pytest.mark.parametrize('mesh', [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'fsdp': 2, 'tensor': 2, 'sequence': 2}], ids=str)
@pytest.mark.parametrize('optimizer', [Optimizer.lamb, Optimizer.adafactor])
def test_norms_over_layers_do_not_depend_on_the_mesh(optimizer, mesh):
    optim = {'name': optimizer}
    alone = small.train(small.config(optim=optim), devices=small.one_device())
    sharded = small.train(small.config(optim=optim, mesh=mesh))
    assert_equal(alone, sharded, ADAFACTOR_TOLERANCE if optimizer == Optimizer.adafactor else TOLERANCE)


@pytest.mark.parametrize('optimizer', list(Optimizer))
def test_scanned_equals_unrolled(optimizer):
    optim = {'name': optimizer}
    scanned, unrolled = (
        small.train(small.config(optim=optim, model={'scan_layers': scan}), devices=small.one_device()) for scan in (True, False)
    )
    assert_equal(scanned, unrolled, ADAFACTOR_TOLERANCE if optimizer == Optimizer.adafactor else TOLERANCE)


@pytest.mark.parametrize('remat', [Remat.full, Remat.dots])
def test_rematerialised_equals_stored(single, remat):
    assert_equal(single, small.train(small.config(model={'remat': remat}), devices=small.one_device()))


@pytest.mark.parametrize('parts', [2, 8])
def test_microbatches_equal_the_whole_batch_though_their_masks_differ(single, parts):
    assert len({row.sum() for row in small.batch()['masked_weights']}) > 1
    assert_equal(single, small.train(small.config(optim={'microbatches': parts}), devices=small.one_device()))


def test_microbatches_on_a_mesh(single):
    assert_equal(single, small.train(small.config(optim={'microbatches': 2}, mesh={'data': 2, 'fsdp': 2, 'tensor': 2})))


def test_dropout_by_threefry_depends_on_nothing_that_cuts_up_a_step(single):
    model = {'dropout_bits': DropoutBits.threefry}
    alone = small.train(small.config(model=model), devices=small.one_device())
    cut = model | {'scan_layers': False, 'remat': Remat.full}
    assert_equal(alone, small.train(small.config(model=cut, optim={'microbatches': 2}, mesh={'data': 2, 'fsdp': 2, 'tensor': 2})))
    assert np.abs(alone.curve - single.curve).max() > 1e-3  # other elements drop out


def test_projecting_all_positions_gives_the_same_loss_and_gradients(single):
    assert_equal(single, small.train(small.config(model={'project_all_positions': True}), devices=small.one_device()))


@pytest.mark.parametrize('every', [False, True])
def test_logits_in_chunks_on_a_mesh_give_the_same_loss_and_gradients(single, every):
    """Of the masked positions (3, in three chunks), or of all."""
    model = {'project_all_positions': every, 'logits_megabytes': 1e-3}
    sharded = small.train(small.config(model=model, optim={'microbatches': 2}, mesh={'data': 2, 'fsdp': 2, 'tensor': 2}))
    assert_equal(single, sharded)
    assert_equal_gradients(single, sharded)


def test_the_stored_vocabulary_does_not_change_numbers(single):
    exact = small.train(small.config(model={'vocab_multiple': 1}), devices=small.one_device())
    np.testing.assert_allclose(exact.curve, single.curve, atol=TOLERANCE)
    stored = paths.leaves(single.state.params)
    for path, value in paths.leaves(exact.state.params).items():
        np.testing.assert_allclose(stored[path][tuple(slice(size) for size in value.shape)], value, atol=TOLERANCE, err_msg=path)
    assert not stored['encoder/embeddings/word/embedding'][small.VOCAB :].any()


def test_padded_rows_change_nothing():
    """A last evaluation batch is filled up with rows of weight 0."""
    host = small.batch()
    run = small.config(model={'dropout': 0.0, 'attention_dropout': 0.0})
    filled = {name: np.concatenate([value, value]) for name, value in host.items()}
    filled['example_weights'] = np.repeat(np.float32([1, 0]), small.ROWS)
    whole = small.train(run, devices=small.one_device(), batches=[host])
    padded = small.train(run, devices=small.one_device(), batches=[filled])
    np.testing.assert_allclose(whole.curve, padded.curve, atol=TOLERANCE)


@pytest.mark.parametrize('fields', [{'norm_place': NormPlace.pre}, {'activation': Activation.gelu_tanh}, {'dtype': DType.bfloat16}])
def test_variants_train(fields):
    curve = small.train(small.config(model=fields), devices=small.one_device(), batches=[small.batch()] * 4).curve
    assert np.isfinite(curve).all() and curve[-1, 0] < curve[0, 0]


def test_bf16_stays_near_f32(single):
    """8 bits of mantissa: gradients within a few per cent, parameters kept in float32."""
    low = small.train(small.config(model={'dtype': DType.bfloat16}), devices=small.one_device())
    np.testing.assert_allclose(low.curve[0], single.curve[0], rtol=0.03)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(low.state.params))


def test_devices_may_add_up_products_in_bf16(single):
    """Each rounds its part once: no further from the truth than a bf16 step is in any case."""
    mesh = {'data': 2, 'fsdp': 2, 'tensor': 2}
    outcomes, texts = {}, {}
    for sums in (DType.float32, DType.bfloat16):
        run = small.config(model={'dtype': DType.bfloat16}, mesh=mesh | {'collective_dtype': sums})
        outcomes[sums] = small.train(run)
        with jax.set_mesh(partitioning.make_mesh(run)):
            program = make_program(run, partitioning.make_mesh(run))
            texts[sums] = jax.jit(make_train_step(program)).lower(program.abstract, small.batch()).as_text()
    np.testing.assert_allclose(outcomes[DType.bfloat16].curve, outcomes[DType.float32].curve, rtol=0.03)
    np.testing.assert_allclose(outcomes[DType.bfloat16].curve[0], single.curve[0], rtol=0.03)
    made = {sums: re.findall(r'dot_general.*-> tensor<[0-9x]*(f32|bf16)>', text).count('f32') for sums, text in texts.items()}
    # What is left are products of attention, of which no two devices have parts.
    assert made[DType.bfloat16] < made[DType.float32] / 2, made
    assert jax.tree.leaves(outcomes[DType.bfloat16].state.params)[0].dtype == np.float32
    for dtype, sums in ((DType.float32, DType.bfloat16), (DType.float16, DType.float16)):
        with pytest.raises(UserError, match='config.mesh.collective_dtype'):
            small.config(model={'dtype': dtype}, mesh={'collective_dtype': sums})


def test_the_average_of_the_weights_follows_its_formula():
    run = small.config(ema_decay=0.9)
    before = small.train(run, devices=small.one_device(), batches=[small.batch()])
    start = make_program(run, partitioning.make_mesh(run, small.one_device())).init().params
    expected = jax.tree.map(lambda old, new: 0.9 * np.asarray(old) + 0.1 * new, start, before.state.params)
    assert small.largest_difference(before.state.ema, expected) < 1e-7


@pytest.mark.parametrize('moments', [DType.float32, DType.bfloat16])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(moments):
    run = small.config(loss='tests.training.test_step:NotFiniteAtFirst', optim={'moment_dtype': moments})
    clean = small.config(optim={'moment_dtype': moments})
    broken = small.train(run, devices=small.one_device(), batches=[small.batch(seed=0)])
    untouched = make_program(clean, partitioning.make_mesh(clean, small.one_device())).init()
    assert small.largest_difference(broken.state.params, untouched.params) == 0
    assert small.largest_difference(broken.state.opt_state, untouched.opt_state) == 0
    assert int(broken.state.skipped) == 1 and int(broken.state.step) == 1


@pytest.mark.parametrize('average', [0.0, 0.99])
def test_an_update_changes_parameters_and_moments_where_they_lie(average):
    """No copy of either: each would be read and written once more, and stand in memory beside the other."""
    run = small.config(ema_decay=average)
    program = make_program(run, partitioning.make_mesh(run, small.one_device()))
    with jax.set_mesh(program.mesh):
        text = jax.jit(make_train_step(program), donate_argnums=0).lower(program.abstract, small.batch()).compile().as_text()
    step = text[text.index('\nENTRY') :]
    sizes = [math.prod(map(int, size.split(','))) for size in re.findall(r'= f32\[([\d,]+)\]\S* copy\(%state', step)]
    assert max(sizes, default=0) < run.model.d_model**2, 'biases, at most'


class NotFiniteAtFirst:
    def __init__(self, config):
        del config

    def weights(self, batch):
        return {'loss': jnp.float32(1)}

    def __call__(self, outputs, batch):
        return {'loss': jnp.sum(outputs['hidden']) * jnp.float32(np.nan)}, {}


def test_clipping_bounds_the_update_by_the_global_norm():
    """With plain gradients as updates (Adam's b1 = b2 = 0 would rescale them) the clipped norm is seen through Adam's first moment."""
    outcome = small.train(small.config(optim={'clip_norm': 0.01}), devices=small.one_device(), batches=[small.batch()])
    first_moment = outcome.state.opt_state[0].mu
    norm = np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(first_moment)))
    assert outcome.curve[0, 1] > 0.01
    np.testing.assert_allclose(norm, 0.1 * 0.01, rtol=1e-4)


def test_norms_of_each_layer_on_demand():
    run = small.config()
    run.log.layer_norms = True
    program = make_program(run, partitioning.make_mesh(run, small.one_device()))
    state = program.init()
    _, metrics = jax.jit(make_train_step(program))(state, small.batch())
    norms = paths.leaves(metrics['layer_norms']['param'])
    kernel = np.asarray(state.params['encoder']['layers']['mlp']['wi']['kernel'])
    np.testing.assert_allclose(norms['encoder/layers/mlp/wi/kernel'], [np.linalg.norm(layer) for layer in kernel], rtol=1e-5)
    assert norms['encoder/pooler/kernel'].shape == ()


@pytest.mark.parametrize('platform, ahead', [('tpu', True), ('tpu', False), ('cpu', True)])
def test_the_compiler_of_tpus_is_told_of_messages_ahead(platform, ahead):
    run = small.config(mesh={'fsdp': 2, 'gather_ahead': ahead})
    mesh = mock.Mock(devices=np.array([mock.Mock(platform=platform)] * 2))
    told = driving.compiler_options(mock.Mock(config=run, mesh=mesh))
    assert told.get('xla_max_concurrent_async_collective_permutes') == ('32' if ahead and platform == 'tpu' else None)
    assert bool(told) == (ahead and platform == 'tpu') and all(0 < float(told[name]) < 1 for name in told if 'multiplier' in name)


def test_more_stands_beside_messages_of_layers_that_are_looped_over():
    def told(scan):
        run = small.config(model={'scan_layers': scan}, mesh={'fsdp': 2, 'gather_ahead': True})
        return driving.compiler_options(mock.Mock(config=run, mesh=mock.Mock(devices=np.array([mock.Mock(platform='tpu')] * 2))))

    looped, apart = told(True), told(False)
    shares = [name for name in looped if 'multiplier' in name]
    assert shares and all(float(looped[name]) < float(apart[name]) for name in shares) and looped.keys() == apart.keys()
