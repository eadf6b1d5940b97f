"""Which keys a query may attend to: one description, asked for a tile at a time."""

import functools
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp


class Span(NamedTuple):
    """`size` queries, or keys, from `start` on (int where it is known while tracing, else int32 [])."""

    start: jax.Array | int
    size: int

    def numbers(self, before: int = 0) -> jax.Array:
        """int32 [size], counted from the one after the first `before`, which are negative."""
        start = self.start - before
        if isinstance(start, int):
            return jnp.arange(start, start + self.size, dtype=jnp.int32)
        return jnp.arange(self.size, dtype=jnp.int32) + start

    def part(self, x_BN: jax.Array, before: int = 0) -> jax.Array:
        """[B, size] of an array that begins after the first `before`; what lies outside it repeats an end, to be masked."""
        start = self.start - before
        if isinstance(start, int) and start >= 0 and start + self.size <= x_BN.shape[1]:
            return x_BN[:, start : start + self.size]
        return jnp.take(x_BN, self.numbers(before), axis=1, mode='clip')


@struct.dataclass
class Mask:
    """Which keys a query may attend to; the fields combine by 'and', None allows all.

    keys_BM:     bool, False for padding keys.
    packed_BL:   int32 ids of the sequences packed in a row, 0 for padding: attention stays inside a sequence.
    packed_BM:   those of the keys, where they are others than the queries (cross-attention).
    causal:      a query sees keys up to its own place in the row.
    prefix_BM:   bool, places that see each other in spite of `causal` (the inputs of a prefix language model).
    window:      int32 [], a query sees keys less than so many places before it.
    band:        the window, where it is either this or wider than any row, which of the two is known when it runs; 0: any window.
    first:       int32 [], the place of the first query in the row of keys (decoding with a cache); None: 0.
    before:      so many keys stand before the row's, and all queries see them (prefix and prompt tuning).
    asking:      so many queries stand before the row's; they see the keys before it and nothing of the row, so that packed rows give what each sequence
                 alone does.
    The fields above say nothing of those.
    """

    keys_BM: jax.Array | None = None
    packed_BL: jax.Array | None = None
    packed_BM: jax.Array | None = None
    prefix_BM: jax.Array | None = None
    window: jax.Array | None = None
    first: jax.Array | None = None
    band: int = struct.field(pytree_node=False, default=0)
    causal: bool = struct.field(pytree_node=False, default=False)
    before: int = struct.field(pytree_node=False, default=0)
    asking: int = struct.field(pytree_node=False, default=0)

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """bool [B or 1, 1, L or 1, M], for implementations that hold the scores: the one tile that is everything."""
        return self.tile(Span(0, queries), Span(0, keys))

    def tile(self, queries: Span, keys: Span) -> jax.Array | None:
        """bool [B or 1, 1, l or 1, m] of some queries and some keys, counted with those before the row's; None: nothing is hidden there."""
        allowed = self._of_row(queries, keys)
        in_front = (keys.numbers(self.before) < 0)[None, None, None, :]
        if self.before and allowed is not None:
            allowed = allowed | in_front
        if self.asking:
            asked = (queries.numbers(self.asking) < 0)[None, None, :, None]
            allowed = jnp.where(asked, in_front, True if allowed is None else allowed)
        return allowed

    def distance(self, queries: Span, keys: Span) -> jax.Array | int:
        """The place of a tile's first key minus that of its first query; from one key to the next it grows by 1, and falls so from query to query."""
        return keys.start - self.before - (queries.start - self.asking + (0 if self.first is None else self.first))

    def placed(self, queries: Span, keys: Span) -> jax.Array | None:
        """bool [l, m], whether query and key of a tile both are of the row; None: all are. Others have no distance."""
        if not self.before and not self.asking:
            return None
        return (queries.numbers(self.asking) >= 0)[:, None] & (keys.numbers(self.before) >= 0)[None, :]

    def needed(self, queries: int, keys: int, rows: int, columns: int, parts: int = 1, numbers: jax.Array | None = None) -> jax.Array | None:
        """bool [tiles of queries, tiles of keys], False where a tile of rows x columns hides all of itself for certain; None: no tile does.

        Found from the extremes of each tile: of places for `causal` and `window`, of ids for packed sequences.

        Args:
          parts: that queries and keys are divided into, equally; no tile reaches from one into another.
          numbers: int32, of the tiles of queries that are asked for; None: all.
        """
        of_queries, of_keys = _Tiles(queries, rows, self.asking, parts, numbers), _Tiles(keys, columns, self.before, parts)
        shown = []
        if self.keys_BM is not None:
            shown.append(of_keys.any(self.keys_BM).any(axis=0)[None, :])
        if self.packed_BL is not None:
            low, high = of_queries.extremes(self.packed_BL)
            lowest, highest = of_keys.extremes(self.packed_BL if self.packed_BM is None else self.packed_BM)
            shown.append(((low[:, :, None] <= highest[:, None, :]) & (lowest[:, None, :] <= high[:, :, None])).any(axis=0))
        (low, high), (lowest, highest) = of_queries.places(), of_keys.places()
        if self.first is not None:
            low, high = low + self.first, high + self.first
        if self.causal:
            seen = lowest[None, :] <= high[:, None]
            if self.prefix_BM is not None:
                asking = of_queries.any(Span(0 if self.first is None else self.first, queries - self.asking).part(self.prefix_BM))
                seen = seen | (asking[:, :, None] & of_keys.any(self.prefix_BM)[:, None, :]).any(axis=0)
            shown.append(seen)
        if self.window is not None:
            shown.append(highest[None, :] > low[:, None] - self.window)
        if not shown:
            return None
        # Keys in front are seen by all.
        found = functools.reduce(jnp.logical_and, shown) | (lowest < 0)[None, :]
        return jnp.broadcast_to(found, (of_queries.count, of_keys.count))

    def _of_row(self, queries: Span, keys: Span) -> jax.Array | None:
        """The fields that speak of the row, where both query and key are of it."""
        parts = []
        if self.keys_BM is not None:
            parts.append(keys.part(self.keys_BM, self.before)[:, None, None, :])
        if self.packed_BL is not None:
            of_keys = self.packed_BL if self.packed_BM is None else self.packed_BM
            query, key = queries.part(self.packed_BL, self.asking)[:, None, :, None], keys.part(of_keys, self.before)[:, None, None, :]
            parts.append((query == key) & (key > 0))
        place, other = queries.numbers(self.asking)[None, None, :, None], keys.numbers(self.before)[None, None, None, :]
        if self.first is not None:
            place = place + self.first
        if self.causal:
            seen = other <= place
            parts.append(seen if self.prefix_BM is None else seen | self._in_prefix(queries, keys))
        if self.window is not None:
            parts.append(other > place - self.window)
        return functools.reduce(jnp.logical_and, parts) if parts else None

    def _in_prefix(self, queries: Span, keys: Span) -> jax.Array:
        """bool [B, 1, l, m]: query and key are both of the prefix."""
        first = 0 if self.first is None else self.first
        asking = Span(queries.start + first, queries.size).part(self.prefix_BM, self.asking)
        return asking[:, None, :, None] & keys.part(self.prefix_BM, self.before)[:, None, None, :]


