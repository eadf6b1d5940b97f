"""Attention a tile at a time: values and gradients are those of dense attention, what is hidden is not computed, and memory grows with the length alone."""

import dataclasses
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

from t5x_lite.config import AttentionKernel, Positions, Remat
from t5x_lite.models import blockwise_attention as module
from t5x_lite.models.attention import Mask
from t5x_lite.models.blockwise_attention import blockwise_attention
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.kernels import dense_attention
from t5x_lite.models.language_model import Decoder, EncoderDecoder
from t5x_lite.models.mask import Span
from t5x_lite.models.positions import DistanceBias
from t5x_lite.planning import hlo
from t5x_lite.planning.collectives import collectives
from tests.models import test_language_model as language
from tests.models.test_in_front import ADDED, adapted
from tests.training import small

LENGTH, BLOCK = 11, 4  # which does not divide it
IDS = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 3, 0, 0], [0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 9]])
PREFIX = jnp.array([[1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]]) > 0
KEYS = jnp.array([[True] * 7 + [False] * 4, [False] * 5 + [True] * 6])

# mask, queries, keys
MASKS = {
    'none': (Mask(), 11, 11),
    'padding': (Mask(keys_BM=KEYS), 11, 11),
    'packed': (Mask(packed_BL=IDS), 11, 11),
    'across': (Mask(packed_BL=IDS, packed_BM=jnp.flip(IDS, 1)[:, :6]), 11, 6),
    'causal': (Mask(causal=True), 11, 11),
    'packed, causal': (Mask(causal=True, packed_BL=IDS), 11, 11),
    'prefix': (Mask(causal=True, packed_BL=IDS, prefix_BM=PREFIX), 11, 11),
    'window': (Mask(causal=True, window=jnp.int32(3)), 11, 11),
    'cache': (Mask(causal=True, keys_BM=KEYS, first=jnp.int32(5)), 3, 11),
    'one query': (Mask(causal=True, keys_BM=KEYS, prefix_BM=PREFIX, window=jnp.int32(4), first=jnp.int32(9)), 1, 11),
    'in front': (Mask(causal=True, packed_BL=IDS, before=3), 11, 14),
    'asking': (Mask(causal=True, packed_BL=IDS, prefix_BM=PREFIX, before=5, asking=2), 13, 16),
    'asking alone': (Mask(before=2, asking=2), 13, 13),
}


def arrays(queries=LENGTH, keys=LENGTH, heads=2, size=5, dtype=jnp.float32, batch=2):
    rng = np.random.default_rng(0)
    shapes = [(batch, queries, heads, size), *[(batch, keys, heads, size)] * 2, (batch, queries, heads, size), (8, heads)]
    q, k, v, weights, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return q.astype(dtype), k.astype(dtype), v.astype(dtype), weights, DistanceBias(table, max_distance=12)


def outcome(attention, mask, q, k, v, weights, bias, rate=0.3, **given):
    """(output, gradients of q, k, v and the table) with dropout."""
    key = DropoutKey.create(7, jnp.int32(1), jnp.arange(len(q)) + 3) if rate else None

    def loss(q, k, v, bias):
        out = attention(q, k, v, mask, scale=0.4, bias=bias, dropout_rate=rate, key=key, site=2, **given)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(q, k, v, bias)
    return [out, *jax.tree.leaves(gradients)]


def compare(found, expected, atol):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=atol, rtol=0)


@pytest.mark.parametrize('name', MASKS)
def test_values_and_gradients_under_each_mask(name):
    """With dropout, a bias of positions, a head size that is no power of two and lengths that tiles do not divide."""
    mask, queries, keys = MASKS[name]
    given = arrays(queries, keys)
    compare(outcome(blockwise_attention, mask, *given, block=BLOCK), outcome(dense_attention, mask, *given), 3e-6)


