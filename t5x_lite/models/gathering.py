"""Weights made whole layers ahead, and their gradients added up layers behind.

Fully sharded training stores a part of each weight on each device, makes a layer's weights whole where they are used, and adds their gradients up over
devices where they are made: the first product of a layer waits for its weight, the last of its backward pass is waited for. Here a loop over layers carries
the weights of the layer whose turn it is, whole, and those of the layers after it on their way there: in each turn of the loop they come one step further
(point_to_point.py). Nothing that a layer computes waits for what is sent, and nothing sent waits for what the same turn computes or sends, so that a compiler
can do all of it at once. What was made whole is kept for the backward pass, which gathers nothing (Rajbhandari et al., 2020: their second stage where weights
are concerned, their third in what is stored; `reshard_after_forward=False` of PyTorch's fully_shard), or made whole again for it (gathering_again.py).

Gradients are added up where they are made, by XLA, or (`behind`) the way that the weights came: then each device multiplies by a copy of its own, whose
gradient is what that device alone has made, and that goes back a step in each turn of the backward pass. The numbers are those of products that gather their
own.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp

from jax.sharding import PartitionSpec

from t5x_lite.models import point_to_point
from t5x_lite.models.placing import GATHER_AHEAD, SUM_BEHIND, Axes, as_tuple, stored_spec

COLLECTION = 'whole'  # of variables, beside 'params' and with the same names
_TILE = 16  # rows of a tile of bfloat16 in a TPU's memory
Path = tuple[str, ...]
Paths = tuple[Path, ...]
Kernels = Mapping[Path, Axes]


def whole(module: nn.Module) -> jax.Array | None:
    """A module's kernel, or copies of it [copies, ...], as a loop carries it; None where none does."""
    return module.get_variable(COLLECTION, 'kernel') if module.has_variable(COLLECTION, 'kernel') else None


def axes_of(boxed: Mapping[str, Any]) -> Kernels:
    """{path: logical axes} of the kernels among a layer's parameters, which have their axes beside them."""
    return {path: tuple(spec) for path, spec in flatten_dict(nn.get_partition_spec(boxed)).items() if path[-1] == 'kernel'}


