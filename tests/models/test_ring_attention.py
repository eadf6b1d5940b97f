"""Keys and values that go round: a row divided over devices gives the values and gradients of dense attention on one device, and each device holds its part."""

import contextlib
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from t5x_lite.config import MeshConfig
from t5x_lite.models.attention import Mask
from t5x_lite.models.attention_tiles import How
from t5x_lite.models.blockwise_attention import blockwise_attention
from t5x_lite.models.kernels import dense_attention
from t5x_lite.models.positions import DistanceBias
from t5x_lite.models.ring_attention import _Ring, ring_attention
from t5x_lite.training import partitioning
from tests.models.test_blockwise_attention import compare, outcome

LENGTH = 24
IDS = np.array([[1] * 7 + [2] * 9 + [3] * 5 + [0] * 3, [0] * 5 + [4] * 12 + [9] * 7])
OTHERS = np.array([[1] * 4 + [3] * 8 + [2] * 2 + [0] * 2, [9] * 3 + [0] * 1 + [4] * 12])
PREFIX = np.array([[1] * 3 + [0] * 4 + [1] * 5 + [0] * 12, [0] * 5 + [1] * 6 + [0] * 13]) > 0
KEYS = np.arange(LENGTH)[None] < np.array([[17], [24]])

# mask, keys
MASKS = {
    'none': (Mask(), LENGTH),
    'lengths': (Mask(keys_BM=KEYS), LENGTH),
    'packed': (Mask(packed_BL=IDS), LENGTH),
    'across': (Mask(packed_BL=IDS, packed_BM=OTHERS), 16),
    'causal': (Mask(causal=True), LENGTH),
    'packed, causal': (Mask(causal=True, packed_BL=IDS), LENGTH),
    'prefix': (Mask(causal=True, packed_BL=IDS, prefix_BM=PREFIX), LENGTH),
    'window': (Mask(causal=True, window=jnp.int32(5)), LENGTH),
    'lengths, window, both ways': (Mask(keys_BM=KEYS, window=jnp.int32(9)), LENGTH),
}
MESHES = {
    '2': {'sequence': 2},
    '4': {'sequence': 4},
    '8': {'sequence': 8},
    '2, rows and heads too': {'fsdp': 2, 'tensor': 2, 'sequence': 2},
    '4, heads too': {'tensor': 2, 'sequence': 4},
    '4, rows too': {'data': 2, 'sequence': 4},
}
# Of 24 places two and four devices deal a causal row out, eight cannot.
CASES = [*((name, '4, heads too') for name in MASKS), *((name, mesh) for name in ('packed', 'prefix') for mesh in MESHES if mesh != '4, heads too')]


def arrays(keys=LENGTH, heads=2, size=5, dtype=jnp.float32, rows=2, length=LENGTH):
    rng = np.random.default_rng(0)
    shapes = [(rows, length, heads, size), *[(rows, keys, heads, size)] * 2, (rows, length, heads, size), (8, heads)]
    q, k, v, weights, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return q.astype(dtype), k.astype(dtype), v.astype(dtype), weights, DistanceBias(table, max_distance=12)


@contextlib.contextmanager
def on_mesh(**sizes):
    sizes = [({'data': 1, 'fsdp': 1, 'tensor': 1, 'sequence': 1} | sizes)[axis] for axis in partitioning.AXES]
    mesh = jax.make_mesh(tuple(sizes), partitioning.AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes), devices=jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh), nn.logical_axis_rules(MeshConfig().rules):
        yield mesh


@pytest.mark.parametrize(('name', 'mesh'), CASES)
def test_values_and_gradients_under_each_mask(name, mesh):
    """With dropout, a bias of positions, a head size that is no power of two and tiles that do not divide what a device has."""
    mask, keys = MASKS[name]
    given = arrays(keys)
    expected = outcome(dense_attention, mask, *given)
    with on_mesh(**MESHES[mesh]):
        compare(outcome(ring_attention, mask, *given, block=4), expected, 3e-6)


@pytest.mark.parametrize(('whole', 'biased', 'rate'), [(True, True, 0.3), (False, False, 0.0)])
def test_a_part_as_one_tile_and_without_bias_and_dropout(whole, biased, rate):
    mask, given = MASKS['packed, causal'][0], arrays()
    given = given if biased else (*given[:-1], None)
    expected = outcome(dense_attention, mask, *given, rate=rate)
    with on_mesh(sequence=4):
        compare(outcome(ring_attention, mask, *given, rate=rate, whole=whole), expected, 3e-6)


