"""T5's relative positions: a bias of attention scores by bucketed distance (Raffel et al., 2020, section 2.1)."""

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from t5x_lite.config import ModelConfig
from t5x_lite.models.layers import initializer, partitioned
from t5x_lite.models.mask import Mask, Span
from t5x_lite.models.placing import as_tuple, parts_of_batch


def relative_buckets(relative: np.ndarray | jax.Array, *, bidirectional: bool, buckets: int, max_distance: int) -> jax.Array:
    """The bucket, int32 of 0 .. buckets - 1, of key position minus query position.

    Half of the buckets hold a distance each; the others widen logarithmically up to `max_distance`, beyond which all share the last. Both
    ways halve the buckets, the upper half for keys to the right; one way puts all of those into bucket 0. (mesh_tensorflow
    transformer_layers.py: _relative_position_bucket.)
    """
    distance = -jnp.asarray(relative, jnp.int32)
    offset = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = jnp.where(distance < 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(distance, 0)
    exact = buckets // 2
    # Where each wider bucket begins, found once in float64: no rounding of a logarithm decides.
    widths = np.arange(1, buckets - exact)
    first = np.ceil(exact * (max_distance / exact) ** (widths / (buckets - exact)) - 1e-9).astype(np.int32)
    wide = exact + jnp.searchsorted(jnp.asarray(first), distance, side='right', method='compare_all').astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, wide)


@struct.dataclass
class DistanceBias:
    """What is added to the scores of attention, by the distance of key and query: for a tile from the table, for all of a row at once where that is made.

    table:       float32 [buckets, heads].
    whole_PHLM:  that of all queries and keys of a row (`made`): what an implementation that holds the scores adds, made once for all layers; for each part of
                 the batch, or once [1, H, L, M].
    """

    table: jax.Array | None = None
    whole_PHLM: jax.Array | None = None
    bidirectional: bool = struct.field(pytree_node=False, default=True)
    max_distance: int = struct.field(pytree_node=False, default=128)

    def made(self, queries: int, keys: int, first: jax.Array | int = 0, rows: int = 0) -> 'DistanceBias':
        """With `whole_PHLM`; `first` is the place of the first query.

        Devices that each have a part of so many rows make each their own: its gradient is then added up over them as that of the table, and not as large as
        the scores of a row.
        """
        relative = np.arange(keys, dtype=np.int32)[None, :] - np.arange(queries, dtype=np.int32)[:, None] - first
        rules = dict(nn.get_logical_axis_rules())
        tables = jnp.broadcast_to(self.table, (parts_of_batch(rows, rules) if rows else 1, *self.table.shape))
        if len(tables) > 1:
            tables = jax.lax.with_sharding_constraint(tables, PartitionSpec(as_tuple(rules['batch']), *(PartitionSpec.UNCONSTRAINED,) * 2))
        return self.replace(whole_PHLM=jnp.transpose(jnp.take(tables, self._buckets(relative), axis=1), (0, 3, 1, 2)))

    def dense(self, mask: Mask, rows: int, queries: int, keys: int) -> jax.Array:
        """[1 or `rows`, H, L, M], with zeros for queries and keys before the row's, which have no place."""
        if self.whole_PHLM is None:
            return self.made(queries - mask.asking, keys - mask.before, 0 if mask.first is None else mask.first).dense(mask, rows, queries, keys)
        parts = len(self.whole_PHLM)
        whole = self.whole_PHLM if parts == 1 else jnp.repeat(self.whole_PHLM, rows // parts, axis=0)
        return jnp.pad(whole, ((0, 0), (0, 0), (mask.asking, 0), (mask.before, 0))) if mask.asking or mask.before else whole

    def tile(self, mask: Mask, queries: Span, keys: Span) -> jax.Array:
        """[H, l, m] of some queries and some keys, from the table.

        A tile has l + m - 1 distances. Their biases t are looked up, and each row of the tile is a part of t, one further to the left than the row above: rows
        of length n, laid out one after another and cut to rows of n + 1, are each one further on. So neither a tile's indices are made nor, for the table's
        gradient, as many numbers scattered: the gradient of this is a sum along each diagonal.
        """
        (rows, columns), heads = (queries.size, keys.size), self.table.shape[1]
        distances = jnp.arange(1 - rows, columns, dtype=jnp.int32) + mask.distance(queries, keys)
        t_HN = jnp.take(self.table, self._buckets(distances), axis=0).T
        many = rows + columns - 1
        flat = jnp.broadcast_to(t_HN[:, None, :], (heads, rows, many)).reshape(heads, rows * many)
        shifted = jnp.pad(flat, ((0, 0), (0, rows))).reshape(heads, rows, many + 1)
        found = shifted[:, ::-1, :columns]
        placed = mask.placed(queries, keys)
        return found if placed is None else jnp.where(placed[None], found, 0.0)

    def _buckets(self, relative: np.ndarray | jax.Array) -> jax.Array:
        return relative_buckets(relative, bidirectional=self.bidirectional, buckets=self.table.shape[0], max_distance=self.max_distance)


class RelativeBias(nn.Module):
    """The table [buckets, heads] that the layers of a stack share."""

    config: ModelConfig
    bidirectional: bool

    @nn.compact
    def __call__(self) -> DistanceBias:
        config = self.config
        shape = (config.relative_buckets, config.num_heads)
        table = partitioned(self, 'embedding', initializer(config, config.d_model), shape, ('buckets', 'heads'))
        return DistanceBias(table, bidirectional=self.bidirectional, max_distance=config.relative_max_distance)
