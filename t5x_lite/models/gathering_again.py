"""A loop over layers that makes weights whole layers ahead (gathering.py), and again for the backward pass, so that no more than a few are whole at a time.

The backward pass is a loop of its own, from the last layer to the first: each is computed again from its input, which the forward pass has kept, with weights
that come in that order, and the gradients of its weights go back, a turn at a time, beside the layers below it. What is kept is what full recomputation keeps
(config.model.remat=full); what is stored and what is whole is as in the third stage of Rajbhandari et al. (2020).
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp

from t5x_lite.models.gathering import COLLECTION, Copies, Kernels, Path, Ways, copied, in_turns
from t5x_lite.models.placing import Axes


def looped(
    apply: Callable[..., jax.Array], params: Mapping[str, Any], kernels: Kernels, dtype: Any, x: jax.Array, numbers_N: jax.Array,
    table: tuple[jax.Array, Axes] | None = None, *, scanned: bool = True,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """As `gathering.looped`; gradients are added up behind."""
    stacks = flatten_dict(params)
    ways = Ways.of(stacks, kernels, dtype, len(x), len(numbers_N), table)
    learns, rest = ways.stacked(stacks), {path: stack for path, stack in stacks.items() if path not in ways.sent}
    shapes = {path: (stacks[path].shape[1:], stacks[path].dtype) for path in ways.sent}

    def layer(rest, alike, x, number):
        # Those that are sent are read in their shape, no more.
        whole = {path: jnp.zeros(*shape) for path, shape in shapes.items()}
        return apply({'params': unflatten_dict(rest | whole), COLLECTION: ways.apart(alike, 1)}, x, number)

    # What else it reads and may learn (a bias of relative positions, an encoder's states) is an argument, and not only what it happens to see.
    alike = {paths: jax.eval_shape(functools.partial(copied, copies=one), learns[paths][0]) for paths, one in ways.copies.items()}
    layer, read = jax.closure_convert(layer, {path: stack[0] for path, stack in rest.items()}, alike, x, numbers_N[0])
    x, arrived = _through(_Loop(layer, ways, numbers_N, scanned), learns, rest, ways.slices.cut(table[0]) if ways.slices else None, x, read)
    return x, ways.slices.joined(arrived) if ways.slices else None


@dataclasses.dataclass(frozen=True, eq=False)
class _Loop:
    """
    Attributes:
      layer: (its parameters that are not sent, copies of those that are, x, its number, what else it reads) -> x.
    """

    layer: Callable[..., jax.Array]
    ways: Ways
    numbers_N: jax.Array
    scanned: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _through(loop: _Loop, learns: Any, rest: Mapping[Path, jax.Array], cut: jax.Array | None, x: jax.Array, read: list[jax.Array]) -> Any:
    """(x after all layers, the table's slices whole [N, copies, ...])."""
    return _forward(loop, learns, rest, cut, x, read)[0]


def _forward(loop, learns, rest, cut, x, read):
    def step(carry, given):
        (x, on_the_way), (some, number, following) = carry, given
        alike = {paths: stages[-1] for paths, stages in on_the_way[0].items()}
        on_the_way, arrived = loop.ways.further(on_the_way, following)
        return (loop.layer(some, alike, x, number, *read), on_the_way), (x, arrived)

    on_the_way, following = loop.ways.begun(learns, cut)
    (x, _), (inputs_N, arrived) = in_turns(step, (x, on_the_way), (rest, loop.numbers_N, following), scanned=loop.scanned)
    return (x, arrived), (learns, rest, inputs_N, read)


def _backward(loop, residuals, gradients):
    learns, rest, inputs_N, read = residuals
    of_x, of_slices = gradients
    if not loop.scanned:  # A compiler that sees both passes would find that the first made all this already, and keep it.
        learns, rest, inputs_N, read = jax.lax.optimization_barrier(residuals)
    ways, slices = dataclasses.replace(loop.ways, slices=None), loop.ways.slices

    def step(carry, given):
        (of_x, of_read, on_the_way, returning, alighting), (some, number, x, of_slice, following) = carry, given
        alike = {paths: stages[-1] for paths, stages in on_the_way[0].items()}
        on_the_way, _ = ways.further(on_the_way, following)
        _, pulled = jax.vjp(lambda some, alike, x, read: loop.layer(some, alike, x, number, *read), some, alike, x, read)
        of_some, of_alike, of_x, more = pulled(of_x)
        nearer = {paths: _nearer(stages, of_alike[paths], ways.copies[paths]) for paths, stages in returning.items()}
        *alighting, of_cut = [None] if of_slice is None else _nearer(alighting, of_slice, slices.copies)
        home = {paths: stages[-1] for paths, stages in nearer.items()}, of_cut
        return (of_x, jax.tree.map(jnp.add, of_read, more), on_the_way, {paths: stages[:-1] for paths, stages in nearer.items()}, alighting), (of_some, home)

    turned = {paths: stack[::-1] for paths, stack in learns.items()}
    on_the_way, following = ways.begun(turned, None)
    returning = {paths: _none(one, learns[paths][0]) for paths, one in ways.copies.items()}
    alighting = []
    if slices is not None:
        turns = reversed(range(slices.copies.turns))
        alighting = _none(slices.copies, jax.eval_shape(lambda copies: functools.reduce(slices.copies.returned, turns, copies), of_slices[0]))
    carry = of_x, jax.tree.map(jnp.zeros_like, read), on_the_way, returning, alighting
    given = {path: stack[::-1] for path, stack in rest.items()}, loop.numbers_N[::-1], inputs_N[::-1], of_slices, following
    (of_x, of_read, _, returning, alighting), (of_rest, (home, of_cut)) = in_turns(step, carry, given, scanned=loop.scanned)
    of_learns = {paths: _all(home[paths], stages, ways.copies[paths])[::-1] for paths, stages in returning.items()}
    of_cut = None if slices is None else _all(of_cut, alighting, slices.copies)
    return of_learns, {path: stack[::-1] for path, stack in of_rest.items()}, of_cut, of_x, of_read


_through.defvjp(_forward, _backward)


def _none(one: Copies, stored: Any) -> list[jax.Array]:
    """What is on its way back before the first gradient is: as many stages as there are turns but the last, zeros."""
    shapes = [jax.eval_shape(lambda kernel, turns=turns: copied(kernel, one, turns), stored) for turns in reversed(range(1, one.turns))]
    return [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]


def _nearer(stages: list[jax.Array], gradient: jax.Array, one: Copies) -> list[jax.Array]:
    """Gradients on their way back after 1, 2, ... turns of it, a turn later, when another sets out: the last is where the kernel is stored."""
    return [one.returned(array, turn) for array, turn in zip([gradient, *stages], reversed(range(one.turns)), strict=True)]


def _all(home: jax.Array, stages: list[jax.Array], one: Copies) -> jax.Array:
    """Those that came home in the loop [N, ...], of which the first are nothing, and those that were still on their way."""
    rest = [functools.reduce(one.returned, reversed(range(one.turns - 1 - turns)), stage) for turns, stage in enumerate(stages[: len(home)])]
    return jnp.concatenate([home[len(stages) :], *(gradient[None] for gradient in reversed(rest))])
