"""How much of each collective's time a device has something else to do.

A collective that begins at one instruction and ends at a later one is hidden by what stands between, as long as that takes. An instruction hides one second
of one collective with each of its own: of several that are under way the one that ends first is hidden first. Collectives along different sides of a torus
take different links, and are hidden at once.
"""

from collections.abc import Sequence
import dataclasses

from jax.sharding import Mesh

from t5x_lite.planning.collectives import KINDS, Collective
from t5x_lite.planning.estimate import bandwidth, sending, sides, taken
from t5x_lite.planning.hlo import Computation, Instruction, Module
from t5x_lite.planning.topologies import Topology
from t5x_lite.planning.traffic import Work


def hidden(module: Module, collectives: Sequence[Collective], works: Sequence[Work], topology: Topology, mesh: Mesh) -> list[Collective]:
    """The collectives of a module with their `hidden` shares; as they are where no figures of the chip are published."""
    if not topology.timed:
        return list(collectives)
    seconds = {work.name: taken(work, topology.chip) for work in works}
    left: dict[tuple[str, int, int], float] = {}  # (computation, place, side)
    found = list(collectives)
    for number in sorted(range(len(found)), key=lambda number: found[number].span[1]):
        one = found[number]
        (first, last), taking = one.span, sides(one, topology, mesh)
        needed = whole = sending(one, topology, bandwidth(one, topology, mesh) if one.sent > one.between else 0.0)
        order = list(module.computations[one.within].instructions.values())
        for place in range(first + 1, last):
            here = [(one.within, place, side) for side in taking]
            for lane in here:
                if lane not in left:
                    left[lane] = _seconds(module, module.computations[one.within], order[place], seconds)
            used = min(needed, *(left[lane] for lane in here))
            for lane in here:
                left[lane] -= used
            needed -= used
        found[number] = dataclasses.replace(one, hidden=1 - needed / whole if whole else 0.0)
    return found


def _seconds(module: Module, computation: Computation, instruction: Instruction, seconds: dict[str, float]) -> float:
    """Of an instruction once, with the trips of a loop; what only communicates hides nothing."""
    if instruction.opcode.removesuffix('-start') in KINDS:
        return 0.0
    if instruction.opcode not in ('while', 'call', 'conditional'):
        return seconds[instruction.name] if instruction.name in seconds else 0.0
    trips = (module.trips(computation.name, instruction) or 1) if instruction.opcode == 'while' else 1
    total = 0.0
    for attribute, names in instruction.called.items():
        if attribute in ('body', 'to_apply', 'branch_computations', 'called_computations'):
            for name in names:
                inner = module.computations[name]
                total += trips * sum(_seconds(module, inner, one, seconds) for one in inner.instructions.values())
    return total
