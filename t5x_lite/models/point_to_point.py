"""What is in parts made whole, sums left in parts, and parts exchanged, by sending from device to device alone.

For code that runs on each device (`jax.shard_map`). An all-gather or a reduce-scatter is one instruction, which a compiler makes asynchronous where it can:
XLA's for TPUs lets one travel with each product, and waits for the others. A `ppermute` always is, beside anything at all. So devices send each other what an
all-gather would give them, and add up themselves what a reduce-scatter would: as many bytes.

An axis of n devices is taken as a torus (16 = 4 x 4, as pods are built). There is a step for each side, or for each half of a long one, in which each device
sends to each of the others along it directly: within a step no message waits for another.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

_DIRECT = 4  # devices of a side that send to each other at once


@dataclasses.dataclass(frozen=True)
class Step:
    """Along one side of one mesh axis.

    Attributes:
      size: of the axis.
      side: how many devices exchange something.
      stride: how far apart they lie along the axis.
      apart: how many parts of an array lie between theirs, counting all axes.
      outer: groups of parts, further apart, that were gathered before: what is gathered here goes into each.
    """

    axis: str
    size: int
    side: int
    stride: int
    apart: int
    outer: int = 1

    def gathered(self, part: jax.Array, dim: int) -> jax.Array:
        """What the devices of the side have of dimension `dim`, in order."""
        if self.outer > 1:
            return _joined(dataclasses.replace(self, outer=1).gathered(_split(part, dim, self.outer), dim + 1), dim)
        here, length = self._here, part.shape[dim]
        shape = *part.shape[:dim], self.side * length, *part.shape[dim + 1 :]
        whole = jax.lax.dynamic_update_slice_in_dim(jax.lax.empty(shape, part.dtype), part, here * length, dim)
        for away in range(1, self.side):
            received = jax.lax.ppermute(part, self.axis, self._to(away))
            whole = jax.lax.dynamic_update_slice_in_dim(whole, received, (here - away) % self.side * length, dim)
        return whole

    def summed(self, whole: jax.Array, dim: int, dtype: Any) -> jax.Array:
        """This device's part of dimension `dim` of the sum over those of the side, in float32; they send each other `dtype`."""
        if self.outer > 1:
            return _joined(dataclasses.replace(self, outer=1).summed(_split(whole, dim, self.outer), dim + 1, dtype), dim)
        length = whole.shape[dim] // self.side

        def of(place: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(whole, place % self.side * length, length, dim)

        total = of(self._here).astype(jnp.float32)
        for away in range(1, self.side):
            total += jax.lax.ppermute(of(self._here + away).astype(dtype), self.axis, self._to(away)).astype(jnp.float32)
        return total

    def exchanged(self, parts: jax.Array, dim: int) -> jax.Array:
        """Of dimension `dim`, of the side's length, each device of the side gets the element of its own number: from all, in order, in place of what it had."""
        here, found = self._here, jax.lax.empty(parts.shape, parts.dtype)
        for away in range(self.side):
            part = jax.lax.dynamic_slice_in_dim(parts, (here + away) % self.side, 1, dim)
            received = jax.lax.ppermute(part, self.axis, self._to(away)) if away else part
            found = jax.lax.dynamic_update_slice_in_dim(found, received, (here - away) % self.side, dim)
        return found

    @property
    def _here(self) -> jax.Array:
        return jax.lax.axis_index(self.axis) // self.stride % self.side

    def _to(self, away: int) -> list[tuple[int, int]]:
        """(from, to): each device to the one so far along the side."""
        return [(one, one + ((one // self.stride + away) % self.side - one // self.stride % self.side) * self.stride) for one in range(self.size)]


def _split(x: jax.Array, dim: int, groups: int) -> jax.Array:
    """The dimension as two: of so many groups, and within each."""
    return x.reshape(*x.shape[:dim], groups, x.shape[dim] // groups, *x.shape[dim + 1 :])


def _joined(x: jax.Array, dim: int) -> jax.Array:
    return x.reshape(*x.shape[:dim], -1, *x.shape[dim + 2 :])


def steps(sizes: Sequence[tuple[str, int]], longest: int) -> list[Step]:
    """In which parts along mesh axes (name, size), one within the other, are gathered; the other way round they are summed. `longest`: as `sides` has it.

    A side of up to four devices is one step. A longer one is taken by halves, so that no link has to carry what all others send to all: first devices that are
    far apart exchange the little that they have, in the end neighbours exchange most, and the last steps are along different sides.
    """
    found, apart = [], 1
    for axis, size in reversed(sizes):
        stride = 1
        for side in reversed(sides(size, longest)):
            hops = 1
            for part in reversed(sides(side, _DIRECT if side <= _DIRECT else 2)):
                found.append((hops, Step(axis, size, part, stride, apart)))
                hops, stride, apart = hops * part, stride * part, apart * part
    order = [step for _, step in sorted(found, key=lambda one: -one[0])]
    outer = [math.prod(before.side for before in order[:turn] if before.apart > step.apart) for turn, step in enumerate(order)]
    return [dataclasses.replace(step, outer=groups) for step, groups in zip(order, outer, strict=True)]


def sides(size: int, longest: int) -> list[int]:
    """Of a torus of so many devices, none longer than that but for prime factors: 64 = 4 x 4 x 4, 8 = 2 x 4, 7 = 7."""
    found, side = [], longest
    while size > 1:
        while size % side:
            side = side - 1 if 2 < side <= longest else max(longest, side) + 1
        found.append(side)
        size //= side
    return sorted(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def exchanged(parts: jax.Array, order: tuple[Step, ...]) -> jax.Array:
    """`jax.lax.all_to_all` of the leading dimension, which has an element for each device. `order`: as `steps` gives them."""
    order, tail = sorted(order, key=lambda step: -step.apart), parts.shape[1:]
    parts = parts.reshape(*(step.side for step in order), *tail)
    for dim, step in enumerate(order):
        parts = step.exchanged(parts, dim)
    return parts.reshape(-1, *tail)


# Who sends what to whom stays as it is if all give back what they got.
exchanged.defvjp(lambda parts, order: (exchanged(parts, order), None), lambda order, _, gradients: (exchanged(gradients, order),))


def summed_everywhere(array: jax.Array, axis: str, longest: int, dtype: Any) -> jax.Array:
    """`jax.lax.psum`, in float32: in parts of a dimension that divides into as many, at once where none does."""
    size = jax.lax.axis_size(axis)
    dim = next((dim for dim, length in enumerate(array.shape) if length % size == 0), None)
    if dim is None:
        return jax.lax.psum(array.astype(dtype), axis).astype(jnp.float32)
    order = steps([(axis, size)], longest)
    for step in reversed(order):
        array = step.summed(array, dim, dtype)
    array = array.astype(dtype)
    for step in order:
        array = step.gathered(array, dim)
    return array.astype(jnp.float32)
