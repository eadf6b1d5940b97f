"""How long a step takes at best: a roofline over the schedule, and what of the communication is not hidden.

Nothing in it is fitted to measured runs: it is what published figures allow, so that real steps take longer.
"""

from collections.abc import Sequence
import dataclasses

from jax.sharding import Mesh
import numpy as np

from t5x_lite.planning.collectives import Collective
from t5x_lite.planning.topologies import Topology
from t5x_lite.planning.traffic import Work

ASSUMPTIONS = (
    'every product runs at the peak of bf16, whatever its type and shape; real ones reach less',
    'main memory is read and written at its published bandwidth; an instruction takes the longer of its arithmetic and its memory',
    'a collective is a ring over each side of the torus that its group spans, at the full speed of its links, without latency',
    'an asynchronous collective costs what it takes longer than the products beside it; all others stop the chip',
    'data are there in time, and saving and evaluating take none',
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step of one device, and what follows for all.

    Attributes:
      products: of products alone, at the peak.
      memory: of reading and writing main memory alone.
      busy: of the instructions one after another, each at its slower side.
      waited: of communication that nothing hides.
      hidden: of communication beside products.
    """

    products: float
    memory: float
    busy: float
    waited: float
    hidden: float

    @property
    def step(self) -> float:
        return self.busy + self.waited


def estimate(works: Sequence[Work], collectives: Sequence[Collective], topology: Topology, mesh: Mesh) -> Estimate | None:
    """None where the chip has no published figures (a CPU)."""
    chip = topology.chip
    if not chip.peak:
        return None
    waited = hidden = 0.0
    for one in collectives:
        seconds = one.sent / bandwidth(one, topology, mesh)
        outside = max(0.0, seconds - one.meanwhile / chip.peak)
        waited += one.times * outside
        hidden += one.times * (seconds - outside)
    return Estimate(
        products=sum(work.times * work.flops for work in works) / chip.peak,
        memory=sum(work.times * work.bytes for work in works) / chip.bandwidth,
        busy=sum(work.times * max(work.flops / chip.peak, work.bytes / chip.bandwidth) for work in works),
        waited=waited,
        hidden=hidden,
    )


def bandwidth(collective: Collective, topology: Topology, mesh: Mesh) -> float:
    """Bytes/s that each chip of its group can send."""
    if not topology.chip.dimensions:
        return topology.bandwidth(np.zeros((1, 0)))
    devices = mesh.devices.reshape(-1)
    return topology.bandwidth(np.array([devices[number].coords for number in collective.group]))


def mfu(model_flops: float, step_seconds: float, topology: Topology) -> float:
    """Model FLOPs utilisation (Chowdhery et al., 2022, appendix B): the model's own FLOPs, not what is recomputed, over what all chips could do."""
    return model_flops / (step_seconds * topology.chips * topology.chip.peak)
