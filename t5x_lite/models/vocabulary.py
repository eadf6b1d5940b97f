"""What a loss sums over the logits of a language model, in chunks of positions, so that all logits [B, L, V'] never stand in memory.

With logits z = x W + b of a position and its targets, a loss is a sum over positions of some function f(z) (cross-entropy, z-loss, label smoothing), and its
gradients are sums too: dW = sum of x^T f'(z), db = sum of f'(z), and dx = f'(z) W^T for each position alone. So a loop over chunks of positions makes the
logits of a chunk, adds what it contributes to the loss and to dW and db, writes its rows of dx, and forgets them. The gradients are made in the forward
pass, while the logits are there, and the backward pass only multiplies them by the gradient of the sum, a scalar: the products are those of the
whole, and no logit is computed twice (as Hsu et al., 2024, "Liger Kernel", do for cross-entropy).

GPT-2 (V' = 50,304) and 64 x 1024 tokens: 13.2 GB of logits, and as much for their gradient, become twice `config.model.logits_megabytes` at most. Smaller
chunks read and write dW more often; on a CPU, chunks of 50 to 100 MB take less time than the whole.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite.config import ModelConfig
from t5x_lite.models.gathering import Copies, copied
from t5x_lite.models.layers import compute_dtype, hide_padded, like_trailing
from t5x_lite.models.placing import Placing
from t5x_lite.models.products import placed_product, product_gradients

# (logits float32 [N, V'], targets [N], weights [N]) -> (what is minimised, metrics): sums over the N positions.
Sums = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
Axes = tuple[str, ...]


@struct.dataclass
class OutputLayer:
    """The product that makes logits, not yet applied to its states."""

    x_BLD: jax.Array
    table: jax.Array  # [V', D], tied embeddings, or [D, V'], as it is stored
    copies: jax.Array | None  # of it [copies, ...], where devices send its parts point to point: what learns in its place
    bias_V: jax.Array | None
    table_axes: str = struct.field(pytree_node=False)  # 'VD' or 'DV'
    dtype: Any = struct.field(pytree_node=False)
    vocab_size: int = struct.field(pytree_node=False)  # columns beyond pad the vocabulary
    chunks: int = struct.field(pytree_node=False)
    placing: Placing = struct.field(pytree_node=False)  # of the table, which is made whole once for all chunks
    batch: Axes = struct.field(pytree_node=False)  # mesh axes over which rows, positions and vocabulary lie
    length: Axes = struct.field(pytree_node=False)
    vocab: Axes = struct.field(pytree_node=False)

    def sums(self, function: Sums, targets_BL: jax.Array, weights_BL: jax.Array) -> tuple[jax.Array, Any]:
        """`function` summed over all positions. Gradients flow from the first of its results to the states, the table and the bias, and nowhere else."""
        total, metrics = _summed(function, self, targets_BL, weights_BL)
        return total, jax.lax.stop_gradient(metrics)


def output_layer(
    config: ModelConfig, x_BLD: jax.Array, table: jax.Array, table_axes: str, bias_V: jax.Array | None = None, copies: jax.Array | None = None
) -> dict[str, OutputLayer]:
    """{'output_layer': ...}, or {} where a device's part of the logits is at most config.model.logits_megabytes, or that is 0.

    `copies` of the table, if something has made them already (gathering.py). A module returns it beside its logits; what a loss then does not read of them, XLA
    does not compute.
    """
    if not config.logits_megabytes:
        return {}
    rows, positions, _ = x_BLD.shape
    vocabulary = table.shape[table_axes.index('V')]
    batch, length, vocab = (_dividing(name, size) for name, size in (('batch', rows), ('length', positions), ('vocab', vocabulary)))
    own = positions // _parts(length)  # of a row, on a device
    held = own * (rows // _parts(batch)) * (vocabulary // _parts(vocab)) * 4
    wanted = min(own, math.ceil(held / (config.logits_megabytes * 2**20)))
    chunks = next(count for count in range(max(wanted, 1), own + 1) if own % count == 0)
    if chunks == 1:
        return {}
    axes, dtype = tuple({'V': 'vocab', 'D': 'embed'}[axis] for axis in table_axes), compute_dtype(config)
    if copies is None and _parts(length) == 1 and (way := Copies.of(axes, table.shape, dtype, rows)) is not None:
        copies = copied(table, way)
    placing = Placing.of(axes, table.shape)
    return {'output_layer': OutputLayer(x_BLD, table, copies, bias_V, table_axes, dtype, config.vocab_size, chunks, placing, batch, length, vocab)}


def _dividing(name: str, size: int) -> Axes:
    """The mesh axes of a logical axis, if they divide it."""
    target = nn.logical_to_mesh_axes((name,))
    target = target[0] if target else None
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in (target if isinstance(target, tuple) else (target,)) if axis in mesh.shape)
    return axes if size % _parts(axes) == 0 else ()


def _parts(axes: Axes) -> int:
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)


def _pinned(x: jax.Array, *axes: Axes) -> jax.Array:
    """Pins the leading axes of x to mesh axes, () to none; the rest stays whole."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(axis or None for axis in axes)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(function: Sums, layer: OutputLayer, targets_BL: jax.Array, weights_BL: jax.Array) -> tuple[jax.Array, Any]:
    table = layer.placing.weight(layer.table, layer.dtype)

    def of_chunk(x_ND, targets_N, weights_N):
        return function(_finished(layer, _product(layer, x_ND, table), layer.bias_V), targets_N, weights_N)

    def add(sums, number):
        return _added(sums, jax.vmap(of_chunk)(*_chunks_of(layer, number, *given))), None

    given = [_split(layer, x) for x in (layer.x_BLD, targets_BL, weights_BL)]
    sums, _ = jax.lax.scan(add, _zeros(jax.vmap(of_chunk), layer, given), jnp.arange(layer.chunks))
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), sums)


