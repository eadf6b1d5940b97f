"""The implementations of attention, what each can do, and which of them `auto` picks."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
from contextvars import ContextVar
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.config import AttentionKernel, ModelConfig, SequenceAttention
from t5x_lite.errors import UserError
from t5x_lite.models import ring_attention, splash_attention
from t5x_lite.models.blockwise_attention import blockwise_attention
from t5x_lite.models.dropout import DropoutKey, dropout
from t5x_lite.models.layers import compute_dtype, head_size
from t5x_lite.models.mask import Mask
from t5x_lite.models.placing import SEQUENCE_ATTENTION
from t5x_lite.models.positions import DistanceBias

# Bytes of a layer's scores on a device up to which `auto` is dense. On a CPU, scores that leave its caches cost more than tiles do, the more the longer
# rows are (tests/benchmarks/EVIDENCE.md, python -m tests.benchmarks.attention). Elsewhere, where a loop of small tiles leaves much of a device idle, it is
# memory alone that decides.
MOST_ON_CPU, MOST_ELSEWHERE = 32 * 2**20, 2**30


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
        scores = scores + bias.dense(mask, len(scores), *scores.shape[2:]).astype(jnp.float32)
    allowed = mask.dense(*scores.shape[2:])
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1)
    if allowed is not None:
        weights = jnp.where(allowed.any(axis=-1, keepdims=True), weights, jnp.float32(0))
    weights = dropout(weights, dropout_rate, key, site).astype(v_BMHK.dtype)
    return jnp.einsum('BHLM,BMHK->BLHK', weights, v_BMHK, preferred_element_type=jnp.float32).astype(v_BMHK.dtype)


def step_attention(
    q_BHK: jax.Array,
    k_BHMK: jax.Array,
    v_BHMK: jax.Array,
    mask: Mask,
    *,
    scale: float,
    bias: DistanceBias | None = None,
    new: tuple[jax.Array, jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """`dense_attention` of a single query for each row and head, as steps of decoding have it: products of matrices and vectors. Returns [B, H, K].

    Args:
      new: key [B, H, K], value [B, H, K] and place (int32 []) of what the query's own token adds. The arrays have zeros there, and are read as they were
        before, so that who puts it there may do so in place, and after.
    """
    scores_BHM = _for_each('BHMK,BHK->BHM', k_BHMK, q_BHK)
    if new is not None:
        key_BHK, value_BHK, place = new
        own_BH = jnp.sum(q_BHK.astype(jnp.float32) * key_BHK.astype(jnp.float32), axis=-1)
        scores_BHM = jax.lax.dynamic_update_slice(scores_BHM, own_BH[:, :, None], (0, 0, place))
    scores_BHM = scores_BHM * jnp.float32(scale)
    if bias is not None:
        scores_BHM = scores_BHM + bias.dense(mask, len(scores_BHM), 1, k_BHMK.shape[2])[:, :, 0].astype(jnp.float32)
    allowed = mask.dense(1, k_BHMK.shape[2])
    if allowed is not None:
        scores_BHM = jnp.where(allowed[:, :, 0], scores_BHM, jnp.float32(-1e30))
    weights_BHM = jax.nn.softmax(scores_BHM, axis=-1)
    if allowed is not None:
        weights_BHM = jnp.where(allowed[:, :, 0].any(axis=-1, keepdims=True), weights_BHM, jnp.float32(0))
    weights_BHM = weights_BHM.astype(v_BHMK.dtype)
    out_BHK = _for_each('BHMK,BHM->BHK', v_BHMK, weights_BHM)
    if new is not None:
        own_BH1 = jax.lax.dynamic_slice_in_dim(weights_BHM, place, 1, axis=2)
        out_BHK = out_BHK + own_BH1.astype(jnp.float32) * value_BHK.astype(jnp.float32)
    return out_BHK.astype(v_BHMK.dtype)


def _for_each(equation: str, x_BHMK: jax.Array, y_BHX: jax.Array) -> jax.Array:
    """A matrix times a vector for each row and head, in float32."""
    over_keys = equation.endswith('BHK')
    if x_BHMK.dtype != jnp.float32 and x_BHMK.shape[0] > 1 and jax.default_backend() == 'cpu':
        # XLA:CPU multiplies many small matrices of 16-bit numbers one number after the other; products that are added up are six times faster.
        y = y_BHX[:, :, :, None] if over_keys else y_BHX[:, :, None]
        return jnp.sum(x_BHMK.astype(jnp.float32) * y.astype(jnp.float32), axis=2 if over_keys else 3)
    # Told outright: an einsum puts its operands the other way round, for which XLA:CPU copies all keys and values.
    first, second, axes = (y_BHX, x_BHMK, ((2,), (2,))) if over_keys else (x_BHMK, y_BHX, ((3,), (2,)))
    return jax.lax.dot_general(first, second, (axes, ((0, 1), (0, 1))), preferred_element_type=jnp.float32)


def cudnn_attention(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask, *, scale: float, **others) -> jax.Array:
    """As `dense_attention` without bias and dropout, by cuDNN's kernel, which keeps no scores. It takes masks as a bias of [B, 1, L, M]."""
    del others  # what it lacks is not asked of it
    allowed = mask.dense(q_BLHK.shape[1], k_BMHK.shape[1])
    out_BLHK = jax.nn.dot_product_attention(q_BLHK, k_BMHK, v_BMHK, mask=allowed, scale=scale, implementation='cudnn')
    if allowed is None:
        return out_BLHK
    some_BL = allowed.any(axis=(1, 3))
    return jnp.where(some_BL[:, :, None, None], out_BLHK, jnp.zeros((), out_BLHK.dtype))


