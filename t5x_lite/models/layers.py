"""Products with weights, norms, embeddings, dropout: what every architecture is made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import contextvars
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
from flax import struct
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from t5x_lite.config import Activation, DropoutBits, Init, MeshConfig, ModelConfig, Norm

Axes = tuple[str | None, ...]  # logical ones
PRODUCT = 'product'  # what recomputation may keep (transformer.REMAT_POLICIES); the policies of JAX do not see into a function with gradients of its own

def _widened(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """In float32 where x is float16, which has no number for a cube of 41."""
    return function(x.astype(jnp.float32)).astype(x.dtype) if x.dtype == jnp.float16 else function(x)


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    Activation.gelu: lambda x: nn.gelu(x, approximate=False),
    Activation.gelu_tanh: lambda x: _widened(functools.partial(nn.gelu, approximate=True), x),
    Activation.relu: nn.relu,
}


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    return jnp.dtype(config.dtype.value)


def truncated_normal(stddev: float) -> Callable[..., jax.Array]:
    """Truncated at two standard deviations and not rescaled after, as the original BERT (tf.truncated_normal_initializer)."""
    return nn.initializers.truncated_normal(stddev=stddev, lower=-2.0, upper=2.0)


def initializer(config: ModelConfig, inputs: int, *, residual: bool = False, scale: float = 1.0) -> Callable[..., jax.Array]:
    """Of a product's weight, as config.init says.

    Args:
      inputs: how many numbers each output is a sum of; 1 for a table of embeddings.
      residual: its output is added to the residual stream.
      scale: of the variance, for fan_in (T5's queries: 1 / head size).
    """
    match config.init:
        case Init.truncated_normal:
            return truncated_normal(config.init_stddev)
        case Init.normal:
            return nn.initializers.normal(config.init_stddev)
        case Init.residual:
            # Two blocks of a layer write to the stream (GPT-2, section 2.3).
            return nn.initializers.normal(config.init_stddev / np.sqrt(2 * config.num_layers) if residual else config.init_stddev)
        case Init.fan_in:
            return nn.initializers.normal(np.sqrt(scale / inputs))


def head_size(config: ModelConfig) -> int:
    return config.head_size or config.d_model // config.num_heads


def sinusoidal(stddev: float) -> Callable[..., jax.Array]:
    """The sines and cosines of Vaswani et al. (2017, section 3.5) as an initialiser [positions, D], scaled to a root mean square of `stddev`."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        del key
        length, width = shape
        rates = 10_000.0 ** (-np.arange(0, width, 2) / width)
        angles = np.arange(length)[:, None] * rates
        table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)[:, :width]
        return jnp.asarray(table * stddev * np.sqrt(2), dtype)

    return init