def _forward(function, layer, targets_BL, weights_BL):
    # A copy for each part of the batch, or one for all.
    whole = layer.placing.weight(layer.table, layer.dtype) if layer.copies is None else layer.copies

    def of_chunk(whole, x_ND, targets_N, weights_N):
        def total(product_NV, bias_V):
            return function(_finished(layer, product_NV, bias_V), targets_N, weights_N)

        sums, (gradient_NV, bias_V) = jax.value_and_grad(total, (0, 1), has_aux=True)(_product(layer, x_ND, whole), layer.bias_V)
        x_gradient, table = product_gradients(_equation(layer), x_ND, whole, gradient_NV, layer.dtype, layer.placing.here)
        return (sums, [table.astype(jnp.float32), bias_V]), x_gradient.astype(x_ND.dtype)

    def add(carry, number):
        kept, x = carry
        found, x_gradient = every(whole, *_chunks_of(layer, number, x, *given))
        sums, (table, bias_V) = _added(kept, found)
        return ((sums, [_pinned(table, *table_axes), bias_V]), _written(layer, x, number, x_gradient)), None

    every = jax.vmap(of_chunk, (None if layer.copies is None else 0, 0, 0, 0))
    # Each device adds up what its own positions give to the gradients, and the devices' are added once, after the loop.
    rows = (*layer.batch, *layer.length)
    table_axes = (rows, layer.vocab, ()) if layer.table_axes == 'VD' else (rows, (), layer.vocab)
    x, *given = (_split(layer, x) for x in (layer.x_BLD, targets_BL, weights_BL))
    kept = _zeros(lambda *chunks: every(whole, *chunks)[0], layer, [x, *given])
    # The gradients of the states take the place of the states, which nothing else needs in a step.
    (kept, x), _ = jax.lax.scan(add, (kept, x), jnp.arange(layer.chunks))
    sums, (table, bias_V) = kept
    sums, bias_V = jax.tree.map(lambda part: jnp.sum(part, axis=0), (sums, bias_V))
    found = {'copies': table.astype(layer.copies.dtype), 'table': None} if layer.copies is not None else {
        'table': layer.placing.gradient(jnp.sum(table.astype(layer.placing.sums), axis=0)).astype(layer.table.dtype)
    }  # fmt: skip
    return sums, layer.replace(x_BLD=x.reshape(layer.x_BLD.shape), bias_V=bias_V, **found)


def _backward(function, gradients, cotangents):
    del function
    scale = cotangents[0]
    return jax.tree.map(lambda gradient: (gradient.astype(jnp.float32) * scale).astype(gradient.dtype), gradients), None, None


_summed.defvjp(_forward, _backward)


def _equation(layer: OutputLayer) -> str:
    return f'ND,{layer.table_axes}->NV'


def _product(layer: OutputLayer, x_ND: jax.Array, table: jax.Array) -> jax.Array:
    return placed_product(_equation(layer), x_ND, table, layer.dtype, layer.placing.here)


def _finished(layer: OutputLayer, product_NV: jax.Array, bias_V: jax.Array | None) -> jax.Array:
    logits_NV = product_NV.astype(jnp.float32)
    if bias_V is not None:
        logits_NV = logits_NV + like_trailing(bias_V, logits_NV)
    return hide_padded(logits_NV, layer.vocab_size)


def _split(layer: OutputLayer, x: jax.Array) -> jax.Array:
    """[B, L, ...] -> [parts of rows, rows, parts of positions, positions, chunks, ...].

    Position p of a part goes to chunk p % chunks, so that each chunk has some of every device's.
    """
    (rows, positions), (of_rows, of_positions) = x.shape[:2], (_parts(layer.batch), _parts(layer.length))
    shape = (of_rows, rows // of_rows, of_positions, positions // of_positions // layer.chunks, layer.chunks)
    return _pinned(x.reshape(shape + x.shape[2:]), layer.batch, (), layer.length)


def _chunks_of(layer: OutputLayer, number: jax.Array, *split: jax.Array) -> list[jax.Array]:
    """[parts, N, ...] of each array that `_split` made: the positions of chunk `number`, by the device that has them."""

    def one(x: jax.Array) -> jax.Array:
        taken = jax.lax.dynamic_index_in_dim(x, number, axis=4, keepdims=False).swapaxes(1, 2)
        parts, positions = math.prod(taken.shape[:2]), math.prod(taken.shape[2:4])
        return _pinned(taken.reshape((parts, positions) + taken.shape[4:]), (*layer.batch, *layer.length))

    return [one(x) for x in split]


def _written(layer: OutputLayer, split: jax.Array, number: jax.Array, chunk: jax.Array) -> jax.Array:
    """`split` with a chunk [parts, N, ...] in its place."""
    of_rows, rows, of_positions, positions = split.shape[:4]
    chunk = chunk.reshape((of_rows, of_positions, rows, positions) + chunk.shape[2:]).swapaxes(1, 2)
    return jax.lax.dynamic_update_index_in_dim(split, _pinned(chunk, layer.batch, (), layer.length), number, axis=4)


def _zeros(of_chunks: Callable[..., Any], layer: OutputLayer, split: list[jax.Array]) -> Any:
    """What the sums of chunks begin with."""
    shapes = jax.eval_shape(lambda: of_chunks(*_chunks_of(layer, jnp.int32(0), *split)))
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


def _added(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)
