"""The implementations of attention, what each can do, and which of them `auto` picks."""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite.config import AttentionKernel, ModelConfig
from t5x_lite.errors import UserError
from t5x_lite.models.blockwise_attention import blockwise_attention
from t5x_lite.models.layers import DropoutKey, compute_dtype, dropout, head_size
from t5x_lite.models.mask import Mask
from t5x_lite.models.positions import DistanceBias

# MOST_SCORES
MOST_SCORES = 256 * 2**20


def dense_attention(
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
) -> jax.Array:
    """softmax(scale * q k^T + bias) v with the scores in memory; float32 softmax. A query that may attend to nothing gives zeros. Returns [B, L, H, K]."""
    scores = jnp.einsum('BLHK,BMHK->BHLM', q_BLHK, k_BMHK, preferred_element_type=jnp.float32) * jnp.float32(scale)
    if bias is not None:
        scores = scores + bias.dense(mask, *scores.shape[2:])[None].astype(jnp.float32)
    allowed = mask.dense(*scores.shape[2:])
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1)
    if allowed is not None:
        weights = jnp.where(allowed.any(axis=-1, keepdims=True), weights, jnp.float32(0))
    weights = dropout(weights, dropout_rate, key, site).astype(v_BMHK.dtype)
    return jnp.einsum('BHLM,BMHK->BLHK', weights, v_BMHK, preferred_element_type=jnp.float32).astype(v_BMHK.dtype)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of attention, on one device: [rows, queries or keys, heads, size], and what comes with it.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu', as jax names it.
      dtype: of queries, keys and values, by name.
      bias: of relative positions.
      dropout: of weights.
    """

    platform: str
    rows: int
    queries: int
    keys: int
    heads: int
    size: int
    dtype: str
    bias: bool
    dropout: bool

    @property
    def score_bytes(self) -> int:
        """Of a layer's scores, in float32."""
        return 4 * self.rows * self.heads * self.queries * self.keys


def asked_of(config: ModelConfig, mesh: Mapping[str, int], rows: int, queries: int, keys: int, *, bias: bool, dropout: bool) -> Asked:
    """Of a call with so many rows over all devices; `mesh` has the sizes of its axes, {} for one device."""
    shards, tensor = (mesh['data'] * mesh['fsdp'], mesh['tensor']) if mesh else (1, 1)
    return Asked(
        jax.default_backend(), -(-rows // shards), queries, keys, -(-config.num_heads // tensor), head_size(config), compute_dtype(config).name, bias,
        dropout and config.attention_dropout > 0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An implementation, with the arguments of `dense_attention`.

    Attributes:
      lacks: what of a call it cannot do, in words; '' where it can.
    """

    attend: Callable[..., jax.Array]
    lacks: Callable[[Asked], str]


KERNELS = {
    AttentionKernel.dense: Kernel(dense_attention, lambda asked: ''),
    AttentionKernel.blockwise: Kernel(blockwise_attention, lambda asked: ''),
}

# What `auto` takes before others, where it lacks nothing: kernels of a device's maker.
FASTEST: tuple[AttentionKernel, ...] = ()


def choose(kernel: AttentionKernel, asked: Asked) -> tuple[AttentionKernel, str]:
    """(the implementation of a call, why).

    Raises:
      UserError: the config names one that cannot do what is asked.
    """
    if kernel != AttentionKernel.auto:
        if lacks := KERNELS[kernel].lacks(asked):
            raise UserError(f'config.model.attention={kernel.name} cannot be used here: {lacks}; take --config.model.attention=auto')
        return kernel, 'as config.model.attention says'
    for fast in FASTEST:
        if not KERNELS[fast].lacks(asked):
            return fast, f'there is one for {asked.platform}'
    size = f'the scores of a layer take {asked.score_bytes / 2**20:,.1f} MiB on a device'
    if asked.score_bytes <= MOST_SCORES:
        return AttentionKernel.dense, size
    return AttentionKernel.blockwise, f'{size}, more than {MOST_SCORES / 2**20:,.0f}'


def picked(config: ModelConfig, rows: int, queries: int, keys: int, *, bias: bool, dropout: bool) -> AttentionKernel:
    """The implementation of a call, on the mesh that is set."""
    return choose(config.attention, asked_of(config, jax.sharding.get_abstract_mesh().shape, rows, queries, keys, bias=bias, dropout=dropout))[0]


def attend(config: ModelConfig, q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask, *, key: DropoutKey | None, **given) -> jax.Array:
    """`dense_attention`, by the implementation that the config names or that is picked for this call."""
    rows, queries, keys = q_BLHK.shape[0], q_BLHK.shape[1], k_BMHK.shape[1]
    kernel = picked(config, rows, queries, keys, bias=given['bias'] is not None, dropout=key is not None)
    return KERNELS[kernel].attend(q_BLHK, k_BMHK, v_BMHK, mask, dropout_rate=config.attention_dropout, key=key, **given)
