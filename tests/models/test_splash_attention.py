"""Splash attention, interpreted: values and gradients are those of dense attention. That a TPU's compiler takes it: tests/planning/test_tpus.py."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import MeshConfig, Remat
from t5x_lite.models import splash_attention as implementation
from t5x_lite.models.kernels import dense_attention
from t5x_lite.models.mask import Mask
from t5x_lite.models.splash_attention import lacks, splash_attention
from t5x_lite.models.transformer import REMAT_POLICIES
from t5x_lite.training import partitioning
from tests.models.test_blockwise_attention import compare
from tests.training import small

LENGTH = 256
PACKED = jnp.asarray(np.repeat([[1] * 5 + [2] * 9 + [0] * 2, [0] * 3 + [4] * 6 + [5] * 7], LENGTH // 16, axis=1), jnp.int32)
OTHERS = jnp.asarray(np.repeat([[1] * 4 + [3] * 2 + [0] * 2, [5] * 4 + [4] * 4], LENGTH // 16, axis=1), jnp.int32)
KEYS = jnp.arange(LENGTH)[None] < jnp.array([[200], [31]])

# mask, keys
MASKS = {
    'none': (Mask(), LENGTH),
    'padding': (Mask(keys_BM=KEYS), LENGTH),
    'padding on the left, causal': (Mask(keys_BM=~KEYS, causal=True), LENGTH),
    'packed': (Mask(packed_BL=PACKED), LENGTH),
    'causal': (Mask(causal=True), LENGTH),
    'packed, causal': (Mask(packed_BL=PACKED, causal=True), LENGTH),
    'packed, padding': (Mask(packed_BL=PACKED, keys_BM=KEYS), LENGTH),
    'a band': (Mask(causal=True, window=jnp.int32(70), band=70), LENGTH),
    'a band that is not in force': (Mask(causal=True, packed_BL=PACKED, window=jnp.int32(1 << 30), band=70), LENGTH),
    'a band both ways, packed': (Mask(packed_BL=PACKED, window=jnp.int32(130), band=130), LENGTH),
    'across': (Mask(packed_BL=PACKED, packed_BM=OTHERS), LENGTH // 2),
}


def arrays(keys, heads=2, size=16, rows=2, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    shapes = (rows, LENGTH, heads, size), (rows, keys, heads, size), (rows, keys, heads, size), (rows, LENGTH, heads, size)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def outcome(attention, mask, q, k, v, weights, **given):
    def loss(q, k, v):
        out = attention(q, k, v, mask, scale=0.25, bias=None, dropout_rate=0.0, key=None, site=0, **given)
        return jnp.sum(out * weights), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


@pytest.mark.parametrize('name', MASKS)
def test_values_and_gradients_of_dense_attention(name):
    mask, keys = MASKS[name]
    given = arrays(keys)
    found, expected = outcome(splash_attention, mask, *given, interpret=True), outcome(dense_attention, mask, *given)
    compare(found, expected, 1e-5)


@pytest.mark.parametrize('tile, columns', [(128, 4), (128, 1)], ids=['of two columns of tiles, joined', 'by two kernels'])
def test_gradients_of_queries(tile, columns, monkeypatch):
    monkeypatch.setattr(implementation, 'TILES', (tile,))
    monkeypatch.setattr(implementation, '_MOST_COLUMNS', columns)
    implementation._blocks.cache_clear()
    mask, keys = MASKS['packed, causal']
    given = arrays(keys)
    assert implementation._blocks(LENGTH, keys).use_fused_bwd_kernel == (columns == 4)
    found = outcome(splash_attention, mask, *given, interpret=True)
    implementation._blocks.cache_clear()
    compare(found, outcome(dense_attention, mask, *given), 1e-5)


@pytest.mark.parametrize('remat, kept', [(Remat.dots, 2), (Remat.full, 0)])
def test_recomputation_that_keeps_products_keeps_what_it_gives(remat, kept, capsys):
    """And the sums of each row, so that the kernel is not run again: what is left of it a compiler drops."""
    mask, keys = MASKS['causal']
    q, k, v, _ = arrays(keys)

    def loss(q):
        return jnp.sum(splash_attention(q, k, v, mask, scale=0.25, interpret=True))

    jax.ad_checkpoint.print_saved_residuals(jax.checkpoint(loss, policy=REMAT_POLICIES[remat]), q)
    assert capsys.readouterr().out.count("'_splash_attention'") == kept



@pytest.mark.parametrize('band', [0, 70])
def test_rows_and_heads_on_a_mesh(band):
    config = MeshConfig(data=2, fsdp=2, tensor=2)
    mesh = partitioning.make_mesh(dataclasses.replace(small.config(), mesh=config))
    q, k, v, weights = (jnp.concatenate([x, x * 0.5]) for x in arrays(LENGTH))
    mask = Mask(packed_BL=jnp.concatenate([PACKED, PACKED]), causal=True, window=jnp.int32(band) if band else None, band=band)
    expected = outcome(dense_attention, mask, q, k, v, weights)
    with jax.set_mesh(mesh), nn.logical_axis_rules(config.rules):
        compare(outcome(splash_attention, mask, q, k, v, weights, interpret=True), expected, 1e-5)


def test_what_of_a_mask_it_does_not_know():
    assert not any(lacks(mask) for mask, _ in MASKS.values())
    window, one = jnp.int32(3), jnp.ones((2, LENGTH), bool)
    strange = {'a prefix': Mask(prefix_BM=one), 'a window of any width': Mask(window=window), 'a cache': Mask(first=window), 'keys in front': Mask(before=2)}
    assert all(lacks(mask).startswith(words) for words, mask in strange.items())
