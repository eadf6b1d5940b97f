"""Weights made whole one layer ahead.

Fully sharded training stores a part of each weight on each device, and makes a layer's weights whole where they are used: the first product of a layer
waits for its own. Here a loop over layers carries the weights of the layer whose turn it is, whole, and makes those of the next one whole meanwhile: nothing
that a layer computes waits for them, so that a compiler can send them beside any of it. What was made whole is kept for the backward pass, which gathers
nothing (Rajbhandari et al., 2020: their second stage where weights are concerned, their third in what is stored; `reshard_after_forward=False` of PyTorch's
fully_shard).

The numbers are those of products that gather their own, and gradients take the same way, to the weights as they are stored.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp

from t5x_lite.models.placing import Axes, Placing

_COLLECTION = 'whole'  # of variables, beside 'params' and with the same names
Kernels = Mapping[tuple[str, ...], Axes]


def whole(module: nn.Module) -> jax.Array | None:
    """The kernel of a module as a loop carries it; None where none does."""
    return module.get_variable(_COLLECTION, 'kernel') if module.has_variable(_COLLECTION, 'kernel') else None


def divided(boxed: Mapping[str, Any]) -> Kernels:
    """{path: logical axes} of the kernels that are stored in parts, of a layer's parameters with their axes beside them."""
    axes = {path: tuple(spec) for path, spec in flatten_dict(nn.get_partition_spec(boxed)).items() if path[-1] == 'kernel'}
    return {path: names for path, names in axes.items() if 'embed' in names}


def looped(apply: Callable[..., jax.Array], params: Mapping[str, Any], kernels: Kernels, dtype: Any, x: jax.Array, numbers_N: jax.Array) -> jax.Array:
    """x through layers.

    Args:
      apply: (variables of a layer, x, its number) -> x.
      params: of all layers, stacked [N, ...].
      kernels: those that are made whole ahead.
      dtype: that they are multiplied in.
    """
    count, stacks = len(numbers_N), flatten_dict(params)

    def made_whole(layer: int | jax.Array) -> dict[str, Any]:
        def one(stack: jax.Array, axes: Axes) -> jax.Array:
            kernel = jax.lax.dynamic_index_in_dim(jax.lax.stop_gradient(stack), layer, keepdims=False)
            return Placing.of(axes, kernel.shape).weight(kernel, dtype)

        return unflatten_dict({path: one(stacks[path], axes) for path, axes in kernels.items()})

    def step(carry, given):
        (x, here), (layer, number, following) = carry, given
        ahead = made_whole(following)
        return (apply({'params': layer, _COLLECTION: here}, x, number), ahead), None

    following_N = jnp.minimum(jnp.arange(1, count + 1), count - 1)  # the last turn makes its own anew, which nothing reads
    return jax.lax.scan(step, (x, made_whole(0)), (params, numbers_N, following_N))[0][0]
