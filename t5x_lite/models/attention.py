"""One attention, one description of its mask (Vaswani et al., 2017), one cache of its keys and values."""

import functools

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import AttentionKernel, ModelConfig
from t5x_lite.models.layers import DropoutKey, Einsum, added, compute_dtype, constrain, dropout, head_size, initializer


@struct.dataclass
class Mask:
    """Which keys a query may attend to; the fields combine by 'and', None allows all.

    keys_BM:     bool, False for padding keys.
    packed_BL:   int32 ids of the sequences packed in a row, 0 for padding: attention stays inside a sequence.
    packed_BM:   those of the keys, where they are others than the queries (cross-attention).
    causal:      a query sees keys up to its own place in the row.
    prefix_BM:   bool, places that see each other in spite of `causal` (the inputs of a prefix language model).
    window:      int32 [], a query sees keys less than so many places before it.
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
    causal: bool = struct.field(pytree_node=False, default=False)
    before: int = struct.field(pytree_node=False, default=0)
    asking: int = struct.field(pytree_node=False, default=0)

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """bool [B or 1, 1, L or 1, M], for implementations that hold the scores."""
        queries, keys = queries - self.asking, keys - self.before
        allowed = self._of_row(queries, keys)
        if not self.before or allowed is None and not self.asking:
            return allowed
        if allowed is None:
            allowed = jnp.ones((1, 1, 1, keys), bool)
        allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, 0), (self.before, 0)), constant_values=True)
        if not self.asking:
            return allowed
        rows = allowed.shape[0]
        asked = jnp.broadcast_to(jnp.arange(self.before + keys)[None, None, None] < self.before, (rows, 1, self.asking, self.before + keys))
        return jnp.concatenate([asked, jnp.broadcast_to(allowed, (rows, 1, queries, self.before + keys))], axis=2)

    def _of_row(self, queries: int, keys: int) -> jax.Array | None:
        parts = []
        if self.keys_BM is not None:
            parts.append(self.keys_BM[:, None, None, :])
        if self.packed_BL is not None:
            of_keys = self.packed_BL if self.packed_BM is None else self.packed_BM
            query, key = self.packed_BL[:, None, :, None], of_keys[:, None, None, :]
            parts.append((query == key) & (key > 0))
        place, other = (jnp.arange(size, dtype=jnp.int32) for size in (queries, keys))
        place, other = place[None, None, :, None], other[None, None, None, :]
        if self.first is not None:
            place = place + self.first
        if self.causal:
            seen = other <= place
            parts.append(seen if self.prefix_BM is None else seen | self._in_prefix(queries))
        if self.window is not None:
            parts.append(other > place - self.window)
        return functools.reduce(jnp.logical_and, parts) if parts else None

    def _in_prefix(self, queries: int) -> jax.Array:
        """bool [B, 1, L, M]: query and key are both of the prefix."""
        asking = self.prefix_BM[:, :queries] if self.first is None else jax.lax.dynamic_slice_in_dim(self.prefix_BM, self.first, queries, axis=1)
        return asking[:, None, :, None] & self.prefix_BM[:, None, None, :]


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


def dense_attention(
    q_BLHK: jax.Array,
    k_BMHK: jax.Array,
    v_BMHK: jax.Array,
    mask: Mask,
    *,
    scale: float,
    bias_HLM: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: DropoutKey | None = None,
    site: int = 0,
) -> jax.Array:
    """softmax(scale * q k^T + bias) v with the scores in memory; float32 softmax. A query that may attend to nothing gives zeros. Returns [B, L, H, K]."""
    scores = jnp.einsum('BLHK,BMHK->BHLM', q_BLHK, k_BMHK, preferred_element_type=jnp.float32) * jnp.float32(scale)
    if bias_HLM is not None:
        scores = scores + bias_HLM[None].astype(jnp.float32)
    allowed = mask.dense(*scores.shape[2:])
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1)
    if allowed is not None:
        weights = jnp.where(allowed.any(axis=-1, keepdims=True), weights, jnp.float32(0))
    weights = dropout(weights, dropout_rate, key, site).astype(v_BMHK.dtype)
    return jnp.einsum('BHLM,BMHK->BLHK', weights, v_BMHK, preferred_element_type=jnp.float32).astype(v_BMHK.dtype)


KERNELS = {AttentionKernel.dense: dense_attention}


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
        bias_HLM: jax.Array | None = None,
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
        k_BMHK, v_BMHK, mask, bias_HLM = self._with_prefix(k_BMHK, v_BMHK, mask, bias_HLM)
        out_BLHK = KERNELS[config.attention](
            q_BLHK,
            k_BMHK,
            v_BMHK,
            mask,
            scale=size**-0.5 if config.scale_attention else 1.0,
            bias_HLM=bias_HLM,
            dropout_rate=config.attention_dropout,
            key=key,
            site=site,
        )
        out_BLE = out_BLHK.reshape(out_BLHK.shape[:2] + (heads * size,))
        init = initializer(config, heads * size, residual=True)
        return Einsum((heads * size, width), ('heads', 'embed'), dtype, init, config.use_bias, name='output')('BLE,ED->BLD', out_BLE)

    def _with_prefix(
        self, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask, bias_HLM: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, Mask, jax.Array | None]:
        """Learnt keys and values in front, where some were put there (training/adapters.py); they have no place, and so no bias of one."""
        prefix = added(self, 'prefix_key')
        if prefix is None:
            return k_BMHK, v_BMHK, mask, bias_HLM
        batch, _, heads, size = k_BMHK.shape

        def in_front(name: str, row: jax.Array) -> jax.Array:
            learnt = added(self, name).reshape(1, -1, heads, size).astype(row.dtype)
            return jnp.concatenate([jnp.broadcast_to(learnt, (batch, *learnt.shape[1:])), row], axis=1)

        length = prefix.shape[0]
        if bias_HLM is not None:
            bias_HLM = jnp.pad(bias_HLM, ((0, 0), (0, 0), (length, 0)))
        return in_front('prefix_key', k_BMHK), in_front('prefix_value', v_BMHK), mask.replace(before=mask.before + length), bias_HLM

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
