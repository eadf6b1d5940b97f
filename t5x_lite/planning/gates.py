"""What a good plan holds to. A plan says which gates it misses; a test holds the shipped ones to them."""

import dataclasses
import math

from t5x_lite.config import Remat
from t5x_lite.planning.collectives import Collective

MOST_FLOPS, MOST_FLOPS_RECOMPUTED, LEAST_OVERLAPPED, MOST_MEMORY = 1.05, 1.35, 0.95, 0.9
LEAST_MFU = ((1e9, 0.60), (350e6, 0.45))  # from so many parameters on


@dataclasses.dataclass(frozen=True)
class Gate:
    name: str
    held: bool
    said: str


def unplanned(collectives: list[Collective], largest: int, exchanged: int) -> list[Collective]:
    """All-to-alls of more than rows of embeddings, and gathers of more than any single weight: a stack of all layers, or activations.

    Args:
      largest: elements of the largest weight of a layer.
      exchanged: bytes of the rows of embeddings that a device exchanges at a time.
    """
    return [
        one for one in collectives
        if 'all-to-all' in one.kind and one.bytes > exchanged or one.kind == 'all-gather' and len(one.group) * _elements(one) > largest
    ]  # fmt: skip


def overlapped(collectives: list[Collective]) -> float | None:
    """Share of the bytes sent beside something else; None where nothing is sent."""
    sent = sum(one.sent * one.times for one in collectives)
    return sum(one.sent * one.times * one.hidden for one in collectives) / sent if sent else None


def _elements(one: Collective) -> int:
    return math.prod(one.dims)


def gates(
    *, collectives: list[Collective] | None, largest: int, exchanged: int, overlaps: bool, sends_ahead: str, flops: float, model_flops: float, remat: Remat,
    memory: float, mfu: float | None, parameters: int,
) -> list[Gate]:  # fmt: skip
    """What can be told of a plan; nothing is said of what cannot.

    Args:
      collectives: of the compiled step; None where nothing was compiled.
      largest, exchanged: as `unplanned` has them.
      overlaps: whether the compiler can make collectives asynchronous at all (XLA's for CPUs cannot).
      sends_ahead: flags with which more would be, as `mending.sends_ahead` gives them.
      flops, model_flops: of a step over all devices: compiled, and the model's.
      memory: share of a chip's; 0 where none is published.
      mfu: by the formulas that are held to published runs; None where no time can be told.
    """
    found = []
    if collectives is not None:
        bad = unplanned(collectives, largest, exchanged)
        said = ', '.join(sorted({f'{one.kind} of {_elements(one) * len(one.group):,} elements over {"+".join(one.axes)}' for one in bad}))
        found.append(Gate('no unplanned collective', not bad, said or 'none'))
    most = MOST_FLOPS_RECOMPUTED if remat == Remat.full else MOST_FLOPS
    found.append(Gate('FLOPs', flops <= most * model_flops, f"{flops / model_flops:.3f} x the model's, at most {most}"))
    if overlaps and collectives and (share := overlapped(collectives)) is not None:
        held = share >= LEAST_OVERLAPPED
        mend = f'; {sends_ahead} sends weights beside what is computed' if sends_ahead and not held else ''
        found.append(Gate('overlap', held, f'{share:.1%} of the bytes sent, at least {LEAST_OVERLAPPED:.0%}{mend}'))
    if memory:
        found.append(Gate('memory', memory <= MOST_MEMORY, f'{memory:.1%} of a chip, at most {MOST_MEMORY:.0%}'))
    least = next((share for size, share in LEAST_MFU if parameters >= size), None)
    if mfu is not None and least is not None:
        found.append(Gate('MFU', mfu >= least, f'{mfu:.1%} by formulas, at least {least:.0%}'))
    return found
