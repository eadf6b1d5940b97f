"""Exact attention of a row that is divided over devices: keys and values go round (ring attention: Liu et al., 2023).

Each of n devices has a part of the queries, keys and values. It reads its own keys first, then, a step after the other, those that its neighbour has read:
after n steps its queries have seen the whole row. Tiles, and how what they give is put together, are those of attention_tiles.py. In the backward pass the
gradients of keys and values go round too, a step behind them, and end where they belong. Nothing that a step sends waits for what it computes, so that a
compiler can do both at once. A device holds two parts of keys and values, and of the whole row the fields of the mask alone: [B, L] integers.

A mask hides tiles, which are not computed. In a causal row the first part of the queries sees one part of the keys and the last sees all: with parts in
order, all devices would wait in each step for the one that has most to do, and hidden tiles would save nothing. So a device takes two smaller parts there,
one as far from the row's beginning as the other from its end (zigzag: Dubey et al., 2024, section 3.3.2), and all have as much to do in each step: queries,
keys and values are dealt out before, and what comes of them is dealt back. A causal row that 2 n does not divide keeps its order; and what packed sequences
hide is not balanced.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite.models import blockwise_attention
from t5x_lite.models.attention_tiles import Given, How, bound, delta_of, finished, gradients, nothing_read, read
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.mask import Mask
from t5x_lite.models.placing import Placing, as_tuple
from t5x_lite.models.positions import DistanceBias


def devices() -> int:
    """Over how many a row is divided, by the mesh and the rules that are set."""
    rules = dict(nn.get_logical_axis_rules())
    mesh = jax.sharding.get_abstract_mesh().shape
    return math.prod(mesh[axis] for axis in as_tuple(rules['length'])) if rules and mesh else 1


def ring_attention(
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
    whole: bool = False,
) -> jax.Array:
    """softmax(scale * q k^T + bias) v as `dense_attention` gives it, to rounding. A query that may attend to nothing gives zeros. Returns [B, L, H, K].

    On a mesh alone, whose axes divide rows, lengths and heads; nothing stands in front of the row.

    Args:
      block: at most so many queries, and keys, of a tile; None: blockwise_attention.BLOCK.
      whole: a part of the queries and a part of the keys are one tile.
    """
    if bias is not None:
        bias = bias.replace(whole_PHLM=None)
    rate, queries, keys = 0.0 if key is None else dropout_rate, q_BLHK.shape[1], k_BMHK.shape[1]
    spec = nn.logical_to_mesh_axes(('batch', 'length', 'heads', None))
    count = devices()
    zigzag = mask.causal and queries % (2 * count) == 0 and keys % (2 * count) == 0
    parts = 2 * count if zigzag else count
    most = max(queries, keys) if whole else block or blockwise_attention.BLOCK
    how = How(queries, keys, _size(queries // parts, most), _size(keys // parts, most), scale, rate, site, parts=parts)
    return _attention(_Ring(how, spec, count, Placing.of(None, ()).sums), q_BLHK, k_BMHK, v_BMHK, bias, mask, key if rate else None)


def _size(part: int, most: int) -> int:
    """Of tiles of a part, none larger than `most` and all but the last of one size."""
    return -(-part // -(-part // most))


@dataclasses.dataclass(frozen=True)
class _Ring:
    """
    Attributes:
      spec: of [B, L, H, K].
      count: of devices.
      sums: in which the gradients of keys and values go round.
    """

    how: How
    spec: PartitionSpec
    count: int
    sums: Any

    @property
    def row(self) -> tuple[str, ...]:
        """Mesh axes that divide it."""
        return as_tuple(self.spec[1])

    @property
    def zigzag(self) -> bool:
        return self.how.parts > self.count

    @property
    def of_tiles(self) -> PartitionSpec:
        """Of [tiles, B, H, S, K]."""
        return PartitionSpec(self.spec[1], self.spec[0], self.spec[2])

    def specs(self, given: Any, rows: int) -> Any:
        """Of a bias, a mask or a key: whole but for the batch, and a table's heads."""
        if isinstance(given, DistanceBias):
            return given.replace(table=PartitionSpec(None, self.spec[2]))
        return jax.tree.map(lambda x: PartitionSpec(self.spec[0]) if x.ndim and x.shape[0] == rows else PartitionSpec(), given)

    def given(self, bias: DistanceBias | None, mask: Mask, key: DropoutKey | None, heads: int) -> Given:
        """On this device."""
        how = self.how
        needed = mask.needed(how.queries, how.keys, how.rows, how.columns, how.parts, self.numbers(self.here, how.queries, how.rows))
        first = jax.lax.axis_index(as_tuple(self.spec[2])) * heads if self.spec[2] else None
        return Given(mask, needed, bias, key, first)

    @property
    def here(self) -> jax.Array:
        """int32 [], this device's place in the ring."""
        return jax.lax.axis_index(self.row)

    def numbers(self, device: jax.Array, length: int, size: int) -> jax.Array:
        """int32 [tiles]: those of a device, of a row of `length` in tiles of `size`."""
        each = jnp.arange(-(-(length // self.how.parts) // size))
        if not self.zigzag:
            return device * len(each) + each
        return jnp.concatenate([device * len(each) + each, (2 * self.count - 1 - device) * len(each) + each])

    def blocks(self, x_BLHK: jax.Array, size: int) -> jax.Array:
        """[tiles, B, H, size, K] of a device's [B, L / n, H, K]."""
        return jnp.concatenate([self.how.blocks(part, size) for part in jnp.split(x_BLHK, self.how.parts // self.count, axis=1)])

    def joined(self, x_NBHSK: jax.Array, length: int) -> jax.Array:
        """The inverse of `blocks`, of a row of `length`."""
        parts = jnp.split(x_NBHSK, self.how.parts // self.count)
        return jnp.concatenate([self.how.joined(part, length // self.how.parts) for part in parts], axis=1)

    def passed_on(self, given: Any) -> Any:
        """What the device before this one has."""
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.row, [(i, (i + 1) % self.count) for i in range(self.count)]), given)

    def dealt(self, x_BLHK: jax.Array) -> jax.Array:
        """A device's parts [B, L / n, H, K] of an array that is divided in order."""
        if not self.zigzag:
            return x_BLHK
        return self._ordered([self._moved(half, pairs) for half, pairs in zip(jnp.split(x_BLHK, 2, axis=1), self._moves(), strict=True)])

    def dealt_back(self, x_BLHK: jax.Array) -> jax.Array:
        """The inverse of `dealt`."""
        if not self.zigzag:
            return x_BLHK
        halves = jnp.split(self._ordered(jnp.split(x_BLHK, 2, axis=1)), 2, axis=1)
        back = [[(to, source) for source, to in pairs] for pairs in self._moves()]
        return jnp.concatenate([self._moved(half, pairs) for half, pairs in zip(halves, back, strict=True)], axis=1)

    def _moved(self, half: jax.Array, pairs: list[tuple[int, int]]) -> jax.Array:
        return half if all(source == to for source, to in pairs) else jax.lax.ppermute(half, self.row, pairs)

    def _moves(self) -> list[list[tuple[int, int]]]:
        """(from, to) of the parts with even numbers, and of those with odd ones: device d has parts 2 d and 2 d + 1 before, d and 2 n - 1 - d after."""
        last = self.how.parts - 1
        return [[(part // 2, min(part, last - part)) for part in range(odd, self.how.parts, 2)] for odd in (0, 1)]

    def _ordered(self, halves: list[jax.Array]) -> jax.Array:
        """(the part with an even number, the other one) in the order of the row; and the other way round. A device's first part has its own number."""
        first, second = halves
        swapped = self.here % 2 == 1
        return jnp.concatenate([jnp.where(swapped, second, first), jnp.where(swapped, first, second)], axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(ring: _Ring, q: jax.Array, k: jax.Array, v: jax.Array, bias: DistanceBias | None, mask: Mask, key: DropoutKey | None) -> jax.Array:
    return _forward(ring, q, k, v, bias, mask, key)[0]


def _forward(ring, q, k, v, bias, mask, key):
    """(out [B, L, H, K], what the gradient needs: queries, keys and values as they were dealt out)."""
    specs = *(ring.spec,) * 3, *(ring.specs(given, q.shape[0]) for given in (bias, mask, key))
    bound_q, *given = bound(q, bias, mask, key)
    of_device = jax.shard_map(functools.partial(_attended, ring), in_specs=specs, out_specs=(*(ring.spec,) * 4, ring.of_tiles), check_vma=False)
    out, q, k, v, lse = of_device(bound_q, k, v, *given)
    return out, (q, k, v, bias, mask, key, out, lse)


def _attended(ring: _Ring, q, k, v, bias, mask, key):
    """On a device: out, what the backward pass needs of q, k and v, and lse [tiles, B, H, S, 1]."""
    how = ring.how
    q, k, v = map(ring.dealt, (q, k, v))
    given, blocks_q = ring.given(bias, mask, key, q.shape[2]), ring.blocks(q, how.rows)
    queries = ring.numbers(ring.here, how.queries, how.rows), jnp.arange(len(blocks_q)), blocks_q

    def seen(sums, keys, step):
        of_keys = ring.numbers((ring.here - step) % ring.count, how.keys, how.columns), *keys
        return jax.lax.scan(lambda _, of_tile: (None, read(how, given, of_tile[0], of_tile[1], of_keys)), None, (sums, queries))[1]

    def turn(carry, step):
        sums, keys = carry
        following = ring.passed_on(keys)
        return (seen(sums, keys, step), following), None

    begin = nothing_read(how, blocks_q.shape, v.shape[3]), (ring.blocks(k, how.columns), ring.blocks(v, how.columns))
    (sums, keys), _ = jax.lax.scan(turn, begin, jnp.arange(ring.count - 1))
    out, lse = finished(seen(sums, keys, ring.count - 1), v.dtype)
    return ring.dealt_back(ring.joined(out, how.queries)), q, k, v, lse


def _backward(ring, residuals, gradient):
    q, k, v, *given, out, lse = residuals
    gradient, bias, mask, key = bound(gradient, *given)
    specs = *(ring.spec,) * 5, ring.of_tiles, *(ring.specs(given, q.shape[0]) for given in (bias, mask, key))
    of_table = None if bias is None else PartitionSpec(None, ring.spec[2])
    of_device = jax.shard_map(functools.partial(_gradients, ring), in_specs=specs, out_specs=(*(ring.spec,) * 3, of_table), check_vma=False)
    dq, dk, dv, table = of_device(q, k, v, gradient, delta_of(gradient, out), lse, bias, mask, key)
    return dq, dk, dv, None if bias is None else bias.replace(table=table.astype(bias.table.dtype)), None, None


def _gradients(ring: _Ring, q, k, v, gradient, delta, lse, bias, mask, key):
    """On a device: of q, k, v and the bias's table."""
    how = ring.how
    given = ring.given(bias, mask, key, q.shape[2])
    blocks_q, blocks_g, blocks_delta = (ring.blocks(x, how.rows) for x in (q, ring.dealt(gradient), ring.dealt(delta)))
    queries = ring.numbers(ring.here, how.queries, how.rows), blocks_q, blocks_g, lse, blocks_delta

    def found(sums, keys, step):
        return gradients(how, given, sums, queries, (ring.numbers((ring.here - step) % ring.count, how.keys, how.columns), *keys))

    def added(arrived, own):
        return jax.tree.map(lambda x, y: (x.astype(jnp.float32) + y).astype(ring.sums), arrived, own)

    def turn(carry, step):
        sums, keys, others = carry
        following, arrived = ring.passed_on(keys), ring.passed_on(others)
        sums, own = found(sums, keys, step)
        return (sums, following, added(arrived, own)), None

    keys = ring.blocks(k, how.columns), ring.blocks(v, how.columns)
    following = ring.passed_on(keys)
    table = None if bias is None else jnp.zeros((1, *bias.table.shape), jnp.float32)
    sums, own = found((jnp.zeros(blocks_q.shape, jnp.float32), table), keys, 0)
    begin = sums, following, jax.tree.map(lambda x: x.astype(ring.sums), own)
    (sums, keys, others), _ = jax.lax.scan(turn, begin, jnp.arange(1, ring.count - 1))
    arrived = ring.passed_on(others)
    (dq, table), own = found(sums, keys, ring.count - 1)
    dk, dv = ring.passed_on(added(arrived, own))
    if table is not None:
        table = jax.lax.psum(table[0], (*as_tuple(ring.spec[0]), *ring.row))
    dq, dk, dv = ring.joined(dq, how.queries), ring.joined(dk, how.keys), ring.joined(dv, how.keys)
    return *(ring.dealt_back(x.astype(like.dtype)) for x, like in ((dq, q), (dk, k), (dv, v))), table


_attention.defvjp(_forward, _backward)