class _Tiles:
    """An axis of `length`, the first `before` of which stand before the row, in `parts`, each in tiles of `size`; the tiles `numbers` of it, or all."""

    def __init__(self, length: int, size: int, before: int, parts: int = 1, numbers: jax.Array | None = None):
        self.part, self.size, self.before, self.parts, self.numbers = length // parts, size, before, parts, numbers
        self.each = -(-self.part // size)
        self.count = self.each * parts if numbers is None else len(numbers)

    def places(self) -> tuple[jax.Array, jax.Array]:
        """int32 [tiles], of the first and of the last of each, without `Mask.first`."""
        first = jnp.arange(self.parts, dtype=jnp.int32)[:, None] * self.part + jnp.arange(self.each, dtype=jnp.int32)[None, :] * self.size
        first = self._asked(first.reshape(-1) - self.before)
        return first, first + (self.size - 1)

    def any(self, x_BN: jax.Array) -> jax.Array:
        """bool [B, tiles]: is there one in the tile?"""
        return self._asked(self._split(x_BN, False).any(axis=-1))

    def extremes(self, ids_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
        """int32 [B, tiles], the smallest and largest id of each tile, 0 left out; of a tile without ids they meet no others."""
        ids, most = self._split(ids_BN, 0), jnp.iinfo(jnp.int32).max
        return self._asked(jnp.where(ids > 0, ids, most).min(axis=-1)), self._asked(jnp.where(ids > 0, ids, -1).max(axis=-1))

    def _asked(self, x: jax.Array) -> jax.Array:
        return x if self.numbers is None else jnp.take(x, self.numbers, axis=-1)

    def _split(self, x_BN: jax.Array, nothing: bool | int) -> jax.Array:
        rows, length = x_BN.shape[0], self.part * self.parts
        x = jnp.pad(x_BN, ((0, 0), (self.before, length - self.before - x_BN.shape[1])), constant_values=nothing).reshape(rows, self.parts, self.part)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, self.each * self.size - self.part)), constant_values=nothing)
        return x.reshape(rows, self.parts * self.each, self.size)
