"""Exact attention a tile at a time, in memory that grows with the length and not with its square (attention_tiles.py says how)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.models.attention_tiles import Given, How, bound, delta_of, finished, gradients, nothing_read, read
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.mask import Mask
from t5x_lite.models.placing import parts_of_batch
from t5x_lite.models.positions import DistanceBias

BLOCK = 128  # queries, and keys, of a tile


def blockwise_attention(
    q_BLHK: jax.Array,
    k_BMHK: jax.Array,
    v_BMHK: jax.Array,
    mask: Mask,
    *,
    scale: float,
    bias: DistanceBias | None = None,
    dropout_rate: float = 0.0,
    key: DropoutKey | None = None,
    site: int = 0,
    block: int | None = None,
) -> jax.Array:
    """softmax(scale * q k^T + bias) v as `dense_attention` gives it, to rounding. A query that may attend to nothing gives zeros. Returns [B, L, H, K].

    On a mesh, rows and heads are divided; the queries of a row are not, and devices along a sequence axis do the same work.

    Args:
      bias: with its table; a bias that is given whole is dense attention's.
      block: queries, and keys, of a tile; None: BLOCK.
    """
    if bias is not None:
        bias = bias.replace(whole_PHLM=None)
    rate = 0.0 if key is None else dropout_rate
    queries, keys, block = q_BLHK.shape[1], k_BMHK.shape[1], block or BLOCK
    rules = tuple(map(tuple, nn.get_logical_axis_rules()))
    how = How(queries, keys, min(block, queries), min(block, keys), scale, rate, site, rules)
    return _attention(how, q_BLHK, k_BMHK, v_BMHK, bias, mask, key if rate else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how: How, q: jax.Array, k: jax.Array, v: jax.Array, bias: DistanceBias | None, mask: Mask, key: DropoutKey | None) -> jax.Array:
    return _forward(how, q, k, v, bias, mask, key)[0]


def _given(how: How, bias: DistanceBias | None, mask: Mask, key: DropoutKey | None) -> Given:
    return Given(mask, mask.needed(how.queries, how.keys, how.rows, how.columns), bias, key)


def _tiles(how: How, size: int, *several: jax.Array) -> tuple[jax.Array, ...]:
    """The numbers of the tiles of arrays [B, L, H, K], and those tiles."""
    blocks = [how.blocks(x, size) for x in several]
    return jnp.arange(len(blocks[0])), *blocks


def _forward(how, q, k, v, bias, mask, key):
    """(out [B, L, H, K], what the gradient needs)."""
    bound_q, *rest = bound(q, bias, mask, key)
    given, keys = _given(how, *rest), _tiles(how, how.columns, k, v)

    def of_queries(_, of_tile):
        i, q_BHLK = of_tile
        return None, finished(read(how, given, nothing_read(how, q_BHLK.shape, v.shape[3]), (i, i, q_BHLK), keys), v.dtype)

    _, (out, lse) = jax.lax.scan(of_queries, None, _tiles(how, how.rows, bound_q))
    out = how.joined(how.placed(out), how.queries)
    return out, (q, k, v, bias, mask, key, out, lse)


def _backward(how, residuals, gradient):
    q, k, v, *given, out, lse = residuals
    gradient, bias, mask, key = bound(gradient, *given)
    numbers, blocks_q, blocks_g, blocks_delta = _tiles(how, how.rows, q, gradient, delta_of(gradient, out))
    # A sum over all rows of a batch would be an exchange between devices for every tile.
    parts = parts_of_batch(len(q), dict(how.rules))
    begin = how.placed(jnp.zeros(blocks_q.shape, jnp.float32)), None if bias is None else jnp.zeros((parts, *bias.table.shape), jnp.float32)
    queries, keys = (numbers, blocks_q, blocks_g, lse, blocks_delta), _tiles(how, how.columns, k, v)
    (dq, table), (dk, dv) = gradients(how, _given(how, bias, mask, key), begin, queries, keys)
    dq, dk, dv = how.joined(dq, how.queries), how.joined(dk, how.keys), how.joined(dv, how.keys)
    of_bias = None if bias is None else bias.replace(table=jnp.sum(table, axis=0).astype(bias.table.dtype))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), of_bias, None, None


_attention.defvjp(_forward, _backward)
