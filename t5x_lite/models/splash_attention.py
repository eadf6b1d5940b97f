"""Splash attention, the kernel for TPUs that comes with JAX (jax.experimental.pallas.ops.tpu.splash_attention), with the arguments of the others.

It keeps no scores, and skips tiles that `causal` or a band hides. What it lacks (`lacks`) is not asked of it.
"""

import functools

import flax.linen as nn
import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite.models.mask import Mask
from t5x_lite.models.products import PRODUCT

# Of a tile of queries, and of keys: the largest of these that divides the length. Registers have 128 lanes.
TILES = (512, 256, 128)
_MOST_COLUMNS = 4


def splash_attention(
    q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask, *, scale: float, interpret: bool = False, **others
) -> jax.Array:
    """softmax(scale * q k^T) v. A query that may attend to nothing gives zeros. Returns [B, L, H, K].

    On a mesh, rows and heads are divided; devices along a sequence axis do the same work.

    Args:
      interpret: run as JAX operations, for tests where there is no TPU.
    """
    del others
    queries, keys = q_BLHK.shape[1], k_BMHK.shape[1]
    ids = _segments(mask, q_BLHK.shape[0], queries, keys)
    window = jnp.int32(0) if mask.window is None else mask.window

    def of_device(window, q_BLHK, k_BMHK, v_BMHK, *ids):
        heads_first = (jnp.swapaxes(x, 1, 2) for x in (q_BLHK * jnp.asarray(scale, q_BLHK.dtype), k_BMHK, v_BMHK))

        def by(band):
            kernel = _kernel(q_BLHK.shape[2], queries, keys, mask.causal, band, interpret)

            def of_row(q_HLK, k_HMK, v_HMK, *ids):
                return kernel(q_HLK, k_HMK, v_HMK, segment_ids=splash_attention_kernel.SegmentIds(*ids) if ids else None)

            return jax.vmap(of_row)

        operands = (*heads_first, *ids)
        out_BHLK = by(0)(*operands) if mask.window is None else jax.lax.cond(window <= mask.band, by(mask.band), by(0), *operands)
        return jnp.swapaxes(out_BHLK, 1, 2).astype(v_BMHK.dtype)

    if jax.sharding.get_abstract_mesh().size > 1 and nn.get_logical_axis_rules():
        # XLA cannot divide what it does not see into.
        spec = nn.logical_to_mesh_axes(('batch', None, 'heads', None))
        of_ids = (PartitionSpec(spec[0]),) * len(ids)
        of_device = jax.shard_map(of_device, in_specs=(PartitionSpec(), *(spec,) * 3, *of_ids), out_specs=spec, check_vma=False)
    out_BLHK = of_device(window, q_BLHK, k_BMHK, v_BMHK, *ids)
    allowed = mask.dense(queries, keys) if ids else None
    if allowed is None:
        return out_BLHK
    return jnp.where(allowed.any(axis=(1, 3))[:, :, None, None], out_BLHK, jnp.zeros((), out_BLHK.dtype))


def lacks(mask: Mask) -> str:
    """What of a mask it does not know, in words."""
    parts = {
        'a prefix that is seen from both sides': mask.prefix_BM is not None,
        'a window of any width': mask.window is not None and not mask.band,
        'a cache of keys': mask.first is not None,
        'keys in front of the row': bool(mask.before or mask.asking),
    }
    return ', '.join(text for text, found in parts.items() if found)


def _segments(mask: Mask, rows: int, queries: int, keys: int) -> tuple[jax.Array, ...]:
    """(ids of queries [B, L], ids of keys [B, M]): a query sees keys of its own id; () where nothing but `causal` hides keys."""
    if mask.packed_BL is None and mask.keys_BM is None:
        return ()
    if mask.packed_BL is None:
        of_queries, of_keys = jnp.ones((rows, queries), jnp.int32), jnp.ones((rows, keys), jnp.int32)
    else:
        of_queries = mask.packed_BL
        of_keys = of_queries if mask.packed_BM is None else mask.packed_BM
    return of_queries, of_keys if mask.keys_BM is None else jnp.where(mask.keys_BM, of_keys, 0)


@functools.lru_cache(maxsize=64)
def _blocks(queries: int, keys: int) -> splash_attention_kernel.BlockSizes:
    rows, columns = (next(size for size in TILES if length % size == 0) for length in (queries, keys))
    # One kernel for all gradients multiplies five matrices of a tile where two multiply seven, and keeps the queries' for each column of tiles until it adds
    # them up.
    joined = keys <= _MOST_COLUMNS * columns
    return splash_attention_kernel.BlockSizes(
        block_q=rows, block_kv=columns, block_kv_compute=columns, block_q_dkv=rows, block_kv_dkv=columns, block_kv_dkv_compute=columns,
        block_q_dq=None if joined else rows, block_kv_dq=None if joined else columns, use_fused_bwd_kernel=joined,
    )  # fmt: skip


def _kernel(heads: int, queries: int, keys: int, causal: bool, band: int, interpret: bool) -> splash_attention_kernel.SplashAttentionKernel:
    shape = (queries, keys)
    if band:
        one = splash_attention_mask.LocalMask(shape, (band - 1, 0 if causal else None), 0)
    else:
        one = (splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask)(shape)
    mask = splash_attention_mask.MultiHeadMask([one] * heads)
    # Recomputation that keeps products keeps what this gives, and its sums, instead of computing both again.
    sizes = _blocks(queries, keys)
    return splash_attention_kernel.make_splash_mha(
        mask, head_shards=1, q_seq_shards=1, block_sizes=sizes, residual_checkpoint_name=PRODUCT, interpret=interpret
    )
