"""T5's relative positions: a bias of attention scores by bucketed distance (Raffel et al., 2020, section 2.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import ModelConfig
from t5x_lite.models.layers import initializer, partitioned


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


class RelativeBias(nn.Module):
    """The table [buckets, heads] that the layers of a stack share. Returns bias_HLM; `first` is the place of the first query."""

    config: ModelConfig
    bidirectional: bool

    @nn.compact
    def __call__(self, queries: int, keys: int, first: jax.Array | int = 0) -> jax.Array:
        config = self.config
        shape = (config.relative_buckets, config.num_heads)
        table = partitioned(self, 'embedding', initializer(config, config.d_model), shape, ('buckets', 'heads'))
        relative = np.arange(keys, dtype=np.int32)[None, :] - np.arange(queries, dtype=np.int32)[:, None] - first
        bucket_LM = relative_buckets(
            relative, bidirectional=self.bidirectional, buckets=config.relative_buckets, max_distance=config.relative_max_distance
        )
        return jnp.transpose(jnp.take(table, bucket_LM, axis=0), (2, 0, 1))
