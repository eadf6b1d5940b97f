"""Multi-head attention (Vaswani et al., 2017) with its projections, and one cache of its keys and values."""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import ModelConfig
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.kernels import attend, dense_attention, step_attention
from t5x_lite.models.layers import Einsum, added, compute_dtype, head_size, initializer
from t5x_lite.models.mask import Mask
from t5x_lite.models.placing import constrain
from t5x_lite.models.positions import DistanceBias


@struct.dataclass
class Cache:
    """Where a decoding pass stands in the keys and values that its layers keep (flax collection 'cache', arrays [N, B, H, M, K]: heads
    first, as steps read them).

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
        scale = size**-0.5 if config.scale_attention else 1.0
        if cache is not None and not cache.filling:
            own = None if self.cross else (project('key', x_BLD), project('value', x_BLD))
            out_BLHK = self._step(q_BLHK, own, mask, scale, bias, cache)
        else:
            source = memory_BMD if self.cross else x_BLD
            k_BMHK, v_BMHK = project('key', source), project('value', source)
            if cache is not None:
                k_BMHK, v_BMHK = self._fill(k_BMHK, v_BMHK, cache)
            if (prefix := self._prefix(k_BMHK.dtype)) is not None:
                k_BMHK, v_BMHK, mask = *_in_front(prefix, (k_BMHK, v_BMHK), 1), mask.replace(before=mask.before + prefix[0].shape[1])
            # Of parameters that begin, shapes alone count, of whatever batch on whatever device.
            attention = dense_attention if self.is_initializing() else functools.partial(attend, config)
            out_BLHK = attention(q_BLHK, k_BMHK, v_BMHK, mask, scale=scale, bias=bias, key=key, site=site)
        out_BLE = out_BLHK.reshape(out_BLHK.shape[:2] + (heads * size,))
        init = initializer(config, heads * size, residual=True)
        return Einsum((heads * size, width), ('heads', 'embed'), dtype, init, config.use_bias, name='output')('BLE,ED->BLD', out_BLE)

    def _prefix(self, dtype: Any) -> tuple[jax.Array, jax.Array] | None:
        """Learnt keys and values [1, P, H, K] that stand in front, where some were put there (training/adapters.py); they have no place, and so no bias of one."""
        if added(self, 'prefix_key') is None:
            return None
        shape = (1, -1, self.config.num_heads, head_size(self.config))
        return tuple(added(self, name).reshape(shape).astype(dtype) for name in ('prefix_key', 'prefix_value'))

    def _fill(self, k_BLHK: jax.Array, v_BLHK: jax.Array, cache: Cache) -> tuple[jax.Array, jax.Array]:
        """Puts keys and values of the first pass into the cache, and gives all that it holds, [B, M, H, K]: zeros behind them, but for cross-attention's,
        which never grow."""
        rest = 0 if self.cross else cache.length - k_BLHK.shape[1]
        k_BMHK, v_BMHK = (jnp.pad(new_BLHK, ((0, 0), (0, rest), (0, 0), (0, 0))) for new_BLHK in (k_BLHK, v_BLHK))
        self._keep(jnp.swapaxes(k_BMHK, 1, 2), jnp.swapaxes(v_BMHK, 1, 2))
        return k_BMHK, v_BMHK

    def _keep(self, k_BHMK: jax.Array, v_BHMK: jax.Array) -> None:
        for name, held in (('keys', k_BHMK), ('values', v_BHMK)):
            self.put_variable('cache', name, constrain(held, ('batch', 'heads', None, None)))

    def _step(
        self, q_B1HK: jax.Array, own: tuple[jax.Array, jax.Array] | None, mask: Mask, scale: float, bias: DistanceBias | None, cache: Cache
    ) -> jax.Array:
        """Of one more token, which has keys and values of its `own` [B, 1, H, K] but in cross-attention. Returns [B, 1, H, K]."""
        held = read = tuple(self.get_variable('cache', name) for name in ('keys', 'values'))
        place, before = cache.first, 0
        if (prefix := self._prefix(held[0].dtype)) is not None:
            read, before = _in_front([jnp.swapaxes(one, 1, 2) for one in prefix], held, 2), prefix[0].shape[1]
        own_BHK = None if own is None else tuple(one[:, 0] for one in own)
        new = None if own is None else (*own_BHK, place + before)
        out_BHK = step_attention(q_B1HK[:, 0], *read, mask.replace(before=mask.before + before), scale=scale, bias=bias, new=new)
        if own is not None:
            # Nothing is added but a dependence: what changes after it has been read changes in place; for all that a compiler knows otherwise, it is copied.
            late = ((one + jnp.zeros((), one.dtype) * out_BHK)[:, :, None] for one in own_BHK)
            self._keep(*(jax.lax.dynamic_update_slice(one, new, (0, 0, place, 0)) for one, new in zip(held, late)))
        return out_BHK[:, None]


def _in_front(prefix: Sequence[jax.Array], rows: Sequence[jax.Array], axis: int) -> tuple[jax.Array, ...]:
    """Keys and values of a prefix before those of each row, along an axis."""
    return tuple(jnp.concatenate([jnp.broadcast_to(one, (len(row), *one.shape[1:])), row], axis=axis) for one, row in zip(prefix, rows, strict=True))
