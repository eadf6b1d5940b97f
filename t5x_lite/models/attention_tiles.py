"""What tiles of the scores of attention give, forward and backward, and how that is put together, whichever tiles a device has.

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
from typing import Any

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.models.dropout import DropoutKey, kept
from t5x_lite.models.mask import Mask, Span
from t5x_lite.models.placing import constrain
from t5x_lite.models.positions import DistanceBias

_HIDDEN = -1e30


@dataclasses.dataclass(frozen=True)
class How:
    """All of a call that is no array: lengths, tiles of rows x columns, and the sharding rules, which must be the same when gradients are taken.

    Attributes:
      parts: that queries and keys are divided into, equally; no tile reaches from one into another. Tiles are numbered through all of them.
    """

    queries: int
    keys: int
    rows: int
    columns: int
    scale: float
    rate: float
    site: int
    rules: tuple[tuple[str, Any], ...] = ()
    parts: int = 1

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


@struct.dataclass
class Given:
    """What all tiles of a device see, beside queries, keys and values.

    needed:      bool [tiles of the device's queries, tiles of all keys], as Mask.needed; None: all are.
    first_head:  int32 [], of the device's heads; None: 0.
    """

    mask: Mask
    needed: jax.Array | None
    bias: DistanceBias | None
    key: DropoutKey | None
    first_head: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class _Tile:
    """The part of the scores where tile i of the queries meets tile j of the keys."""

    how: How
    given: Given
    i: jax.Array
    j: jax.Array

    @property
    def queries(self) -> Span:
        return Span(_start(self.i, self.how.queries // self.how.parts, self.how.rows), self.how.rows)

    @property
    def keys(self) -> Span:
        return Span(_start(self.j, self.how.keys // self.how.parts, self.how.columns), self.how.columns)

    def bias(self, table: jax.Array | None = None) -> jax.Array | None:
        """[H, l, m], from the table or another."""
        bias = self.given.bias
        if bias is None:
            return None
        return (bias if table is None else bias.replace(table=table)).tile(self.given.mask, self.queries, self.keys)

    def scores(self, q_BHLK: jax.Array, k_BHMK: jax.Array, bias_HLM: jax.Array | None) -> jax.Array:
        scores = jnp.einsum('BHLK,BHMK->BHLM', q_BHLK, k_BHMK, preferred_element_type=jnp.float32) * jnp.float32(self.how.scale)
        return scores if bias_HLM is None else scores + bias_HLM[None].astype(jnp.float32)

    def allowed(self) -> jax.Array | None:
        """As Mask.tile, and nothing after the last key of a part."""
        allowed, part = self.given.mask.tile(self.queries, self.keys), self.how.keys // self.how.parts
        if part % self.how.columns == 0:
            return allowed
        end = (self.j // -(-part // self.how.columns) + 1) * part
        real = (self.keys.numbers() < end)[None, None, None, :]
        return real if allowed is None else allowed & real

    def dropped(self, x_BHLM: jax.Array) -> jax.Array:
        """As dropout of all weights [B, H, L, M] drops these."""
        how, given, heads = self.how, self.given, x_BHLM.shape[1]
        if given.key is None:
            return x_BHLM
        of_heads = jnp.arange(heads, dtype=jnp.uint32)
        if given.first_head is not None:
            of_heads = of_heads + given.first_head.astype(jnp.uint32)
        places = [of_heads, *(span.numbers().astype(jnp.uint32) for span in (self.queries, self.keys))]
        along = [place.reshape((1,) * axis + (-1,) + (1,) * (3 - axis)) for axis, place in enumerate(places, 1)]
        keep = kept(how.rate, given.key, how.site, (heads, how.queries, how.keys), along)
        return jnp.where(keep, x_BHLM * jnp.float32(1.0 / (1.0 - how.rate)), jnp.float32(0))


def _start(number: jax.Array, part: int, size: int) -> jax.Array:
    """The place of the first of a tile of `size`."""
    if part % size == 0:
        return number * size
    tiles = -(-part // size)
    return number // tiles * part + number % tiles * size


def _hide(x: jax.Array, allowed: jax.Array | None, instead: float) -> jax.Array:
    return x if allowed is None else jnp.where(allowed, x, jnp.float32(instead))


def _added(x_BHLM: jax.Array, parts: int) -> jax.Array:
    """[parts, H, L, M]: the sums of each part's rows."""
    return jnp.sum(x_BHLM.reshape(parts, len(x_BHLM) // parts, *x_BHLM.shape[1:]), axis=1)


def _unless_hidden(needed: jax.Array | None, compute: Callable[[], Any], otherwise: Any) -> Any:
    """What a tile gives, or `otherwise` where the mask hides all of it."""
    return compute() if needed is None else jax.lax.cond(needed, compute, lambda: otherwise)


def bound(x: jax.Array, *given: Any) -> tuple[Any, ...]:
    """The same (x, *given), of which nothing can be computed before x is there.

    Where a loop over layers is differentiated, jax computes before it what is the same for all layers: of masks, biases and bits of dropout that would be all
    tiles at once, which is what tiles are there to avoid.
    """
    return jax.lax.optimization_barrier((x, *given))


Sums = tuple[jax.Array, jax.Array, jax.Array]  # m, l [..., B, H, S, 1] and a [..., B, H, S, K] of tiles of queries, float32


def nothing_read(how: How, shape: tuple[int, ...], width: int) -> Sums:
    """Of queries [..., B, H, S, K] before the first tile of keys, whose values have `width`."""
    column = shape[:-1] + (1,)
    begin = jnp.full(column, _HIDDEN, jnp.float32), jnp.zeros(column, jnp.float32), jnp.zeros(shape[:-1] + (width,), jnp.float32)
    return tuple(map(how.placed, begin))


def read(how: How, given: Given, sums: Sums, query: tuple[jax.Array, ...], keys: tuple[jax.Array, ...]) -> Sums:
    """`sums` of a tile of queries, after it has read some tiles of keys.

    Args:
      query: its number, its place among the device's, and itself [B, H, S, K].
      keys: their numbers [tiles], themselves [tiles, B, H, S, K], and their values.
    """
    i, own, q_BHLK = query

    def of_keys(sums, of_tile):
        j, k_BHMK, v_BHMK = of_tile
        tile = _Tile(how, given, i, j)

        def compute():
            most, total, sum_BHLK = sums
            allowed = tile.allowed()
            scores = tile.scores(q_BHLK, k_BHMK, tile.bias())
            new = jnp.maximum(most, jnp.max(_hide(scores, allowed, _HIDDEN), axis=-1, keepdims=True))
            weights, shrink = _hide(jnp.exp(scores - new), allowed, 0.0), jnp.exp(most - new)
            attended = tile.dropped(weights).astype(v_BHMK.dtype)
            added = jnp.einsum('BHLM,BHMK->BHLK', attended, v_BHMK, preferred_element_type=jnp.float32)
            return new, total * shrink + jnp.sum(weights, axis=-1, keepdims=True), sum_BHLK * shrink + added

        return _unless_hidden(None if given.needed is None else given.needed[own, j], compute, sums), None

    return jax.lax.scan(of_keys, sums, keys)[0]


def finished(sums: Sums, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """(out [..., B, H, S, K], lse [..., B, H, S, 1]) of tiles of queries that have read all keys."""
    most, total, sum_BHLK = sums
    total = jnp.where(total == 0, 1.0, total)  # nothing to attend to: the sum is 0 too
    return (sum_BHLK / total).astype(dtype), most + jnp.log(total)


def delta_of(gradient: jax.Array, out: jax.Array) -> jax.Array:
    """float32 [B, L, H, 1]."""
    return jnp.sum(gradient.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)


def gradients(how: How, given: Given, carry: Any, queries: tuple[jax.Array, ...], keys: tuple[jax.Array, ...]) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """((dq, of the bias's table), (dk, dv)): what some tiles of keys add to the gradients of the device's queries and of the table, and their own.

    Args:
      carry: (dq, of the table) until here, float32 [tiles, B, H, S, K] and [parts of the batch, buckets, H]; the table's is None without a bias.
      queries: numbers [tiles], themselves [tiles, B, H, S, K], the gradients of what they gave, lse and delta [tiles, B, H, S, 1].
      keys: as `read` has them.
    """
    tiles = queries[0].shape[0]
    table = carry[1]

    def of_keys(carry, of_tile):
        j, k_BHMK, v_BHMK = of_tile

        def of_queries(carry, of_tile):
            dk, dv, dq, table = carry
            own, i, q_BHLK, g_BHLK, lse_BHL, delta_BHL = of_tile
            tile = _Tile(how, given, i, j)

            def compute():
                bias_HLM, of_table = (None, None) if given.bias is None else jax.vjp(tile.bias, given.bias.table)
                weights = _hide(jnp.exp(tile.scores(q_BHLK, k_BHMK, bias_HLM) - lse_BHL), tile.allowed(), 0.0)
                attended = tile.dropped(weights).astype(g_BHLK.dtype)
                of_weights = tile.dropped(jnp.einsum('BHLK,BHMK->BHLM', g_BHLK, v_BHMK, preferred_element_type=jnp.float32))
                of_scores = weights * (of_weights - delta_BHL)
                scaled = (of_scores * jnp.float32(how.scale)).astype(q_BHLK.dtype)
                return (
                    jnp.einsum('BHLM,BHLK->BHMK', scaled, q_BHLK, preferred_element_type=jnp.float32),
                    jnp.einsum('BHLM,BHLK->BHMK', attended, g_BHLK, preferred_element_type=jnp.float32),
                    jnp.einsum('BHLM,BHMK->BHLK', scaled, k_BHMK, preferred_element_type=jnp.float32),
                    None if table is None else jax.vmap(of_table)(_added(of_scores, len(table)))[0],
                )

            nothing = jnp.zeros(k_BHMK.shape, jnp.float32), jnp.zeros(v_BHMK.shape, jnp.float32), jnp.zeros(q_BHLK.shape, jnp.float32), no_table
            found = _unless_hidden(None if given.needed is None else given.needed[own, j], compute, nothing)
            k_part, v_part, q_part, table_part = found
            return (dk + k_part, dv + v_part, dq.at[own].add(q_part), None if table is None else table + table_part), None

        begin = (how.placed(jnp.zeros(k_BHMK.shape, jnp.float32)), how.placed(jnp.zeros(v_BHMK.shape, jnp.float32)), *carry)
        (dk, dv, *carry), _ = jax.lax.scan(of_queries, begin, (jnp.arange(tiles), *queries))
        return tuple(carry), (dk, dv)

    no_table = None if table is None else jnp.zeros_like(table)
    return jax.lax.scan(of_keys, carry, keys)
