"""The one product with a weight, and the rows of a table: with gradients of their own, which say what travels between devices."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite.models import point_to_point
from t5x_lite.models.gathering import Copies, copied
from t5x_lite.models.placing import GATHER_AHEAD, Axes, Placing, as_tuple, gathered, stored_spec

_FEW = 4  # rows that XLA:CPU multiplies by a matrix of 16-bit numbers eight times as fast as a single one, which it takes number by number
_EXCHANGES = 4  # in which rows of embeddings are sent, at most
PRODUCT = 'product'  # what recomputation may keep (transformer.REMAT_POLICIES); the policies of JAX do not see into a function with gradients of its own


def product(equation: str, x: jax.Array, kernel: jax.Array, dtype: Any, axes: Axes | None = None, whole: jax.Array | None = None) -> jax.Array:
    """The one product with a weight: operands in `dtype`, accumulated in float32, returned in `dtype`.

    The products of the backward pass do the same; the weight's gradient leaves them in float32. (Differentiated as it stands, an einsum accumulated in
    float32 would multiply float32 by `dtype` there, at the speed of float32.)

    Args:
      axes: logical axes of a weight as it is stored, which is made whole here along 'embed' (`gathered` says why): in `dtype`, half the bytes of float32, for
        each pass anew, so that no pass keeps it whole for another; its gradient is added up over devices straight into the parts that they store.
      whole: the weight as both passes multiply by it, where something has made it whole already (gathering.py); or copies of it [copies, ...], each of which
        multiplies a part of the batch, and has that part's gradient, in place of the weight.
    """
    if whole is not None and whole.ndim == kernel.ndim:
        return checkpoint_name(placed_product(equation, x, kernel, dtype, Placing.of(axes, kernel.shape), whole), PRODUCT)
    if whole is None and (copies := Copies.of(axes, kernel.shape, dtype, len(x))) is not None:
        whole = copied(kernel, copies)
    if whole is not None:
        out = copies_product(equation, _apart(x, whole), whole, dtype, Placing.of(None, ()).sums)
        return checkpoint_name(out.reshape(-1, *out.shape[2:]), PRODUCT)
    return checkpoint_name(placed_product(equation, x, kernel, dtype, Placing.of(axes, kernel.shape)), PRODUCT)


def _apart(x: jax.Array, copies: jax.Array) -> jax.Array:
    """The parts of a batch, each beside its copy of a weight [copies, B / copies, ...]: where they lie already."""
    batch = as_tuple(dict(nn.get_logical_axis_rules())['batch'])
    x = x.reshape(len(copies), -1, *x.shape[1:])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(batch, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def copies_product(equation: str, x: jax.Array, copies: jax.Array, dtype: Any, sums: Any) -> jax.Array:
    """`product` of [copies, ...] and as many copies of a weight; the gradient of each copy is that of its part of the batch, in its dtype."""
    return _accumulated(_each(equation), x, copies, dtype, sums).astype(dtype)


def _each(equation: str) -> str:
    """'BLD,DF->BLF' to 'nBLD,nDF->nBLF'."""
    return 'n' + equation.replace(',', ',n').replace('->', '->n')


def _copies_backward(equation, dtype, sums, residuals, gradient):
    x, copies = residuals
    inputs, out = equation.split('->')
    x_axes, kernel_axes = inputs.split(',')
    x_gradient = _accumulated(_each(f'{out},{kernel_axes}->{x_axes}'), gradient, copies, dtype, sums)
    return x_gradient.astype(x.dtype), _accumulated(_each(f'{x_axes},{out}->{kernel_axes}'), x, gradient, dtype).astype(copies.dtype)


copies_product.defvjp(lambda equation, x, copies, dtype, sums: (copies_product(equation, x, copies, dtype, sums), (x, copies)), _copies_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def placed_product(equation: str, x: jax.Array, kernel: jax.Array, dtype: Any, placing: Placing, whole: jax.Array | None = None) -> jax.Array:
    y, rows = placing.weight(kernel, dtype) if whole is None else whole, x.shape[0]
    if rows < _FEW and x.size == rows * x.shape[-1] and dtype != jnp.float32 and jax.default_backend() == 'cpu':
        padded = jnp.pad(x, ((0, _FEW - rows), *((0, 0),) * (x.ndim - 1)))
        return _accumulated(equation, padded, y, dtype, placing.sums)[:rows].astype(dtype)
    return _accumulated(equation, x, y, dtype, placing.sums).astype(dtype)


def turned_product(x: jax.Array, kernel_FD: jax.Array) -> jax.Array:
    """x [..., D] times a weight that lies the other way round, in float32; returns [..., F]. Without a gradient of its own.

    XLA:CPU copies the right factor of a product into tiles, each time anew, and reads the left one where it lies. With the weight on the left, of up to some
    hundred rows, a product takes two thirds of the time (tests/benchmarks/products.py). The barrier keeps the compiler from turning it back.
    """
    rows_ND = x.reshape(-1, x.shape[-1])
    out_FN = jax.lax.dot_general(kernel_FD, rows_ND, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(out_FN).T.reshape(*x.shape[:-1], kernel_FD.shape[0])


def _accumulated(equation: str, x: jax.Array, y: jax.Array, dtype: Any, sums: Any = jnp.float32) -> jax.Array:
    """Products are accumulated in float32 whatever `sums` is: devices and XLA round what each has made before they add it up."""
    return jnp.einsum(equation, x.astype(dtype), y.astype(dtype), preferred_element_type=sums)


def _product_forward(equation, x, kernel, dtype, placing, whole):
    out = placed_product(equation, x, kernel, dtype, placing, whole)
    return out, (x, kernel, None) if whole is None else (x, jnp.zeros((), kernel.dtype), whole)


def _product_backward(equation, dtype, placing, residuals, gradient):
    x, kernel, whole = residuals
    multiplied, lies = (kernel, placing) if whole is None else (whole, dataclasses.replace(placing, used=None))
    x_gradient, kernel_gradient = product_gradients(equation, x, multiplied, gradient, dtype, lies)
    return x_gradient.astype(x.dtype), kernel_gradient.astype(kernel.dtype), None


placed_product.defvjp(_product_forward, _product_backward)


def product_gradients(equation: str, x: jax.Array, kernel: jax.Array, gradient: jax.Array, dtype: Any, placing: Placing) -> tuple[jax.Array, jax.Array]:
    """Of x and of the kernel, as `placing.sums` has them."""
    inputs, out = equation.split('->')
    x_axes, kernel_axes = inputs.split(',')
    # Behind a barrier: the compiler would find that the forward pass made it whole already, and keep it.
    stored = kernel if placing.used in (None, placing.stored) else jax.lax.optimization_barrier(kernel)
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


def rows_of(table: jax.Array, ids_BL: jax.Array, axes: Axes, dtype: Any) -> jax.Array:
    """Rows of a table, in `dtype`; their gradients are added up in that of the table.

    Devices that each store a part of its columns look those up for all tokens that are theirs together, and then exchange what they found: as many rows as a
    device has tokens, where the whole table, and its gradient, would go to every device. A table with fewer rows than that is made whole. Where weights are
    sent ahead, these are sent from device to device too, in some parts, each while the next is looked up.
    """
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
    if mesh.size <= 1 or not rules:
        return jnp.take(table, ids_BL, axis=0).astype(dtype)
    stored = stored_spec(axes, table.shape, rules, mesh.shape)
    columns = as_tuple(stored[1])
    tokens = ids_BL.size // math.prod(mesh.shape[axis] for name in ('batch', 'length') for axis in as_tuple(rules[name]))
    if table.shape[0] <= tokens:
        if (copies := Copies.of(axes, table.shape, dtype, len(ids_BL))) is None:
            return jnp.take(gathered(table, axes), ids_BL, axis=0).astype(dtype)
        tables = copied(table, copies).astype(table.dtype)  # each device's gradients are added up in that of the table
        return jax.vmap(lambda table, ids: jnp.take(table, ids, axis=0))(tables, _apart(ids_BL, tables)).reshape(*ids_BL.shape, -1).astype(dtype)
    batch = as_tuple(rules['batch'])
    rows = tuple(axis for axis in batch if axis not in columns)
    table = jax.lax.with_sharding_constraint(table, stored)
    longest, (of_rows, of_columns) = GATHER_AHEAD.get(), (math.prod(mesh.shape[axis] for axis in axes) for axes in (rows, columns))
    if not longest or of_columns == 1 or batch != (*rows, *columns) or len(ids_BL) % (of_rows * of_columns):
        ids_BL = jax.lax.with_sharding_constraint(ids_BL, PartitionSpec(rows, rules['length']))
        return jax.lax.with_sharding_constraint(jnp.take(table, ids_BL, axis=0).astype(dtype), PartitionSpec(rows, rules['length'], columns))
    tables = _of_each(table, stored, rows, longest, dtype)

    def looked_up(ids):
        found = jax.vmap(lambda table, ids: jnp.take(table, ids, axis=0))(tables, ids).astype(dtype)
        return jax.lax.with_sharding_constraint(found, PartitionSpec(*lie, rules['length'], columns))

    order = tuple(point_to_point.steps([(axis, mesh.shape[axis]) for axis in columns], longest))
    own = len(ids_BL) // (of_rows * of_columns)
    size = own // max(count for count in range(1, _EXCHANGES + 1) if own % count == 0)
    lie = rows, None, None
    apart = jax.lax.with_sharding_constraint(ids_BL.reshape(of_rows, of_columns, own, -1), PartitionSpec(*lie, rules['length']))
    parts = [_exchanged(looked_up(apart[:, :, first : first + size]), order, rows, columns, rules['length']) for first in range(0, own, size)]
    return jnp.concatenate(parts, axis=2).reshape(*ids_BL.shape, table.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _of_each(table: jax.Array, stored: PartitionSpec, rows: tuple[str, ...], longest: int, dtype: Any) -> jax.Array:
    """[of rows, V, D], of devices that store the same part of a table and look up other rows of it: whose gradients are added up over them once, in `dtype`,
    from device to device (differentiated by jax, all devices' would be for each part of the rows that is looked up)."""
    return jax.shard_map(lambda table: table[None], in_specs=stored, out_specs=PartitionSpec(rows, *stored), check_vma=False)(table)


def _of_each_backward(stored: PartitionSpec, rows: tuple[str, ...], longest: int, dtype: Any, _: None, gradients: jax.Array) -> tuple[jax.Array]:
    def on_device(gradients):
        gradient = gradients[0]
        for axis in rows:
            if jax.lax.axis_size(axis) > 1:
                gradient = point_to_point.summed_everywhere(gradient, axis, longest, dtype)
        return gradient

    return (jax.shard_map(on_device, in_specs=PartitionSpec(rows, *stored), out_specs=stored, check_vma=False)(gradients),)


_of_each.defvjp(lambda table, *fixed: (_of_each(table, *fixed), None), _of_each_backward)


def _exchanged(x: jax.Array, order: tuple[point_to_point.Step, ...], rows: tuple[str, ...], columns: tuple[str, ...], length: Any) -> jax.Array:
    """[of rows, of columns, N, L, D], divided along the last dimension, along the second instead."""

    def on_device(x):
        parts = point_to_point.exchanged(jnp.swapaxes(x, 0, 1), order)  # [of columns, 1, N, L, D / of columns], from each
        return jnp.moveaxis(parts, 0, -2).reshape(1, 1, *x.shape[2:4], -1)

    specs = PartitionSpec(rows, None, None, length, columns), PartitionSpec(rows, columns, None, length, None)
    return jax.shard_map(on_device, in_specs=specs[0], out_specs=specs[1], check_vma=False)(x)
