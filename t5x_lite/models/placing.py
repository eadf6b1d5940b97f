"""Where weights and activations lie on a mesh while a model is traced: logical axes by the rules of the config."""

from collections.abc import Iterator, Mapping
import contextlib
import contextvars
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite.config import MeshConfig, SequenceAttention

Axes = tuple[str | None, ...]  # logical ones


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Pins the sharding of an activation, or of a weight at its use, by logical axes; nothing outside a mesh. A misspelt axis raises."""
    return nn.with_logical_constraint(x, axes, fallback=nn.spmd.RulesFallback.RAISE_ERROR)


def parts_of_batch(rows: int, rules: Mapping[str, Any]) -> int:
    """That a mesh divides the rows of a batch into, by the rules of logical axes; 1 where it does not."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape[axis] for axis in as_tuple(rules.get('batch'))) if mesh.size > 1 else 1
    return parts if rows % parts == 0 else 1


def gathered(parameter: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """A weight at its use: whole along 'embed', which fully sharded training splits for storage only.

    Said outright, because XLA's partitioner, left to choose, splits the product instead and (jax 0.10 and 0.11, mesh data 2, fsdp 2, tensor 2) gets
    gradients wrong.
    """
    return constrain(parameter, tuple(None if axis == 'embed' else axis for axis in axes))


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
        over = as_tuple(target)
        if not over or taken & set(over) or size % math.prod(mesh[name] for name in over):
            spec.append(None)
        else:
            taken |= set(over)
            spec.append(target)
    return PartitionSpec(*spec)


_SUMS: contextvars.ContextVar[Any] = contextvars.ContextVar('sums over devices', default=jnp.float32)
GATHER_AHEAD = contextvars.ContextVar('along how many devices at a time weights are sent a layer ahead; 0: they are not', default=0)
SUM_BEHIND = contextvars.ContextVar('whether their gradients go back the same way', default=False)
GATHER_AGAIN = contextvars.ContextVar('whether weights that are sent ahead are sent again for the backward pass', default=False)
SEQUENCE_ATTENTION = contextvars.ContextVar('how a divided row meets its keys and values', default=SequenceAttention.gather)


@contextlib.contextmanager
def placed_by(mesh: MeshConfig) -> Iterator[None]:
    """While a model is traced: logical axes are those of a mesh, devices add up products in its `collective_dtype`, and what else it has is as it says."""
    said = (
        (_SUMS, jnp.dtype(mesh.collective_dtype.value)), (SEQUENCE_ATTENTION, mesh.sequence_attention),
        (GATHER_AHEAD, mesh.gather_side if mesh.gather_ahead else 0), (SUM_BEHIND, mesh.sum_behind), (GATHER_AGAIN, mesh.gather_again),
    )  # fmt: skip
    tokens = [(variable, variable.set(value)) for variable, value in said]
    try:
        with nn.logical_axis_rules(mesh.rules):
            yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def as_tuple(target: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return target if isinstance(target, tuple) else () if target is None else (target,)