@dataclasses.dataclass(frozen=True)
class Copies:
    """Of a kernel, on a mesh, one for each part of a batch, and the way there: turns in which devices send each other what they have of it.

    Attributes:
      stored: where the kernel lies.
      dim: of it that is stored in parts.
      batch: mesh axes that divide a batch.
      steps: of point_to_point.py, in which the parts are gathered.
      others: mesh axes of a batch that hold the same parts.
      longest: side of a step along them.
      dtype: of the copies, and of what is sent.
    """

    stored: PartitionSpec
    dim: int
    batch: tuple[str, ...]
    steps: tuple[point_to_point.Step, ...]
    others: tuple[str, ...]
    longest: int
    dtype: Any

    @classmethod
    def of(cls, axes: Axes | None, shape: tuple[int, ...], dtype: Any, rows: int) -> 'Copies | None':
        """None where weights are not sent point to point (config.mesh.gather_ahead), this one is not stored in parts along axes that divide a batch too, or so
        many rows are not divided by them."""
        mesh, rules = jax.sharding.get_abstract_mesh().shape, dict(nn.get_logical_axis_rules())
        if not (longest := GATHER_AHEAD.get()) or not mesh or not rules or axes is None or 'embed' not in axes:
            return None
        batch, stored, dim = as_tuple(rules['batch']), stored_spec(axes, shape, rules, mesh), axes.index('embed')
        parts = as_tuple(stored[dim])
        steps = tuple(point_to_point.steps([(axis, mesh[axis]) for axis in parts], longest))
        others = tuple(axis for axis in batch if axis not in parts and mesh[axis] > 1)
        possible = steps and set(parts) <= set(batch) and rows % math.prod(mesh[axis] for axis in batch) == 0
        return cls(stored, dim, batch, steps, others, longest, dtype) if possible else None

    @property
    def spec(self) -> PartitionSpec:
        """Of what each device has on the way, and of the copies in the end [copies, ...]."""
        return PartitionSpec(self.batch, *(None if dim == self.dim else target for dim, target in enumerate(self.stored)))

    @property
    def turns(self) -> int:
        return len(self.steps) + bool(self.others)

    def sent(self, array: jax.Array, turn: int) -> jax.Array:
        """One turn further, of `turns`: from the kernel as it is stored to its copies. Where other devices store the same parts, the first sends nothing."""

        def on_device(array):
            array = array.astype(self.dtype) if turn == 0 else array[0]
            step = turn - bool(self.others)
            return (array if step < 0 else self.steps[step].gathered(array, self.dim))[None]

        return jax.shard_map(on_device, in_specs=self.spec if turn else self.stored, out_specs=self.spec, check_vma=False)(array)

    def returned(self, gradients: jax.Array, turn: int) -> jax.Array:
        """The gradient of `sent` in that turn, added up: in the dtype that is sent; of the kernel as it is stored in float32."""

        def on_device(gradients):
            array, step = gradients[0].astype(jnp.float32), turn - bool(self.others)
            if step >= 0:
                array = self.steps[step].summed(gradients[0], self.dim, self.dtype)
            else:
                for axis in self.others:
                    array = point_to_point.summed_everywhere(array, axis, self.longest, self.dtype)
            return array.astype(self.dtype)[None] if turn else array

        return jax.shard_map(on_device, in_specs=self.spec, out_specs=self.spec if turn else self.stored, check_vma=False)(gradients)

    def one(self, copies: jax.Array) -> jax.Array:
        """Of copies that are alike: the kernel whole, on every device."""
        spec = PartitionSpec(*self.spec[1:])
        return jax.shard_map(lambda copies: copies[0], in_specs=self.spec, out_specs=spec, check_vma=False)(copies)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sent(array: jax.Array, copies: Copies, turn: int) -> jax.Array:
    return copies.sent(array, turn)


_sent.defvjp(
    lambda array, copies, turn: (copies.sent(array, turn), jnp.zeros((), array.dtype)),
    lambda copies, turn, like, gradients: (copies.returned(gradients, turn).astype(like.dtype),),
)


def copied(kernel: jax.Array, copies: Copies, turns: int | None = None) -> jax.Array:
    """The copies of a kernel, or what devices have after the first turns on the way there."""
    for turn in range(copies.turns if turns is None else turns):
        kernel = _sent(kernel, copies, turn)
    return kernel