_NO_RING = 'config.mesh.sequence_attention=ring puts together what parts of a row give, by their sums of exponentials, and it does not tell them'


def _cudnn_lacks(asked: 'Asked') -> str:
    """By jax.nn.dot_product_attention and the support matrix of cuDNN's flash attention."""
    lacks = {
        f'cuDNN is for NVIDIA GPUs, and this is {asked.platform}': asked.platform != 'cuda',
        f'it multiplies bfloat16 and float16, not {asked.dtype}': asked.dtype not in ('bfloat16', 'float16'),
        'it has no gradient for a bias of relative positions in memory that grows with the length': asked.bias,
        'its dropout is not ours': asked.dropout,
        _NO_RING: asked.ring > 1,
        f'heads of {asked.size}, not a multiple of 8 up to 128': asked.size % 8 > 0 or asked.size > 128,
        f'{asked.queries} queries and {asked.keys} keys, not multiples of 64': asked.queries % 64 > 0 or asked.keys % 64 > 0,
        f'a mask of {asked.rows} x {asked.queries} x {asked.keys}': 2 * asked.rows * asked.queries * asked.keys > MOST_ELSEWHERE,
    }
    return '; '.join(text for text, found in lacks.items() if found)


def _splash_lacks(asked: 'Asked') -> str:
    lacks = {
        f'splash attention is for TPUs, and this is {asked.platform}': asked.platform != 'tpu',
        'it has no bias of relative positions': asked.bias,
        'it has no dropout': asked.dropout,
        _NO_RING: asked.ring > 1,
        f'it knows padding, packing, causality and bands, and not {asked.mask}': bool(asked.mask),
        f'{asked.queries} queries and {asked.keys} keys, not multiples of {min(splash_attention.TILES)}': any(
            length % min(splash_attention.TILES) for length in (asked.queries, asked.keys)
        ),
    }
    return '; '.join(text for text, found in lacks.items() if found)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of attention, on one device at a time: [rows, queries or keys, heads, size], and what comes with it.

    Attributes:
      platform: 'cpu', 'tpu', 'cuda', 'rocm' or another.
      dtype: of queries, keys and values, by name.
      bias: of relative positions.
      dropout: of weights.
      mask: what it has beside padding, packing, causality and bands, in words.
      cached: keys and values are a decoding pass's.
      ring: over so many devices a row is divided, with keys and values that go round; queries and keys are a part of it.
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
    mask: str = ''
    cached: bool = False
    ring: int = 1

    @property
    def score_bytes(self) -> int:
        """Of a layer's scores, in float32."""
        return 4 * self.rows * self.heads * self.queries * self.keys


def platform() -> str:
    """Of the devices that are used; what jax calls 'gpu' is of one of two makers. A mesh may be of devices that are not there (t5x_lite/planning)."""
    described = jax.sharding.get_abstract_mesh().abstract_device
    found = described.platform if described is not None else jax.default_backend()
    if found != 'gpu':
        return found
    return 'rocm' if 'rocm' in jax.devices()[0].client.platform_version.lower() else 'cuda'