def test_bf16_is_rounded_on_the_way_and_not_more():
    """The gradients of keys and values go round in float32; asked for in bf16, they are rounded at each device."""
    mask, given = MASKS['causal'][0], arrays(dtype=jnp.bfloat16)
    expected = outcome(dense_attention, mask, *(x.astype(jnp.float32) for x in given[:3]), *given[3:])
    with on_mesh(sequence=4):
        found = outcome(ring_attention, mask, *given)
    assert [x.dtype for x in found[:4]] == [jnp.bfloat16] * 4
    compare([x.astype(jnp.float32) for x in found], expected, 0.05)


def test_a_query_that_may_attend_to_nothing_gives_zeros_and_zero_gradients():
    with on_mesh(sequence=4):
        out, dq, dk, dv, _ = outcome(ring_attention, Mask(packed_BL=IDS), *arrays(), block=4)
    for x in map(np.asarray, (out, dq, dk, dv)):
        np.testing.assert_array_equal(x[IDS == 0], 0)
        assert np.isfinite(x).all() and np.abs(x[IDS > 0]).max() > 0.01


def test_what_is_passed_over_is_not_computed():
    """Not a number times zero is not a number: keys that the mask hides go round, and no device reads them."""
    q, k, v, weights, bias = arrays()
    k, v = k.at[:, 12:].set(jnp.nan), v.at[:, 12:].set(jnp.nan)
    with on_mesh(sequence=2):
        out, dq, *_ = map(np.asarray, outcome(ring_attention, Mask(causal=True), q, k, v, weights.at[:, 12:].set(0), bias, block=6))
    assert np.isfinite(out[:, :12]).all() and np.isfinite(dq[:, :12]).all() and np.isnan(out[:, 12:]).any()


def test_side_by_side():
    """vmapped, as runs abreast are."""
    mask, given = MASKS['packed, causal'][0], arrays()
    several = jax.tree.map(lambda x: jnp.stack([x, -x]), given)
    with on_mesh(sequence=2):
        found = jax.vmap(lambda *x: outcome(ring_attention, mask, *x))(*several)
    for number in range(2):
        one = jax.tree.map(operator.itemgetter(number), several)
        compare([x[number] for x in found], outcome(dense_attention, mask, *one), 3e-6)


@pytest.mark.parametrize('count', [2, 4, 8])
def test_all_devices_have_as_much_to_compute_in_a_causal_row(count):
    """By the tiles that are not passed over, in each step of the ring."""
    parts, mask = 2 * count, Mask(causal=True)
    ring = _Ring(How(64, 64, 64 // parts, 64 // parts, 1.0, 0.0, 0, parts=parts), PartitionSpec('data', 'sequence', 'tensor', None), count, jnp.float32)
    numbers = np.stack([ring.numbers(jnp.int32(device), 64, 64 // parts) for device in range(count)])
    assert sorted(numbers.reshape(-1)) == list(range(parts))
    needed = np.asarray(mask.needed(64, 64, 64 // parts, 64 // parts, parts))
    for step in range(count):
        work = [needed[np.ix_(numbers[device], numbers[(device - step) % count])].sum() for device in range(count)]
        assert set(work) == ({3} if step == 0 else {2})


def temporary_bytes(count):
    """A device's, of a gradient, beside what goes in and comes out."""
    length = 4_096
    with on_mesh(sequence=count) as mesh:
        shape = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, 'sequence')))
        attention = ring_attention if count > 1 else blockwise_attention

        def loss(q, k, v):
            return jnp.sum(jnp.square(attention(q, k, v, Mask(causal=True), scale=1.0)))

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_a_device_needs_less_memory_the_more_there_are():
    one, *more = [temporary_bytes(count) for count in (1, 2, 4, 8)]
    print('temporary bytes of a device, 1, 2, 4 and 8 devices:', one, *more)
    tile = 4 * 2 * 128 * 128  # of scores
    for count, found in zip((2, 4, 8), more, strict=True):
        assert found < 2 * one / count + 8 * tile, 'two parts of keys and values, and of their gradients'
