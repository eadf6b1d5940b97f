"""Weights with their products, embeddings, norms, activations: what every architecture is made of."""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Activation, Init, ModelConfig, Norm
from t5x_lite.models import gathering
from t5x_lite.models.placing import constrain
from t5x_lite.models.products import product, rows_of, turned_product


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
    def __call__(self, equation: str, x: jax.Array, whole: jax.Array | None = None) -> jax.Array:
        """`whole`: as `product` has it, where a loop over layers does not carry it."""
        turned = added(self, 'turned')  # instead of the kernel, for predictions (inference.to_read)
        kernel = partitioned(self, 'kernel', self.initializer, self.shape, self.axes) if turned is None else None
        if (scale := added(self, 'scale_in')) is not None:
            x = times(x, scale)
        if turned is None:
            out = product(equation, x, kernel, self.dtype, self.axes, gathering.whole(self) if whole is None else whole)
        else:
            out = turned_product(x, turned)
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
        rows_BLD = rows_of(self.embedding, ids_BL, self.axes, self.dtype)
        return constrain(rows_BLD, ('batch', 'length', 'activation_embed'))

    def attend(self, x_BPD: jax.Array, whole: jax.Array | None = None) -> jax.Array:
        """Logits [B, P, rows] in float32. `whole`: the table, as `product` has it."""
        if (turned := added(self, 'turned')) is not None:
            return turned_product(x_BPD, turned)
        return product('BPD,VD->BPV', x_BPD, self.embedding, self.dtype, self.axes, whole).astype(jnp.float32)

    def table(self) -> jax.Array:
        """All stored rows [V', D], where they lie."""
        return self.embedding


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


def padded_vocabulary(config: ModelConfig) -> int:
    """Rows stored for the vocabulary: `vocab_size` rounded up so that a mesh divides it."""
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


def hide_padded(logits: jax.Array, vocab_size: int) -> jax.Array:
    """Logits [..., V'] with the columns that pad the vocabulary at -1e9, so that they take no probability."""
    if logits.shape[-1] == vocab_size:
        return logits
    column = jax.lax.broadcasted_iota(jnp.int32, (1,) * (logits.ndim - 1) + logits.shape[-1:], logits.ndim - 1)
    return jnp.where(column < vocab_size, logits, jnp.asarray(-1e9, logits.dtype))
