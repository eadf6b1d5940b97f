"""Keys and values that go round: a row divided over devices gives the values and gradients of dense attention on one device, and each device holds its part."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import MeshConfig
from t5x_lite.models.attention import Mask
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.kernels import dense_attention
from t5x_lite.models.positions import DistanceBias
from t5x_lite.models.ring_attention import ring_attention
from t5x_lite.training import partitioning
from tests.models.test_blockwise_attention import compare, outcome
from tests.training import small

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
# With three places, or six, a device; two of each are dealt out in causal rows where they can be.
MESHES = {
    '2': {'sequence': 2},
    '4': {'sequence': 4},
    '8': {'sequence': 8},
    '2, rows and heads too': {'fsdp': 2, 'tensor': 2, 'sequence': 2},
    '4, heads too': {'tensor': 2, 'sequence': 4},
    '4, rows too': {'data': 2, 'sequence': 4},
}


def arrays(keys=LENGTH, heads=2, size=5, dtype=jnp.float32, rows=2, length=LENGTH):
    rng = np.random.default_rng(0)
    shapes = [(rows, length, heads, size), *[(rows, keys, heads, size)] * 2, (rows, length, heads, size), (8, heads)]
    q, k, v, weights, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return q.astype(dtype), k.astype(dtype), v.astype(dtype), weights, DistanceBias(table, max_distance=12)


@contextlib.contextmanager
def on_mesh(rules=None, **sizes):
    config = MeshConfig(**{'data': 1} | sizes)
    count = int(np.prod([config.data, config.fsdp, config.tensor, config.sequence]))
    mesh = jax.make_mesh(
        (config.data, config.fsdp, config.tensor, config.sequence), partitioning.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4, devices=jax.devices()[:count]
    )
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules or config.rules):
        yield mesh


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('name', MASKS)
def test_values_and_gradients_under_each_mask(name, mesh):
    """With dropout, a bias of positions, a head size that is no power of two and tiles that do not divide what a device has."""
    mask, keys = MASKS[name]
    given = arrays(keys)
    expected = outcome(dense_attention, mask, *given)
    with on_mesh(**MESHES[mesh]):
        compare(outcome(ring_attention, mask, *given, block=4), expected, 3e-6)