@pytest.mark.parametrize(
    ('size', 'block', 'rate', 'biased', 'dtype'),
    [
        (1, 3, 0.0, False, jnp.float32), (5, 11, 0.0, True, jnp.float32), (24, 128, 0.5, False, jnp.float32), (16, 1, 0.1, True, jnp.float32),
        (12, 4, 0.0, True, jnp.bfloat16), (8, 5, 0.2, False, jnp.bfloat16),
    ],
)  # fmt: skip
def test_values_and_gradients_of_each_shape(size, block, rate, biased, dtype):
    """bf16 operands are held against float32 arithmetic on the same numbers: rounded to 8 bits on the way, not more."""
    mask = MASKS['packed, causal'][0]
    q, k, v, weights, bias = arrays(size=size, dtype=dtype)
    bias = bias if biased else None
    found = outcome(blockwise_attention, mask, q, k, v, weights, bias, rate, block=block)
    expected = outcome(dense_attention, mask, *(x.astype(jnp.float32) for x in (q, k, v)), weights, bias, rate)
    assert [x.dtype for x in found[:4]] == [dtype] * 4
    compare([x.astype(jnp.float32) for x in found], expected, 3e-6 if dtype == jnp.float32 else 0.05)


def test_a_query_that_may_attend_to_nothing_gives_zeros_and_zero_gradients():
    mask = Mask(packed_BL=IDS)
    out, dq, dk, dv, _ = outcome(blockwise_attention, mask, *arrays(), block=BLOCK)
    for x in (out, dq, dk, dv):
        np.testing.assert_array_equal(x[IDS == 0], 0)
        assert np.isfinite(x).all() and np.abs(x[IDS > 0]).min() >= 0 and np.abs(x[IDS > 0]).max() > 0.01


@pytest.mark.parametrize('name', MASKS)
def test_tiles_are_parts_of_the_whole(name):
    """Of masks and of biases; and no tile that is said to be hidden shows anything."""
    mask, queries, keys = MASKS[name]
    bias = arrays()[-1]
    whole, biases, needed = mask.dense(queries, keys), bias.dense(mask, 1, queries, keys), mask.needed(queries, keys, BLOCK, 3)
    whole = np.broadcast_to(True if whole is None else whole, (2, 1, queries, keys))

    @jax.jit
    def tiles(row, column):
        spans = Span(row, BLOCK), Span(column, 3)
        return mask.tile(*spans), bias.tile(mask, *spans)

    for i, row in enumerate(range(0, queries, BLOCK)):
        for j, column in enumerate(range(0, keys, 3)):
            part = whole[:, :, row : row + BLOCK, column : column + 3]
            tile, of_bias = tiles(jnp.int32(row), jnp.int32(column))
            tile = np.broadcast_to(True if tile is None else tile, (2, 1, BLOCK, 3))[:, :, : part.shape[2], : part.shape[3]]
            np.testing.assert_array_equal(tile, part)
            np.testing.assert_array_equal(of_bias[:, : part.shape[2], : part.shape[3]], biases[0, :, row : row + BLOCK, column : column + 3])
            assert needed is None or needed[i, j] or not part.any()


def test_which_tiles_are_passed_over():
    np.testing.assert_array_equal(Mask(causal=True).needed(12, 12, 4, 4), np.tril(np.ones((3, 3), bool)))
    banded = Mask(causal=True, window=jnp.int32(3))
    np.testing.assert_array_equal(banded.needed(16, 16, 4, 4), np.tril(np.ones((4, 4), bool)) & ~np.tril(np.ones((4, 4), bool), -2))
    packed = Mask(packed_BL=jnp.array([[1] * 4 + [2] * 8 + [0] * 4]))
    np.testing.assert_array_equal(packed.needed(16, 16, 4, 4), np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]))
    np.testing.assert_array_equal(Mask(causal=True, first=jnp.int32(5)).needed(1, 12, 1, 4), [[True, True, False]])
    np.testing.assert_array_equal(Mask(keys_BM=jnp.arange(12)[None] >= 8, before=4).needed(8, 16, 4, 4), [[True, False, False, True]] * 2)
    assert Mask().needed(8, 8, 4, 4) is None


