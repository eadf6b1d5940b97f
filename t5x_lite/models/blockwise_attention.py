"""Exact attention a tile at a time, in memory that grows with the length and not with its square.

For a tile of queries, over the tiles of keys j, with s the tile's scores (scale * q k^T + bias, hidden ones left out) and D what dropout multiplies weights by:

    m' = max(m, max s);  p = exp(s - m');  l' = exp(m - m') l + sum p;  a' = exp(m - m') a + (D p) v;      at the end: out = a / l,  lse = m + log l

(online softmax: Milakov & Gimelshein, 2018; Rabe & Staats, 2021; Dao et al., 2022). Of the weights only lse [B, H, L] is kept. The gradient computes each tile
once more, P = exp(s - lse), with g the gradient of out (Dao et al., 2022, appendix B.2; the loops as in FlashAttention-2, Dao, 2023):

    delta = sum g out;  dv += (D P)^T g;  ds = P (D (g v^T) - delta);  dq += scale * ds k;  dk += scale * ds^T q;  d bias += ds

The bias of relative positions is made in the tile from its table, and the table's gradient is added up there; dropout asks for the bits of the tile, which
are those that a whole array of weights would have. Tiles that a mask hides entirely are passed over.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.models.dropout import DropoutKey, kept
from t5x_lite.models.mask import Mask, Span
from t5x_lite.models.placing import constrain
from t5x_lite.models.positions import DistanceBias

BLOCK = 128  # queries, and keys, of a tile
_HIDDEN = -1e30


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
        bias = bias.replace(whole_HLM=None)
    rate = 0.0 if key is None else dropout_rate
    queries, keys, block = q_BLHK.shape[1], k_BMHK.shape[1], block or BLOCK
    rules = tuple(map(tuple, nn.get_logical_axis_rules()))
    how = _How(queries, keys, min(block, queries), min(block, keys), scale, rate, site, rules)
    return _attention(how, q_BLHK, k_BMHK, v_BMHK, bias, mask, key if rate else None)


@dataclasses.dataclass(frozen=True)
class _How:
    """All of a call that is no array: lengths, tiles of rows x columns, and the sharding rules, which must be the same when gradients are taken."""

    queries: int
    keys: int
    rows: int
    columns: int
    scale: float
    rate: float
    site: int
    rules: tuple[tuple[str, Any], ...]

    def blocks(self, x_BNHK: jax.Array, size: int) -> jax.Array:
        """[tiles, B, H, size, K], zeros after the end."""
        batch, length, heads, width = x_BNHK.shape
        count = -(-length // size)
        x = jnp.pad(x_BNHK, ((0, 0), (0, count * size - length), (0, 0), (0, 0))).reshape(batch, count, size, heads, width)
        return self.placed(jnp.transpose(x, (1, 0, 3, 2, 4)))

    def joined(self, x_NBHSK: jax.Array, length: int) -> jax.Array:
        """The inverse of `blocks`: [B, length, H, K]."""
        count, batch, heads, size, width = x_NBHSK.shape
        return jnp.transpose(x_NBHSK, (1, 0, 3, 2, 4)).reshape(batch, count * size, heads, width)[:, :length]

    def placed(self, x: jax.Array) -> jax.Array:
        """[..., B, H, S, K] with rows and heads where the mesh has them."""
        with nn.logical_axis_rules(self.rules):
            return constrain(x, (None,) * (x.ndim - 4) + ('batch', 'heads', None, None))


@dataclasses.dataclass(frozen=True)
class _Tile:
    """The part of the scores where tile i of the queries meets tile j of the keys."""

    how: _How
    mask: Mask
    i: jax.Array
    j: jax.Array

    @property
    def queries(self) -> Span:
        return Span(self.i * self.how.rows, self.how.rows)

    @property
    def keys(self) -> Span:
        return Span(self.j * self.how.columns, self.how.columns)

    def scores(self, q_BHLK: jax.Array, k_BHMK: jax.Array, bias_HLM: jax.Array | None) -> jax.Array:
        scores = jnp.einsum('BHLK,BHMK->BHLM', q_BHLK, k_BHMK, preferred_element_type=jnp.float32) * jnp.float32(self.how.scale)
        return scores if bias_HLM is None else scores + bias_HLM[None].astype(jnp.float32)

    def allowed(self) -> jax.Array | None:
        """As Mask.tile, and nothing after the last key."""
        allowed = self.mask.tile(self.queries, self.keys)
        if self.how.keys % self.how.columns == 0:
            return allowed
        real = (self.keys.numbers() < self.how.keys)[None, None, None, :]
        return real if allowed is None else allowed & real

    def dropped(self, x_BHLM: jax.Array, key: DropoutKey | None) -> jax.Array:
        """As dropout of all weights [B, H, L, M] drops these."""
        if key is None:
            return x_BHLM
        how, heads = self.how, x_BHLM.shape[1]
        places = [jnp.arange(heads, dtype=jnp.uint32), *(span.numbers().astype(jnp.uint32) for span in (self.queries, self.keys))]
        along = [place.reshape((1,) * axis + (-1,) + (1,) * (3 - axis)) for axis, place in enumerate(places, 1)]
        keep = kept(how.rate, key, how.site, (heads, how.queries, how.keys), along)
        return jnp.where(keep, x_BHLM * jnp.float32(1.0 / (1.0 - how.rate)), jnp.float32(0))


def _hide(x: jax.Array, allowed: jax.Array | None, instead: float) -> jax.Array:
    return x if allowed is None else jnp.where(allowed, x, jnp.float32(instead))


def _unless_hidden(needed: jax.Array | None, tile: _Tile, compute: Callable[[], Any], otherwise: Any) -> Any:
    """What a tile gives, or `otherwise` where the mask hides all of it."""
    return compute() if needed is None else jax.lax.cond(needed[tile.i, tile.j], compute, lambda: otherwise)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how: _How, q: jax.Array, k: jax.Array, v: jax.Array, bias: DistanceBias | None, mask: Mask, key: DropoutKey | None) -> jax.Array:
    return _forward(how, q, k, v, bias, mask, key)[0]


def _forward(how, q, k, v, bias, mask, key):
    """(out [B, L, H, K], what the gradient needs)."""
    blocks_k, blocks_v = how.blocks(k, how.columns), how.blocks(v, how.columns)
    needed = mask.needed(how.queries, how.keys, how.rows, how.columns)

    def of_queries(_, given):
        i, q_BHLK = given

        def of_keys(carry, given):
            j, k_BHMK, v_BHMK = given
            tile = _Tile(how, mask, i, j)

            def compute():
                most, total, sum_BHLK = carry
                allowed = tile.allowed()
                scores = tile.scores(q_BHLK, k_BHMK, None if bias is None else bias.tile(mask, tile.queries, tile.keys))
                new = jnp.maximum(most, jnp.max(_hide(scores, allowed, _HIDDEN), axis=-1, keepdims=True))
                weights, shrink = _hide(jnp.exp(scores - new), allowed, 0.0), jnp.exp(most - new)
                attended = tile.dropped(weights, key).astype(v_BHMK.dtype)
                added = jnp.einsum('BHLM,BHMK->BHLK', attended, v_BHMK, preferred_element_type=jnp.float32)
                return new, total * shrink + jnp.sum(weights, axis=-1, keepdims=True), sum_BHLK * shrink + added

            return _unless_hidden(needed, tile, compute, carry), None

        column = q_BHLK.shape[:3] + (1,)
        begin = [jnp.full(column, _HIDDEN, jnp.float32), jnp.zeros(column, jnp.float32), jnp.zeros(q_BHLK.shape[:3] + v.shape[3:], jnp.float32)]
        (most, total, sum_BHLK), _ = jax.lax.scan(of_keys, tuple(map(how.placed, begin)), (jnp.arange(len(blocks_k)), blocks_k, blocks_v))
        total = jnp.where(total == 0, 1.0, total)  # nothing to attend to: the sum is 0 too
        return None, ((sum_BHLK / total).astype(v.dtype), most + jnp.log(total))

    blocks_q = how.blocks(q, how.rows)
    _, (out, lse) = jax.lax.scan(of_queries, None, (jnp.arange(len(blocks_q)), blocks_q))
    out = how.joined(how.placed(out), how.queries)
    return out, (q, k, v, bias, mask, key, out, lse)


def _backward(how, residuals, gradient):
    q, k, v, bias, mask, key, out, lse = residuals
    delta = jnp.sum(gradient.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    blocks_q, blocks_g, blocks_delta = (how.blocks(x, how.rows) for x in (q, gradient, delta))
    needed = mask.needed(how.queries, how.keys, how.rows, how.columns)
    # A sum over the rows of a batch would be, on a mesh, an exchange between devices for every tile.
    apart = q.shape[0] if jax.sharding.get_abstract_mesh().size > 1 else 1
    no_table = None if bias is None else jnp.zeros((apart, *bias.table.shape), jnp.float32)

    def of_keys(carry, given):
        j, k_BHMK, v_BHMK = given

        def of_queries(carry, given):
            dk, dv, dq, table = carry
            i, q_BHLK, g_BHLK, lse_BHL, delta_BHL = given
            tile = _Tile(how, mask, i, j)

            def compute():
                bias_HLM, of_table = (None, None) if bias is None else jax.vjp(
                    lambda table: bias.replace(table=table).tile(mask, tile.queries, tile.keys), bias.table
                )
                weights = _hide(jnp.exp(tile.scores(q_BHLK, k_BHMK, bias_HLM) - lse_BHL), tile.allowed(), 0.0)
                attended = tile.dropped(weights, key).astype(g_BHLK.dtype)
                of_weights = tile.dropped(jnp.einsum('BHLK,BHMK->BHLM', g_BHLK, v_BHMK, preferred_element_type=jnp.float32), key)
                of_scores = weights * (of_weights - delta_BHL)
                scaled = (of_scores * jnp.float32(how.scale)).astype(q_BHLK.dtype)
                return (
                    jnp.einsum('BHLM,BHLK->BHMK', scaled, q_BHLK, preferred_element_type=jnp.float32),
                    jnp.einsum('BHLM,BHLK->BHMK', attended, g_BHLK, preferred_element_type=jnp.float32),
                    jnp.einsum('BHLM,BHMK->BHLK', scaled, k_BHMK, preferred_element_type=jnp.float32),
                    None if bias is None else jax.vmap(of_table)(of_scores if apart > 1 else jnp.sum(of_scores, axis=0, keepdims=True))[0],
                )

            nothing = jnp.zeros(k_BHMK.shape, jnp.float32), jnp.zeros(v_BHMK.shape, jnp.float32), jnp.zeros(q_BHLK.shape, jnp.float32), no_table
            k_part, v_part, q_part, table_part = _unless_hidden(needed, tile, compute, nothing)
            return (dk + k_part, dv + v_part, dq.at[i].add(q_part), None if bias is None else table + table_part), None

        begin = (how.placed(jnp.zeros(k_BHMK.shape, jnp.float32)), how.placed(jnp.zeros(v_BHMK.shape, jnp.float32)), *carry)
        tiles = (jnp.arange(len(blocks_q)), blocks_q, blocks_g, lse, blocks_delta)
        (dk, dv, *carry), _ = jax.lax.scan(of_queries, begin, tiles)
        return tuple(carry), (dk, dv)

    blocks_k, blocks_v = how.blocks(k, how.columns), how.blocks(v, how.columns)
    begin = (how.placed(jnp.zeros(blocks_q.shape, jnp.float32)), no_table)
    (dq, table), (dk, dv) = jax.lax.scan(of_keys, begin, (jnp.arange(len(blocks_k)), blocks_k, blocks_v))
    dq, dk, dv = how.joined(dq, how.queries), how.joined(dk, how.keys), how.joined(dv, how.keys)
    of_bias = None if bias is None else bias.replace(table=jnp.sum(table, axis=0).astype(bias.table.dtype))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), of_bias, None, None


_attention.defvjp(_forward, _backward)
