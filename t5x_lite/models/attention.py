"""Multi-head attention (Vaswani et al., 2017) with its projections, and one cache of its keys and values."""

import functools

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import ModelConfig
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.kernels import attend, dense_attention
from t5x_lite.models.layers import Einsum, added, compute_dtype, head_size, initializer
from t5x_lite.models.mask import Mask
from t5x_lite.models.placing import constrain
from t5x_lite.models.positions import DistanceBias


@struct.dataclass
class Cache:
    """Where a decoding pass stands in the keys and values that its layers keep (flax collection 'cache', arrays [N, B, M, H, K]).

    first:   int32 [], the slot of the first token of this pass; 0 fills the cache, and computes what cross-attention reads.
    length:  M.
    filling: whether this pass is the first.
    """

    first: jax.Array
    length: int = struct.field(pytree_node=False)
    filling: bool = struct.field(pytree_node=False)


class Attention(nn.Module):
    """Multi-head attention with its four projections: of x to itself, or to `memory_BMD` (`cross`)."""

    config: ModelConfig
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        mask: Mask,
        key: DropoutKey | None,
        site: int,
        *,
        bias: DistanceBias | None = None,
        memory_BMD: jax.Array | None = None,
        cache: Cache | None = None,
    ) -> jax.Array:
        config = self.config
        dtype, width, heads, size = compute_dtype(config), config.d_model, config.num_heads, head_size(config)

        def project(name: str, x: jax.Array, scale: float = 1.0) -> jax.Array:
            init = initializer(config, width, scale=scale)
            out = Einsum((width, heads * size), ('embed', 'heads'), dtype, init, config.use_bias, name=name)('BLD,DE->BLE', x)
            return out.reshape(out.shape[:2] + (heads, size))

        q_BLHK = project('query', x_BLD, 1.0 if config.scale_attention else 1.0 / size)
        if self.cross and cache is not None and not cache.filling:
            k_BMHK, v_BMHK = self._remembered()
        else:
            source = memory_BMD if self.cross else x_BLD
            k_BMHK, v_BMHK = project('key', source), project('value', source)
            if cache is not None:
                k_BMHK, v_BMHK = self._remember(k_BMHK, v_BMHK, cache)
        k_BMHK, v_BMHK, mask = self._with_prefix(k_BMHK, v_BMHK, mask)
        # Of parameters that begin, shapes alone count, of whatever batch on whatever device.
        attention = dense_attention if self.is_initializing() else functools.partial(attend, config)
        scale = size**-0.5 if config.scale_attention else 1.0
        out_BLHK = attention(q_BLHK, k_BMHK, v_BMHK, mask, scale=scale, bias=bias, key=key, site=site)
        out_BLE = out_BLHK.reshape(out_BLHK.shape[:2] + (heads * size,))
        init = initializer(config, heads * size, residual=True)
        return Einsum((heads * size, width), ('heads', 'embed'), dtype, init, config.use_bias, name='output')('BLE,ED->BLD', out_BLE)

    def _with_prefix(self, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array, Mask]:
        """Learnt keys and values in front, where some were put there (training/adapters.py); they have no place, and so no bias of one."""
        prefix = added(self, 'prefix_key')
        if prefix is None:
            return k_BMHK, v_BMHK, mask
        batch, _, heads, size = k_BMHK.shape

        def in_front(name: str, row: jax.Array) -> jax.Array:
            learnt = added(self, name).reshape(1, -1, heads, size)
            return jnp.concatenate([jnp.broadcast_to(learnt, (batch, *learnt.shape[1:])).astype(row.dtype), row], axis=1)

        return in_front('prefix_key', k_BMHK), in_front('prefix_value', v_BMHK), mask.replace(before=mask.before + prefix.shape[0])

    def _remember(self, k_BLHK: jax.Array, v_BLHK: jax.Array, cache: Cache) -> tuple[jax.Array, jax.Array]:
        """Puts keys and values of this pass into the cache, and gives all that it holds; cross-attention's never grow."""
        batch, length, heads, size = k_BLHK.shape
        shape = k_BLHK.shape if self.cross else (batch, cache.length, heads, size)
        kept = []
        for name, new in (('keys', k_BLHK), ('values', v_BLHK)):
            variable = self.variable('cache', name, jnp.zeros, shape, new.dtype)
            held = new if self.cross else jax.lax.dynamic_update_slice(variable.value, new, (0, cache.first, 0, 0))
            variable.value = constrain(held, ('batch', None, 'heads', None))
            kept.append(variable.value)
        return kept[0], kept[1]

    def _remembered(self) -> tuple[jax.Array, jax.Array]:
        return self.get_variable('cache', 'keys'), self.get_variable('cache', 'values')