@dataclasses.dataclass(frozen=True)
class Slices:
    """A table [V', D] or [D, V'] that goes along in a loop over layers: cut along V' into as many slices, one of which comes out whole in each turn.

    Attributes:
      copies: of the table, and of each slice.
      own: rows of the table that a device stores (columns of [D, V']).
      rows: of a slice, in whole tiles of bfloat16; those of the last may be padded.
      count: of slices.
    """

    copies: Copies
    own: int
    rows: int
    count: int

    @classmethod
    def of(cls, table: jax.Array, axes: Axes, dtype: Any, rows: int, count: int) -> 'Slices | None':
        """None where no copies can be made, or rows are divided along their length: chunks of a loss (vocabulary.py) then have no copy each."""
        copies, mesh = Copies.of(axes, table.shape, dtype, rows), jax.sharding.get_abstract_mesh().shape
        divided = any(mesh[axis] > 1 for axis in as_tuple(dict(nn.get_logical_axis_rules()).get('length')))
        if copies is None or divided:
            return None
        own = table.shape[1 - copies.dim] // math.prod(mesh[axis] for axis in as_tuple(copies.stored[1 - copies.dim]))
        return cls(copies, own, -(-own // (count * _TILE)) * _TILE, count)

    def cut(self, table: jax.Array) -> jax.Array:
        """[count, ...], as the table is stored."""
        return _cut(table, self)

    def in_slices(self, table: jax.Array) -> jax.Array:
        along, spec = 1 - self.copies.dim, self.copies.stored

        def on_device(part):
            widths = [(0, 0), (0, 0)]
            widths[along] = (0, self.count * self.rows - self.own)
            part = jnp.pad(part, widths)
            return jnp.moveaxis(part.reshape(*part.shape[:along], self.count, self.rows, *part.shape[along + 1 :]), along, 0)

        return jax.shard_map(on_device, in_specs=spec, out_specs=PartitionSpec(None, *spec), check_vma=False)(table)

    def in_one(self, slices: jax.Array) -> jax.Array:
        """The inverse of `cut`."""
        spec = self.copies.stored
        return jax.shard_map(self._whole, in_specs=PartitionSpec(None, *spec), out_specs=spec, check_vma=False)(slices)

    def _whole(self, slices: jax.Array) -> jax.Array:
        along = 1 - self.copies.dim
        slices = jnp.moveaxis(slices, 0, along)
        whole = slices.reshape(*slices.shape[:along], self.count * self.rows, *slices.shape[along + 2 :])
        return jax.lax.slice_in_dim(whole, 0, self.own, axis=along)

    def joined(self, slices: jax.Array) -> jax.Array:
        """Copies of the table, of those of all slices [count, copies, ...]."""
        spec = self.copies.spec
        return jax.shard_map(
            lambda slices: self._whole(slices[:, 0])[None], in_specs=PartitionSpec(None, *spec), out_specs=spec, check_vma=False
        )(slices)  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _cut(table: jax.Array, slices: Slices) -> jax.Array:
    return slices.in_slices(table)


# Devices that store the same have the same gradients by now: differentiated by jax, this would add them up over those devices, and divide by their number.
_cut.defvjp(lambda table, slices: (slices.in_slices(table), None), lambda slices, _, gradients: (slices.in_one(gradients),))


@dataclasses.dataclass(frozen=True)
class Ways:
    """What a loop over layers sends ahead: kernels by paths, those alike in one message, and slices of a table that goes along."""

    copies: Mapping[Paths, Copies]
    slices: Slices | None

    @classmethod
    def of(cls, stacks: Mapping[Path, jax.Array], kernels: Kernels, dtype: Any, rows: int, count: int, table: tuple[jax.Array, Axes] | None) -> 'Ways':
        alike: dict[Any, list[Path]] = {}
        for path, axes in kernels.items():
            alike.setdefault((axes, stacks[path].shape[1:]), []).append(path)
        found = {tuple(paths): Copies.of((None, *axes), (len(paths), *shape), dtype, rows) for (axes, shape), paths in alike.items()}
        slices = None if table is None else Slices.of(*table, dtype, rows, count)
        return cls({paths: one for paths, one in found.items() if one is not None}, slices)

    @property
    def sent(self) -> set[Path]:
        return {path for paths in self.copies for path in paths}

    def stacked(self, stacks: Mapping[Path, jax.Array]) -> dict[Paths, jax.Array]:
        """[N, alike, ...]."""
        return {paths: jnp.stack([stacks[path] for path in paths], axis=1) for paths in self.copies}

    def begun(self, stacks: Mapping[Paths, jax.Array], cut: jax.Array | None) -> tuple[Any, Any]:
        """(what devices have on the way before the loop, what sets out in each turn): turn after turn the next layer; after the last the first ones again,
        which nothing reads. Of kernels, the last stage is the copies of the layer whose turn it is; a slice of the table arrives in its turn."""

        def stages(stack, one, turns):
            return [copied(stack[(turns - turn) % len(stack)], one, turn) for turn in range(1, turns + 1)], jnp.roll(stack, -turns, axis=0)

        found = {paths: stages(stack, self.copies[paths], self.copies[paths].turns) for paths, stack in stacks.items()}
        riding, boarding = ([], None) if cut is None else stages(cut, self.slices.copies, self.slices.copies.turns - 1)
        return ({paths: one[0] for paths, one in found.items()}, riding), ({paths: one[1] for paths, one in found.items()}, boarding)

    def further(self, on_the_way: Any, following: Any) -> tuple[Any, jax.Array | None]:
        """(what they have a turn later, the slice that has arrived)."""

        def turned(stages, following, one):
            return [_sent(array, one, turn) for turn, array in enumerate([following, *stages])]

        (kernels, riding), (entering, boarding) = on_the_way, following
        kernels = {paths: turned(stages[:-1], entering[paths], self.copies[paths]) for paths, stages in kernels.items()}
        *riding, arrived = [None] if boarding is None else turned(riding, boarding, self.slices.copies)
        return (kernels, riding), arrived

    @staticmethod
    def apart(alike: Mapping[Paths, jax.Array], axis: int) -> dict[str, Any]:
        """As a layer's modules read them (`whole`), of arrays of which one axis is of those alike."""
        found: dict[Path, jax.Array] = {}
        for paths, array in alike.items():
            found |= zip(paths, (jnp.squeeze(part, axis) for part in jnp.split(array, len(paths), axis)), strict=True)
        return unflatten_dict(found)


def in_turns(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, given: Any, *, scanned: bool) -> tuple[Any, Any]:
    """`jax.lax.scan`, or the same with every turn apart for the compiler to see.

    Then, too, nothing of a turn begins before the one before it has ended. A compiler that may choose begins messages so late, and so many at once, that a
    third of them are waited for (BERT-large on 64 chips, tests/benchmarks/EVIDENCE.md).
    """

    def turn(carry, given):
        carry, made = step(carry, given)
        return jax.lax.optimization_barrier(carry), made

    return jax.lax.scan(step, carry, given) if scanned else jax.lax.scan(turn, carry, given, unroll=True)


def looped(
    apply: Callable[..., jax.Array], params: Mapping[str, Any], kernels: Kernels, dtype: Any, x: jax.Array, numbers_N: jax.Array,
    table: tuple[jax.Array, Axes] | None = None, *, scanned: bool = True,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """x through layers, and copies of a table that goes along, None where there is none or it cannot.

    Args:
      apply: (variables of a layer, x, its number) -> x.
      params: of all layers, stacked [N, ...].
      kernels: by logical axes; those stored in parts are made whole ahead, those alike in one message.
      dtype: that they are multiplied in.
      table: what stands after the layers, and its logical axes.
      scanned: one layer is compiled, and a loop carries what is on the way (config.model.scan_layers); the compiler sees every layer otherwise.
    """
    stacks, behind = flatten_dict(params), SUM_BEHIND.get()
    ways = Ways.of(stacks, kernels, dtype, len(x), len(numbers_N), table)
    learns = ways.stacked(stacks) if behind else jax.lax.stop_gradient(ways.stacked(stacks))

    def step(carry, given):
        (x, on_the_way), (layer, number, following) = carry, given
        copies = {paths: stages[-1] for paths, stages in on_the_way[0].items()}
        alike = copies if behind else {paths: ways.copies[paths].one(array) for paths, array in copies.items()}
        on_the_way, arrived = ways.further(on_the_way, following)
        return (apply({'params': layer, COLLECTION: ways.apart(alike, int(behind))}, x, number), on_the_way), arrived

    on_the_way, following = ways.begun(learns, ways.slices.cut(table[0]) if ways.slices else None)
    # Those that learn where they are copied are read in the shape of one layer, no more.
    shapes = ways.sent if behind else ()
    layers = unflatten_dict({path: jax.lax.stop_gradient(stack) if path in shapes else stack for path, stack in stacks.items()})
    (x, _), arrived = in_turns(step, (x, on_the_way), (layers, numbers_N, following), scanned=scanned)
    return x, ways.slices.joined(arrived) if ways.slices else None