@pytest.mark.parametrize('mask', [Mask(causal=True), Mask(packed_BL=jnp.array([[1] * 8 + [2] * 4]))], ids=['causal', 'packed'])
def test_what_is_passed_over_is_not_computed(mask):
    """Not a number times zero is not a number: keys and values of hidden tiles are not read, forward or backward."""
    q, k, v, weights, bias = arrays(12, 12, batch=1)
    k, v = k.at[:, 8:].set(jnp.nan), v.at[:, 8:].set(jnp.nan)
    out, dq, *_ = outcome(blockwise_attention, mask, q, k, v, weights.at[:, 8:].set(0), bias, block=4)
    assert np.isfinite(out[:, :8]).all() and np.isfinite(dq[:, :8]).all() and np.isnan(out[:, 8:]).any()


def test_side_by_side():
    """vmapped, as runs abreast are."""
    mask, given = MASKS['packed, causal'][0], arrays()
    several = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, -x]), given)
    found = jax.vmap(lambda *x: outcome(blockwise_attention, mask, *x, block=BLOCK))(*several)
    for number in range(3):
        one = jax.tree.map(operator.itemgetter(number), several)
        expected = outcome(dense_attention, mask, *one)
        compare([x[number] for x in found], expected, 3e-6)


def temporary_bytes(length, layers=0):
    """Of a gradient at 16,384 tokens, beside what goes in and comes out.

    Args:
      layers: in a loop, of which each attends to what the one before has made; 0: one, without a loop.
    """
    shape = jax.ShapeDtypeStruct((16_384 // length, length, 2, 8), jnp.float32)
    bias = DistanceBias(jax.ShapeDtypeStruct((32, 2), jnp.float32))
    ids = jax.ShapeDtypeStruct(shape.shape[:2], jnp.int32)

    def loss(q, k, v, bias, ids):
        key = DropoutKey.create(0, jnp.int32(0), jnp.arange(len(ids)))
        mask = Mask(causal=True, packed_BL=ids)

        def layer(q, k):
            return q + blockwise_attention(q, k, v, mask, scale=1.0, bias=bias, dropout_rate=0.1, key=key), None

        out = layer(q, k)[0] if not layers else jax.lax.scan(layer, q, jnp.stack([k] * layers))[0]
        return jnp.sum(jnp.square(out))

    return jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(shape, shape, shape, bias, ids).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('layers', [0, 2])
def test_memory_at_fixed_tokens_does_not_grow_with_the_length(layers):
    short, long = temporary_bytes(512, layers), temporary_bytes(16_384, layers)
    assert long <= 1.1 * short
    assert long < 16 * max(1, layers) * 4 * 16_384 * 2 * 8, 'some copies of the inputs: a hundredth of the scores'


DROPS = {'dropout': 0.1, 'attention_dropout': 0.2}


def two_rows():
    packed = [language.packed([language.tokens(1, length, length + row)[0] for length in lengths]) for row, lengths in enumerate(((5, 4, 4), (3, 8, 2)))]
    return jax.tree.map(lambda *x: np.concatenate(x), *packed)


def decoder_rows():
    return {f'decoder_{name}': value[::-1] for name, value in two_rows().items()}


MODELS = {
    'gpt': (Decoder, language.GPT3, None, lambda: two_rows() | {'prefix': (np.arange(16)[None] < [[3], [7]]).astype(np.int32)}),
    'relative': (Decoder, language.DECODERS['relative'], 'all', two_rows),
    't5': (EncoderDecoder, language.T5_1_1, 'cross', lambda: two_rows() | decoder_rows()),
}


@pytest.mark.parametrize('name', MODELS)
def test_whole_models(name, monkeypatch):
    """Loss and all gradients, with dropout, packed rows and what tuning puts in front. (BERT: below, in training.)"""
    monkeypatch.setattr(module, 'BLOCK', 5)
    kind, config, added, make = MODELS[name]
    config, batch = dataclasses.replace(config, **DROPS), make()
    params = language.lively(kind(config)) if added is None else adapted(kind(config), ADDED[added])

    def both(attention):
        used = kind(dataclasses.replace(config, attention=attention, remat=Remat.full if name == 'gpt' else Remat.none))
        key = DropoutKey.create(3, jnp.int32(5), jnp.arange(2))
        return jax.jit(jax.value_and_grad(lambda params: jnp.mean(jnp.sin(used.apply({'params': params}, batch, dropout=key)['lm_logits']))))(params)

    (loss, gradients), (expected, expected_gradients) = both(AttentionKernel.blockwise), both(AttentionKernel.dense)
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    assert small.largest_difference(gradients, expected_gradients) < (2e-6 if name == 't5' else 2e-5)  # whose largest gradient is 0.08, not 1


@pytest.mark.parametrize(
    ('test', 'kinds', 'name'),
    [
        (language.test_a_cache_gives_what_the_whole_row_gives, 'DECODERS', 'gpt3'),
        (language.test_a_cache_gives_what_the_whole_row_gives, 'DECODERS', 'relative'),
        (language.test_a_cache_of_an_encoder_decoder_gives_what_the_whole_row_gives, 'ENCODER_DECODERS', 't5'),
    ],
    ids=['gpt', 'relative', 't5'],
)
def test_decoding_with_a_cache(test, kinds, name, monkeypatch):
    monkeypatch.setattr(module, 'BLOCK', 4)
    configs = getattr(language, kinds)
    monkeypatch.setitem(configs, name, dataclasses.replace(configs[name], attention=AttentionKernel.blockwise))
    test(name)


@pytest.mark.parametrize('mesh', [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'fsdp': 2, 'tensor': 2, 'sequence': 2}], ids=['rows and heads', 'places'])
def test_eight_devices_train_as_one_does(mesh, monkeypatch):
    monkeypatch.setattr(module, 'BLOCK', 5)

    def trained(attention, devices=None, **fields):
        return small.train(small.config(model=DROPS | {'positions': Positions.relative, 'attention': attention}, **fields), 2, devices)

    expected = trained(AttentionKernel.dense, small.one_device())
    found = trained(AttentionKernel.blockwise, mesh=mesh)
    np.testing.assert_allclose(found.curve, expected.curve, rtol=2e-5)
    assert small.largest_difference(found.state.params, expected.state.params) < 2e-5


def test_each_device_adds_up_the_gradient_of_relative_positions_over_its_rows_before_its_diagonals():
    """A sum over all rows would be sent between devices for each tile, and one for each row does what is costly as often."""
    mesh = jax.make_mesh((4, 2), ('fsdp', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    q, k, v, weights, bias = arrays(queries=12, keys=12, batch=12)

    def loss(q, k, v, bias):
        return jnp.sum(blockwise_attention(q, k, v, Mask(), scale=0.4, bias=bias, block=4) * weights)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3)))
    expected = gradient(q, k, v, bias)
    *rows, table = (NamedSharding(mesh, P('fsdp', None, 'tensor')),) * 3 + (NamedSharding(mesh, P(None, 'tensor')),)
    placed = *(jax.device_put(x, where) for x, where in zip((q, k, v), rows, strict=True)), jax.device_put(bias, table)
    with jax.set_mesh(mesh), nn.logical_axis_rules((('batch', 'fsdp'), ('heads', 'tensor'))):
        compiled = gradient.lower(*placed).compile()
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=3e-6, rtol=0), compiled(*placed), expected)
    module_of = hlo.parse(compiled.as_text())
    assert not [one for one in collectives(module_of, {'data': 1, 'fsdp': 4, 'tensor': 2}) if one.times > 1]
    # Of a device's rows [3, 1, 4, 4] one tile is laid along its diagonals.
    shapes = {shape.dims for computation in module_of.computations.values() for one in computation.instructions.values() for shape in one.shapes}
    assert (3, 1, 4, 4) in shapes and (1, 1, 4, 8) in shapes and (3, 1, 4, 8) not in shapes