def asked_of(
    config: ModelConfig, mesh: Mapping[str, int], rows: int, queries: int, keys: int, *, bias: bool, dropout: bool, mask: str = '', cached: bool = False,
    ring: int = 1,
) -> Asked:
    """Of a call with so many rows over all devices; `mesh` has the sizes of its axes, {} for one device."""
    shards, tensor = (mesh['data'] * mesh['fsdp'], mesh['tensor']) if mesh else (1, 1)
    return Asked(
        platform(), -(-rows // shards), queries // ring, keys // ring, -(-config.num_heads // tensor), head_size(config), compute_dtype(config).name, bias,
        dropout and config.attention_dropout > 0, mask, cached, ring,
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
    AttentionKernel.cudnn: Kernel(cudnn_attention, _cudnn_lacks),
    AttentionKernel.splash: Kernel(splash_attention.splash_attention, _splash_lacks),
}

# What `auto` takes before others, where it lacks nothing: kernels of a device's maker.
FASTEST = (AttentionKernel.cudnn, AttentionKernel.splash)


def choose(kernel: AttentionKernel, asked: Asked) -> tuple[AttentionKernel, str]:
    """(the implementation of a call, why).

    Raises:
      UserError: the config names one that cannot do what is asked.
    """
    # A kernel of a device's maker is for whole rows: what was trained with one decodes as `auto` does.
    if kernel != AttentionKernel.auto and not (asked.cached and kernel in FASTEST):
        if lacks := KERNELS[kernel].lacks(asked):
            raise UserError(f'config.model.attention={kernel.name} cannot be used here: {lacks}; take --config.model.attention=auto')
        return kernel, 'as config.model.attention says'
    for fast in FASTEST:
        if not KERNELS[fast].lacks(asked):
            return fast, 'it can do all that is asked'
    size = f'the scores of a layer take {asked.score_bytes / 2**20:,.1f} MiB on a device'
    most = MOST_ON_CPU if asked.platform == 'cpu' else MOST_ELSEWHERE
    if asked.score_bytes <= most:
        return AttentionKernel.dense, size
    return AttentionKernel.blockwise, f'{size}, more than {most / 2**20:,.0f}'


_tell: ContextVar[Callable[['Picked'], None] | None] = ContextVar('_tell', default=None)


@contextlib.contextmanager
def telling(tell: Callable[[str], None], told: dict[Any, str] | None = None) -> Iterator[None]:
    """Within it, what `auto` picks while a step is traced, and where there is no ring though one is asked for, is told: a line for the first call of each
    implementation and reason.

    Args:
      told: what was told before, to which is added.
    """
    told = {} if told is None else told

    def once(found: 'Picked') -> None:
        if (kind := (found.kernel, found.ring, found.no_ring)) not in told:
            told[kind] = found.said
            tell(found.said)

    token = _tell.set(once)
    try:
        yield
    finally:
        _tell.reset(token)


class Picked(NamedTuple):
    """Attributes:
    ring: of so many devices; 1: none.
    no_ring: why, where one is asked for.
    said: what there is to say of it, a line.
    """

    kernel: AttentionKernel
    ring: int
    no_ring: str
    said: str

    @property
    def holds_scores(self) -> bool:
        """Of all queries and keys of a row."""
        return self.kernel is AttentionKernel.dense and self.ring == 1


def picked(config: ModelConfig, rows: int, queries: int, keys: int, *, cached: bool, in_front: bool = False, **given: Any) -> Picked:
    """The implementation of a call on the mesh that is set.

    Args:
      in_front: keys stand before the row's.
      given: the rest, as `asked_of` has it.
    """
    mesh = jax.sharding.get_abstract_mesh().shape
    ring, no_ring = _ring(mesh, rows, queries, keys, cached, in_front)
    asked = asked_of(config, mesh, rows, queries, keys, cached=cached, ring=ring, **given)
    kernel, why = choose(config.attention, asked)
    said = f'attention: {kernel.name} on {asked.platform} for {asked.rows:,} x {asked.queries:,} queries and {asked.keys:,} keys a device ({why})'
    if ring > 1:
        said += f', in a ring of {ring}'
    return Picked(kernel, ring, no_ring, f'{said}; no ring: {no_ring}' if no_ring else said)


def _ring(mesh: Mapping[str, int], rows: int, queries: int, keys: int, cached: bool, in_front: bool) -> tuple[int, str]:
    """(of how many devices, why it is none where one is asked for)."""
    if SEQUENCE_ATTENTION.get() is not SequenceAttention.ring:
        return 1, ''
    count = ring_attention.devices()
    lacks = {
        'config.mesh.sequence=1 divides no row': count == 1,
        'each device has all of a cache': cached,
        'keys stand in front of the row': in_front,
        f'{count} devices do not divide {queries:,} queries and {keys:,} keys': queries % count > 0 or keys % count > 0,
        f'the mesh does not divide {rows:,} rows': bool(mesh) and rows % (mesh['data'] * mesh['fsdp']) > 0,
    }
    why_not = next((text for text, found in lacks.items() if found), '')
    return 1 if why_not else count, why_not


def attend(config: ModelConfig, q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: Mask, *, key: DropoutKey | None, **given) -> jax.Array:
    """`dense_attention`, by the implementation that the config names or that is picked for this call."""
    rows, queries, keys = q_BLHK.shape[0], q_BLHK.shape[1], k_BMHK.shape[1]
    found = picked(
        config, rows, queries, keys, bias=given['bias'] is not None, dropout=key is not None, mask=splash_attention.lacks(mask), cached=mask.first is not None,
        in_front=bool(mask.before or mask.asking),
    )  # fmt: skip
    asked_for = config.attention is AttentionKernel.auto or SEQUENCE_ATTENTION.get() is SequenceAttention.ring
    if asked_for and (tell := _tell.get()):
        tell(found)
    given |= {'dropout_rate': config.attention_dropout, 'key': key}
    if found.ring > 1:
        return ring_attention.ring_attention(q_BLHK, k_BMHK, v_BMHK, mask, whole=found.kernel is AttentionKernel.dense, **given)
    return KERNELS[found.kernel].attend(q_BLHK, k_BMHK, v_BMHK, mask, **given)