def partitioned(module: nn.Module, name: str, init: Callable, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
    """A float32 parameter with its logical axis names beside it."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Pins the sharding of an activation, or of a weight at its use, by logical axes; nothing outside a mesh. A misspelt axis raises."""
    return nn.with_logical_constraint(x, axes, fallback=nn.spmd.RulesFallback.RAISE_ERROR)


def gathered(parameter: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """A weight at its use: whole along 'embed', which fully sharded training splits for storage only.

    Said outright, because XLA's partitioner, left to choose, splits the product instead and (jax 0.10 and 0.11, mesh data 2, fsdp 2, tensor 2) gets
    gradients wrong.
    """
    return constrain(parameter, tuple(None if axis == 'embed' else axis for axis in axes))


def like_trailing(parameter: jax.Array, x: jax.Array) -> jax.Array:
    """A parameter of the last axes, in the rank and dtype of x (rank promotion is an error in this house)."""
    return parameter.astype(x.dtype).reshape((1,) * (x.ndim - parameter.ndim) + parameter.shape)


def plus(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """x + parameter, of the last axes, in the dtype of x.

    The parameter is spread out before it is rounded to that dtype, so that its gradient, a sum over all rows, is summed in float32: 1,024 bf16 numbers that
    are added up in bf16 are wrong by a tenth of their spread, and XLA:CPU takes fifty times as long for it.
    """
    return x + jnp.broadcast_to(parameter.reshape((1,) * (x.ndim - parameter.ndim) + parameter.shape), x.shape).astype(x.dtype)


@jax.custom_vjp
def times(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """x * parameter, of the last axes, in the dtype of x; the parameter's gradient is summed in float32, as `plus` has it."""
    return x * like_trailing(parameter, x)


def _times_backward(residuals, gradient):
    # Not by spreading out: a loop over layers would keep the parameter as large as x.
    x, parameter = residuals
    of_parameter = jnp.sum(gradient.astype(jnp.float32) * x.astype(jnp.float32), axis=tuple(range(x.ndim - parameter.ndim)))
    return gradient * like_trailing(parameter, gradient), of_parameter.astype(parameter.dtype)


times.defvjp(lambda x, parameter: (times(x, parameter), (x, parameter)), _times_backward)


def product(equation: str, x: jax.Array, kernel: jax.Array, dtype: Any, axes: Axes | None = None) -> jax.Array:
    """The one product with a weight: operands in `dtype`, accumulated in float32, returned in `dtype`.

    The products of the backward pass do the same; the weight's gradient leaves them in float32. (Differentiated as it stands, an einsum accumulated in
    float32 would multiply float32 by `dtype` there, at the speed of float32.)

    Args:
      axes: logical axes of a weight as it is stored, which is made whole here along 'embed' (`gathered` says why): in `dtype`, half the bytes of float32, for
        each pass anew, so that no pass keeps it whole for another; its gradient is added up over devices straight into the parts that they store.
    """
    return checkpoint_name(placed_product(equation, x, kernel, dtype, Placing.of(axes, kernel.shape)), PRODUCT)


@dataclasses.dataclass(frozen=True)
class Placing:
    """Where a weight lies, found when the forward pass is traced: the backward pass is traced outside the rules. None: wherever it is."""

    used: PartitionSpec | None = None
    stored: PartitionSpec | None = None
    sums: Any = jnp.float32  # in which devices add up what each has a part of

    @classmethod
    def of(cls, axes: Axes | None, shape: tuple[int, ...]) -> 'Placing':
        mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
        if mesh.size <= 1 or not rules:
            return cls()
        if axes is None:
            return cls(sums=_SUMS.get())
        used = tuple(None if axis == 'embed' else axis for axis in axes)
        return cls(stored_spec(used, shape, rules, mesh.shape), stored_spec(axes, shape, rules, mesh.shape), _SUMS.get())

    @property
    def here(self) -> 'Placing':
        """Of a weight that is whole already."""
        return Placing(sums=self.sums)

    def weight(self, kernel: jax.Array, dtype: Any) -> jax.Array:
        kernel = kernel.astype(dtype)
        return kernel if self.used is None else jax.lax.with_sharding_constraint(kernel, self.used)

    def gradient(self, kernel: jax.Array) -> jax.Array:
        return kernel if self.stored is None else jax.lax.with_sharding_constraint(kernel, self.stored)


def stored_spec(axes: Axes, shape: tuple[int, ...], rules: Mapping[str, Any], mesh: Mapping[str, int]) -> PartitionSpec:
    """Where a parameter lies: logical axes by the rules, a mesh axis once.

    An axis whose size the mesh axis does not divide (two labels, say) stays whole.

    Args:
      mesh: sizes of its axes.
    """
    spec, taken = [], set()
    for axis, size in zip(axes, shape, strict=True):
        target = None if axis is None else rules[axis]
        over = _as_tuple(target)
        if not over or taken & set(over) or size % math.prod(mesh[name] for name in over):
            spec.append(None)
        else:
            taken |= set(over)
            spec.append(target)
    return PartitionSpec(*spec)


_SUMS: contextvars.ContextVar[Any] = contextvars.ContextVar('sums over devices', default=jnp.float32)


@contextlib.contextmanager
def placed_by(mesh: MeshConfig) -> Iterator[None]:
    """While a model is traced: logical axes are those of a mesh, and devices add up products in its `collective_dtype`."""
    token = _SUMS.set(jnp.dtype(mesh.collective_dtype.value))
    try:
        with nn.logical_axis_rules(mesh.rules):
            yield
    finally:
        _SUMS.reset(token)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def placed_product(equation: str, x: jax.Array, kernel: jax.Array, dtype: Any, placing: Placing) -> jax.Array:
    return _accumulated(equation, x, placing.weight(kernel, dtype), dtype, placing.sums).astype(dtype)


def _accumulated(equation: str, x: jax.Array, y: jax.Array, dtype: Any, sums: Any = jnp.float32) -> jax.Array:
    """Products are accumulated in float32 whatever `sums` is: devices and XLA round what each has made before they add it up."""
    return jnp.einsum(equation, x.astype(dtype), y.astype(dtype), preferred_element_type=sums)


def _product_forward(equation, x, kernel, dtype, placing):
    return placed_product(equation, x, kernel, dtype, placing), (x, kernel)


def _product_backward(equation, dtype, placing, residuals, gradient):
    x, kernel = residuals
    x_gradient, kernel_gradient = product_gradients(equation, x, kernel, gradient, dtype, placing)
    return x_gradient.astype(x.dtype), kernel_gradient.astype(kernel.dtype)


placed_product.defvjp(_product_forward, _product_backward)


def product_gradients(equation: str, x: jax.Array, kernel: jax.Array, gradient: jax.Array, dtype: Any, placing: Placing) -> tuple[jax.Array, jax.Array]:
    """Of x and of the kernel, as `placing.sums` has them."""
    inputs, out = equation.split('->')
    x_axes, kernel_axes = inputs.split(',')
    # Behind a barrier: the compiler would find that the forward pass made it whole already, and keep it.
    stored = kernel if placing.used == placing.stored else jax.lax.optimization_barrier(kernel)
    x_gradient = _accumulated(f'{out},{kernel_axes}->{x_axes}', gradient, placing.weight(stored, dtype), dtype, placing.sums)
    if x_axes[:-1] == out[:-1] and jax.sharding.get_abstract_mesh().size <= 1:
        return x_gradient, _kernel_gradient(x_axes[-1], out[-1], kernel_axes, x, gradient, dtype)
    return x_gradient, placing.gradient(_accumulated(f'{x_axes},{out}->{kernel_axes}', x, gradient, dtype, placing.sums))


def _kernel_gradient(x_axis: str, out_axis: str, kernel_axes: str, x: jax.Array, gradient: jax.Array, dtype: Any) -> jax.Array:
    """x^T gradient, in the form that XLA:CPU is fast at; the same numbers but for rounding.

    Over one axis it multiplies matrices as they lie. Over two it makes a transposed copy, in a loop that computes x anew (a GELU, say). In float32 that
    costs a fifth of a feed-forward's step and gains nothing; with fewer bits it is what the fast products ask for: twice the speed of a matrix as it lies,
    and more (tests/benchmarks/products.py). On a mesh, joined or divided axes could not stay sharded.
    """
    rows, several = x.size // x.shape[-1], sum(size > 1 for size in x.shape[:-1]) > 1
    if dtype == jnp.float32:
        shape = (rows,)
    else:
        shape = x.shape[:-1] if several or rows % 2 else (2, rows // 2)
    axes = 'jklmn'[: len(shape)]
    factors = {x_axis: x.reshape(*shape, x.shape[-1]), out_axis: gradient.reshape(*shape, gradient.shape[-1])}
    left, right = kernel_axes
    return _accumulated(f'{axes}{left},{axes}{right}->{kernel_axes}', factors[left], factors[right], dtype)


def added(module: nn.Module, name: str) -> jax.Array | None:
    """A parameter that was put beside the module's own (training/adapters.py); None where there is none."""
    return module.get_variable('params', name) if not module.is_initializing() and module.has_variable('params', name) else None


class Einsum(nn.Module):
    """A weight and the einsum that applies it: `Einsum((D, F), ('embed', 'mlp'), dtype, init)('BLD,DF->BLF', x_BLD)`.

    The bias, if any, is over the kernel's last axis, which must be the last of the result too.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: Any
    initializer: Callable[..., jax.Array]
    use_bias: bool = True

    @nn.compact
    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        kernel = partitioned(self, 'kernel', self.initializer, self.shape, self.axes)
        if (scale := added(self, 'scale_in')) is not None:
            x = times(x, scale)
        out = product(equation, x, kernel, self.dtype, self.axes)
        if (a := added(self, 'lora_a')) is not None:
            inputs, outputs = equation.split('->')
            x_axes, kernel_axes = inputs.split(',')
            low = product(f'{x_axes},{kernel_axes[0]}R->{x_axes[:-1]}R', x, a, self.dtype, (self.axes[0], None))
            low = low * added(self, 'lora_scale').astype(low.dtype)
            out += product(f'{x_axes[:-1]}R,R{kernel_axes[1]}->{outputs}', low, added(self, 'lora_b'), self.dtype, (None, self.axes[1]))
        if self.use_bias:
            out = plus(out, partitioned(self, 'bias', nn.initializers.zeros, self.shape[-1:], self.axes[-1:]))
        if (scale := added(self, 'scale_out')) is not None:
            out = times(out, scale)
        return out


class Embedding(nn.Module):
    """A table of rows; `attend` gives the logits of tied output embeddings. Rows stored beyond shape[0] (`stored_rows`) start at zero and stay there."""

    shape: tuple[int, int]
    axes: tuple[str, str]
    dtype: Any
    initializer: Callable[..., jax.Array]
    stored_rows: int = 0

    def setup(self):
        rows, width = self.shape
        stored = max(rows, self.stored_rows)

        def init(key, shape, dtype):
            return jnp.pad(self.initializer(key, self.shape, dtype), ((0, shape[0] - rows), (0, 0)))

        self.embedding = partitioned(self, 'embedding', init, (stored, width), self.axes)

    def __call__(self, ids_BL: jax.Array) -> jax.Array:
        rows_BLD = _rows(self.embedding, ids_BL, self.axes, self.dtype)
        return constrain(rows_BLD, ('batch', 'length', 'activation_embed'))

    def attend(self, x_BPD: jax.Array) -> jax.Array:
        """Logits [B, P, rows] in float32."""
        return product('BPD,VD->BPV', x_BPD, self.embedding, self.dtype, self.axes).astype(jnp.float32)

    def table(self) -> jax.Array:
        """All stored rows [V', D], where they lie."""
        return self.embedding


def _rows(table: jax.Array, ids_BL: jax.Array, axes: Axes, dtype: Any) -> jax.Array:
    """Rows of a table, in `dtype`; their gradients are added up in that of the table.

    Devices that each store a part of its columns look those up for all tokens that are theirs together, and then exchange what they found: as many rows as a
    device has tokens, where the whole table, and its gradient, would go to every device. A table with fewer rows than that is made whole.
    """
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
    if mesh.size <= 1 or not rules:
        return jnp.take(table, ids_BL, axis=0).astype(dtype)
    stored = stored_spec(axes, table.shape, rules, mesh.shape)
    columns = _as_tuple(stored[1])
    tokens = ids_BL.size // math.prod(mesh.shape[axis] for name in ('batch', 'length') for axis in _as_tuple(rules[name]))
    if table.shape[0] <= tokens:
        return jnp.take(gathered(table, axes), ids_BL, axis=0).astype(dtype)
    rows = tuple(axis for axis in _as_tuple(rules['batch']) if axis not in columns)
    ids_BL = jax.lax.with_sharding_constraint(ids_BL, PartitionSpec(rows, rules['length']))
    rows_BLD = jnp.take(jax.lax.with_sharding_constraint(table, stored), ids_BL, axis=0).astype(dtype)
    return jax.lax.with_sharding_constraint(rows_BLD, PartitionSpec(rows, rules['length'], columns))


def _as_tuple(target: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return target if isinstance(target, tuple) else () if target is None else (target,)


class LayerNorm(nn.Module):
    """Ba et al. (2016): statistics in float32 and in two passes, since E[x^2] - E[x]^2 loses precision for offset inputs."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        width = x_BLD.shape[-1:]
        scale = partitioned(self, 'scale', nn.initializers.ones, width, ('norm',))
        bias = partitioned(self, 'bias', nn.initializers.zeros, width, ('norm',))
        x = x_BLD.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.eps)
        return (normed * like_trailing(scale, normed) + like_trailing(bias, normed)).astype(self.dtype)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a scale, in float32 (Zhang & Sennrich, 2019; T5's layer norm)."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        scale = partitioned(self, 'scale', nn.initializers.ones, x_BLD.shape[-1:], ('norm',))
        x = x_BLD.astype(jnp.float32)
        normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return (normed * like_trailing(scale, normed)).astype(self.dtype)


NORMS = {Norm.layer: LayerNorm, Norm.rms: RmsNorm}


def make_norm(config: ModelConfig, name: str | None = None) -> nn.Module:
    return NORMS[config.norm](config.norm_eps, compute_dtype(config), name=name)


@struct.dataclass
class DropoutKey:
    """Says which elements drop out as a pure function of (seed of the step, layer, site, row of the global batch, position in the row).

    A counter-based hash, computed where the element lives: the same on any mesh, for any number of microbatches, scanned or unrolled.
    """

    seed: jax.Array  # uint32 []
    rows: jax.Array  # uint32 [B], positions in the global batch
    bits: DropoutBits = struct.field(pytree_node=False, default=DropoutBits.hash)

    @classmethod
    def create(cls, seed: int | jax.Array, step: jax.Array, rows: jax.Array, bits: DropoutBits = DropoutBits.hash) -> 'DropoutKey':
        seed = jnp.uint32(seed & 0xFFFFFFFF) if isinstance(seed, int) else seed  # uint32 []
        return cls(_mix(_mix(seed) ^ step.astype(jnp.uint32)), rows.astype(jnp.uint32), bits)

    def fold(self, number: int | jax.Array) -> 'DropoutKey':
        """The key of a layer, or of a site in a layer."""
        return self.replace(seed=_mix(self.seed + jnp.uint32(0x9E3779B9) * (jnp.asarray(number, jnp.uint32) + jnp.uint32(1))))


def _mix(x: jax.Array) -> jax.Array:
    """An integer hash of 32 bits with low bias (multipliers found by Chris Wellons' hash-prospector search)."""
    x = x ^ (x >> jnp.uint32(16))
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> jnp.uint32(15))
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))


def dropout(x: jax.Array, rate: float, key: DropoutKey | None, site: int) -> jax.Array:
    """Zeroes a share `rate` of x [B, ...] and scales the rest by 1 / (1 - rate); x itself where key is None.

    `site` tells apart the places of one layer.
    """
    if key is None or rate == 0.0:
        return x
    keep = kept(rate, key, site, x.shape[1:], [jax.lax.broadcasted_iota(jnp.uint32, _along(x, axis), axis) for axis in range(1, x.ndim)])
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def kept(rate: float, key: DropoutKey, site: int, sizes: Sequence[int], places: Sequence[jax.Array]) -> jax.Array:
    """bool: which elements of an array [B, *sizes] `dropout` keeps; of a part of it, where `places` are those of a part.

    Args:
      places: uint32, of each axis of `sizes` the places that are asked for, along its own axis of the result.
    """
    return random_bits(key, site, sizes, places) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def random_bits(key: DropoutKey, site: int, sizes: Sequence[int], places: Sequence[jax.Array]) -> jax.Array:
    """uint32: what `kept` compares with the rate."""
    key = key.fold(site)
    expand = (slice(None),) + (None,) * len(sizes)
    counter = jnp.zeros((1,) * (len(sizes) + 1), jnp.uint32)
    for size, place in zip(sizes, places, strict=True):
        counter = counter * jnp.uint32(size) + place
    if key.bits is DropoutBits.threefry:
        return _threefry(key.seed, key.rows[expand], counter)
    # Two keyed rounds: with one, the streams of two rows would be permutations of each other.
    row_key = _mix(key.seed ^ _mix(key.rows))
    return _mix(_mix(counter ^ row_key[expand]) + _mix(row_key + jnp.uint32(0x85EBCA6B))[expand])


def _threefry(first: jax.Array, second: jax.Array, counter: jax.Array) -> jax.Array:
    """Threefry-2x32 with 20 rounds (Salmon et al., 2011, table 1 and section 3.3) of the counter (counter, 0): the first of its two words."""
    keys = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    x, y = counter + first, second
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = ((y << jnp.uint32(bits)) | (y >> jnp.uint32(32 - bits))) ^ x
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x


def _along(x: jax.Array, axis: int) -> tuple[int, ...]:
    return tuple(size if i == axis else 1 for i, size in enumerate(x.shape))


def padded_vocabulary(config: ModelConfig) -> int:
    """Rows stored for the vocabulary: `vocab_size` rounded up so that a mesh divides it."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


def hide_padded(logits: jax.Array, vocab_size: int) -> jax.Array:
    """Logits [..., V'] with the columns that pad the vocabulary at -1e9, so that they take no probability."""
    if logits.shape[-1] == vocab_size:
        return logits
    column = jax.lax.broadcasted_iota(jnp.int32, (1,) * (logits.ndim - 1) + logits.shape[-1:], logits.ndim - 1)
    return jnp.where(column < vocab_size, logits, jnp.asarray(-1e9, logits.dtype))
