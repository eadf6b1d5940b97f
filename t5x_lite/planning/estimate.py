"""How long a step takes: the schedule, instruction by instruction, and what of the communication is not hidden.

Nothing in it is fitted to measured runs. `best` is what published figures allow; `step` believes the compiler's own cost model where that says more.
"""

from collections.abc import Sequence
import dataclasses

from jax.sharding import Mesh
import numpy as np

from t5x_lite.planning.collectives import Collective
from t5x_lite.planning.topologies import Chip, Topology
from t5x_lite.planning.traffic import Work

ASSUMPTIONS = (
    "an instruction takes the cycles that the compiler's own cost model gives it, at the chip's clock",
    'at best, and where the compiler says nothing or no clock is published, it takes the longer of its products (bf16 peak) and its main memory traffic',
    'a collective is a ring over each side of the torus that its group spans, at the full speed of its links, without latency; what devices send to one '
    'another takes the shortest way, one side after the other, and the link that most of it passes sets the pace',
    "what goes to another slice takes each chip's share of its host's adapters (chip.network in plan.json), and is added to what goes around within",
    'an asynchronous collective costs what it takes longer than the work beside it; all others stop the chip',
    'data are there in time, and saving and evaluating take none',
    'none of this is fitted to measured runs',
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step of one device, and what follows for all.

    Attributes:
      products: of products alone, at the peak.
      memory: of reading and writing main memory alone.
      busy: of the instructions one after another, each at its slower side.
      modelled: the same by the compiler's cost model, where it says something.
      waited: of communication that nothing hides.
      hidden: of communication beside something else.
    """

    products: float
    memory: float
    busy: float
    modelled: float
    waited: float
    hidden: float

    @property
    def step(self) -> float:
        return self.modelled + self.waited

    @property
    def best(self) -> float:
        return self.busy + self.waited


def estimate(works: Sequence[Work], collectives: Sequence[Collective], topology: Topology, mesh: Mesh) -> Estimate | None:
    """None where the chip has no published figures (a CPU; of several slices, v4).

    Args:
      collectives: with their `hidden` shares.
    """
    chip = topology.chip
    if not topology.timed:
        return None
    waited = hidden = 0.0
    for one in collectives:
        seconds = sending(one, topology, bandwidth(one, topology, mesh) if one.sent > one.between else 0.0)
        waited += one.times * seconds * (1 - one.hidden)
        hidden += one.times * seconds * one.hidden
    return Estimate(
        products=sum(work.times * work.flops for work in works) / chip.peak,
        memory=sum(work.times * work.bytes for work in works) / chip.bandwidth,
        busy=sum(work.times * _slower_side(work, chip) for work in works),
        modelled=sum(work.times * taken(work, chip) for work in works),
        waited=waited,
        hidden=hidden,
    )


def taken(work: Work, chip: Chip) -> float:
    """Seconds of an instruction once, by the compiler's cost model where it says something."""
    return work.cycles / chip.clock if work.cycles and chip.clock else _slower_side(work, chip)


def _slower_side(work: Work, chip: Chip) -> float:
    return max(work.flops / chip.peak, work.bytes / chip.bandwidth)


def sending(collective: Collective, topology: Topology, speed: float) -> float:
    """Seconds of one collective, once; `speed` of its part within a slice, in bytes/s."""
    inside = collective.sent - collective.between
    return (inside / speed if inside else 0.0) + (collective.between / topology.chip.network if collective.between else 0.0)


def bandwidth(collective: Collective, topology: Topology, mesh: Mesh) -> float:
    """Bytes/s that each chip of its group can send within a slice."""
    if not topology.chip.dimensions:
        return topology.bandwidth(np.zeros((1, 0)))
    places = _places(topology, mesh)
    if collective.pairs:
        return topology.chip.link / topology.load([(places[one], places[other]) for one, other in collective.pairs])
    return topology.bandwidth(np.array([places[number] for number in _members(collective)]))


def sides(collective: Collective, topology: Topology, mesh: Mesh) -> tuple[int, ...]:
    """Of the torus, whose links it takes: two collectives that have none in common do not slow each other down."""
    if not topology.chip.dimensions:
        return (0,)
    places = _places(topology, mesh)
    if collective.pairs:
        apart = np.any([np.not_equal(places[one], places[other]) for one, other in collective.pairs], axis=0)
    else:
        apart = np.ptp([places[number] for number in _members(collective)], axis=0) > 0
    return tuple(np.flatnonzero(apart).tolist()) or (0,)


def _members(collective: Collective) -> tuple[int, ...]:
    """Of its group, those in one slice."""
    return collective.group[: len(collective.group) // collective.slices]


def _places(topology: Topology, mesh: Mesh) -> list[tuple[int, ...]]:
    """Coordinates by device number."""
    devices = mesh.devices.reshape(-1)
    if topology.slices > 1:  # the program is that of one slice, and so are its numbers
        devices = [device for device in devices if device.slice_index == devices[0].slice_index]
    return [device.coords for device in devices]


def mfu(model_flops: float, step_seconds: float, topology: Topology) -> float:
    """Model FLOPs utilisation (Chowdhery et al., 2022, appendix B): the model's own FLOPs, not what is recomputed, over what all chips could do."""
    return model_flops / (step_seconds * topology.chips * topology.chip.peak)
