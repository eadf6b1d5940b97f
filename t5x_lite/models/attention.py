"""One attention, one description of its mask (Vaswani et al., 2017)."""

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import AttentionKernel, ModelConfig
from t5x_lite.models.layers import DropoutKey, Einsum, compute_dtype, dropout


@struct.dataclass
class Mask:
    """Which keys a query may attend to; the fields combine by 'and', None allows all.

    keys_BM:    bool, False for padding keys.
    packed_BL:  int32 ids of the sequences packed in a row, 0 for padding: attention stays inside a sequence.
    """

    keys_BM: jax.Array | None = None
    packed_BL: jax.Array | None = None

    def dense(self) -> jax.Array | None:
        """bool [B, 1, L or 1, M], for implementations that hold the scores."""
        mask = None
        if self.keys_BM is not None:
            mask = self.keys_BM[:, None, None, :]
        if self.packed_BL is not None:
            query, key = self.packed_BL[:, None, :, None], self.packed_BL[:, None, None, :]
            same = (query == key) & (key > 0)
            mask = same if mask is None else mask & same
        return mask


def dense_attention(
    q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask, *, scale: float, dropout_rate: float = 0.0, key: DropoutKey | None = None, site: int = 0
) -> jax.Array:
    """softmax(scale * q k^T) v with the scores in memory; float32 softmax. A query that may attend to nothing gives zeros. Returns [B, L, H, K]."""
    scores = jnp.einsum('BLHK,BMHK->BHLM', q_BLHK, k_BMHK, preferred_element_type=jnp.float32) * jnp.float32(scale)
    allowed = mask.dense()
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1)
    if allowed is not None:
        weights = jnp.where(allowed.any(axis=-1, keepdims=True), weights, jnp.float32(0))
    weights = dropout(weights, dropout_rate, key, site).astype(v_BMHK.dtype)
    return jnp.einsum('BHLM,BMHK->BLHK', weights, v_BMHK, preferred_element_type=jnp.float32).astype(v_BMHK.dtype)


KERNELS = {AttentionKernel.dense: dense_attention}


class Attention(nn.Module):
    """Multi-head self-attention with its four projections."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask: Mask, key: DropoutKey | None, site: int) -> jax.Array:
        config = self.config
        dtype, width, heads = compute_dtype(config), config.d_model, config.num_heads
        head_size = width // heads

        def project(name: str) -> jax.Array:
            out = Einsum((width, width), ('embed', 'heads'), dtype, config.init_stddev, name=name)('BLD,DE->BLE', x_BLD)
            return out.reshape(out.shape[:2] + (heads, head_size))

        q_BLHK, k_BLHK, v_BLHK = project('query'), project('key'), project('value')
        out_BLHK = KERNELS[config.attention](
            q_BLHK, k_BLHK, v_BLHK, mask, scale=head_size**-0.5, dropout_rate=config.attention_dropout, key=key, site=site
        )
        out_BLE = out_BLHK.reshape(out_BLHK.shape[:2] + (width,))
        return Einsum((width, width), ('heads', 'embed'), dtype, config.init_stddev, name='output')('BLE,ED->BLD', out_BLE)
