"""The meshes that a run could have on a slice, and where a train state would lie on each: by shapes and names alone, without a device."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
import numpy as np

from t5x_lite.config import Config
from t5x_lite.errors import UserError
from t5x_lite.planning.topologies import TPUS, Topology
from t5x_lite.training import partitioning, slices
from t5x_lite.training.partitioning import AXES
from t5x_lite.training.step import Program, boxed_parameters, make_program

Sizes = Mapping[str, int]  # of the axes of a mesh, in their order

_KINDS = {'v4': 'TPU v4', 'v5e': 'TPU v5 lite', 'v5p': 'TPU v5', 'v6e': 'TPU v6 lite'}  # as JAX names devices, on which its layout of a mesh depends


def candidates(config: Config, topology: Topology) -> Iterator[tuple[dict[str, int], str]]:
    """All meshes that training would accept with some number of microbatches, and of several slices each axis that can go across them.

    Args:
      config: complete (`assemble`).
    """
    for data, fsdp, tensor in _threes(topology.chips):
        sizes = dict(zip(AXES, (data, fsdp, tensor, topology.chips // (data * fsdp * tensor)), strict=True))
        for along in AXES if topology.slices > 1 else (config.mesh.slices_along,):
            try:
                check(dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, slices_along=along)), sizes, topology)
            except UserError:
                continue
            yield sizes, along


def check(config: Config, sizes: dict[str, int], topology: Topology, microbatches: int = 1) -> None:
    """
    Raises:
      UserError: training would refuse this mesh, or a batch on it.
    """
    partitioning.check_model(config, sizes)
    mesh = _abstract(sizes)
    partitioning.check_stages(config, mesh, microbatches)
    if config.tune.prompt % sizes['sequence']:
        raise UserError(f'config.mesh.sequence={sizes["sequence"]} does not divide the {config.tune.prompt} virtual tokens of config.tune.prompt')
    inner = slices.within(sizes, topology.slices, config.mesh.slices_along)
    if topology.kind in TPUS:
        coordinates(topology, tuple(inner.values()))


def _threes(count: int) -> Iterator[tuple[int, int, int]]:
    for data in divisors(count):
        for fsdp in divisors(count // data):
            for tensor in divisors(count // data // fsdp):
                yield data, fsdp, tensor


def divisors(count: int) -> list[int]:
    return [number for number in range(1, count + 1) if count % number == 0]


@functools.lru_cache(maxsize=4096)
def coordinates(topology: Topology, sizes: tuple[int, ...]) -> np.ndarray:
    """Where each place of a mesh in one slice lies on its torus [*sizes, sides of the slice]: as `jax.make_mesh` would have it of such chips.

    Raises:
      UserError: the axes would cut through the sides of the slice, where JAX cannot lay them.
    """
    try:
        placed = slices.order(dict(zip(AXES, sizes, strict=True)), [_stand_ins(topology)], AXES[0])
    except NotImplementedError as error:
        raise UserError(f'a mesh of {" x ".join(map(str, sizes))} does not lie on the sides of {topology.text}') from error
    found = np.array([one.coords[: topology.chip.dimensions] for one in placed.reshape(-1)])
    return found.reshape(*sizes, topology.chip.dimensions)


@dataclasses.dataclass(frozen=True)
class _StandIn:
    """What JAX asks of a chip before it gives it a place in a mesh."""

    id: int
    coords: tuple[int, int, int]
    device_kind: str
    platform: str = 'tpu'
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0


@functools.lru_cache(maxsize=8)
def _stand_ins(topology: Topology) -> list[_StandIn]:
    shape = (*topology.shape, 1, 1)[:3]
    places = [tuple(reversed(place)) for place in np.ndindex(*reversed(shape))]
    return [_StandIn(number, place, _KINDS[topology.kind]) for number, place in enumerate(places)]


def bandwidth(topology: Topology, sizes: Sizes, axis: str) -> float:
    """Bytes/s that each chip of a group along an axis of the mesh in one slice can send; 0 where no figure is known."""
    if topology.kind not in TPUS:
        return topology.chip.link
    placed = coordinates(topology, tuple(sizes.values()))
    number = AXES.index(axis)
    return topology.bandwidth(np.moveaxis(placed, number, 0).reshape(sizes[axis], -1, topology.chip.dimensions)[:, 0])


def _abstract(sizes: Sizes) -> AbstractMesh:
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


class Placing:
    """A program whose state can be laid on one mesh after the other: its shapes are traced once."""

    def __init__(self, config: Config):
        """
        Args:
          config: complete.
        """
        self._base = make_program(config, _abstract(dict.fromkeys(AXES, 1)))
        self._boxed = jax.eval_shape(lambda key: boxed_parameters(config, self._base.module, key), jax.random.key(0))

    def on(self, config: Config, sizes: Sizes) -> Program:
        """With abstract state on a mesh of no devices; fields of `config` that change no parameter may differ from those at the start."""
        mesh, base = _abstract(sizes), self._base.abstract
        shardings = partitioning.parameter_shardings(self._boxed, mesh, config.mesh)
        placed: Any = partitioning.state_shardings(base, base.params, shardings, mesh)
        abstract = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), base, placed)
        return dataclasses.replace(self._base, config=config, mesh=mesh, abstract=abstract)

    @property
    def parameters(self) -> int:
        """Padded ones too."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self._base.abstract.params))
