"""A ranking of meshes as text, and ranking.json."""

import json
import os

from t5x_lite.planning import making, mending, ranking, roofline, showing
from t5x_lite.planning.ranking import Choice, Compiled, Ranking

JSON = 'ranking.json'
_MOST_ROWS = 12  # of the table; ranking.json has all


def text(found: Ranking) -> str:
    """The best by formulas, what the compiler says of the best few, and the flags to copy."""
    fitting = [one for one in found.choices if one.fits is not False]
    parts = [_head(found, len(fitting)), '\n'.join(_table(fitting or found.choices, found.topology.slices > 1))]
    if not fitting:
        parts.append(_too_large(found))
    if found.compiled:
        parts.append('\n'.join(_compiled(found)))
    if found.best is not None:
        flags = ' '.join(found.flags(found.best)) or '(the config as it is)'
        parts.append(f'best: {ranking.title(found.best)}\n  {flags}')
    if found.topology.timed:
        parts.append('\n'.join(['assumed by the formulas:', *(f'  {line}' for line in roofline.ASSUMPTIONS)]))
    return '\n\n'.join(parts)


def _head(found: Ranking, fitting: int) -> str:
    topology = found.topology
    head = f'{len(found.choices)} pairs of a mesh and a recomputation on {topology.shown}, by formulas: '
    if not topology.timed:
        return head + 'no figures of these devices are published, so fewest FLOPs and bytes sent come first'
    return head + f'{fitting} fit into {mending.FULL:.0%} of {topology.chip.hbm / 2**30:,.0f} GiB a chip'


def _table(choices: list[Choice], several: bool) -> list[str]:
    across = f'{"across slices":<14}' * several
    lines = [f'  {"data":>5} {"fsdp":>5} {"tensor":>6} {"sequence":>8}  {across}{"remat":<5} {"microbatches":>12} {"s/step":>9} {"GiB":>9}  why']
    for one in choices[:_MOST_ROWS]:
        model, sizes = one.config.model, one.sizes
        across = f'{one.config.mesh.slices_along:<14}' * several
        seconds = '-' if one.seconds is None else f'{one.seconds:.4g}'
        lines.append(
            f'  {sizes["data"]:>5} {sizes["fsdp"]:>5} {sizes["tensor"]:>6} {sizes["sequence"]:>8}  {across}{model.remat.name:<5} '
            f'{one.config.optim.microbatches:>12} {seconds:>9} {one.used / 2**30:>9,.3f}  {_why(one)}'
        )
    if len(choices) > _MOST_ROWS:
        lines.append(f'  and {len(choices) - _MOST_ROWS} more ({JSON} has all)')
    return lines


def _why(choice: Choice) -> str:
    if choice.fits is False:
        memory = max(choice.predictions, key=lambda one: one.used).memory
        most = sorted(memory.items(), key=lambda kind: -kind[1])[:2]
        return f'does not fit: {", ".join(f"{kind} {size / 2**30:,.3g} GiB" for kind, size in most)}'
    longest = max(choice.predictions, key=lambda one: (one.step or 0.0, one.flops))
    if longest.step is None:
        return f'{longest.flops:.4g} FLOPs and {longest.sent / 2**20:,.1f} MiB sent by a device'
    return roofline.why(longest)


def _too_large(found: Ranking) -> str:
    chip, nearest = found.topology.chip, found.choices[0]
    return (
        f'nothing fits: the smallest takes {nearest.used / 2**30:,.3g} GiB of a chip, and {mending.FULL:.0%} of it are {mending.FULL * chip.hbm / 2**30:,.3g}; '
        'take a larger slice, or a smaller batch'
    )


def _compiled(found: Ranking) -> list[str]:
    how = 'by the compiler' if found.topology.compiled else 'by the program before a compiler (there is none for GPUs without one)'
    return [f'the best of them {how}, the best first:', *(f'  {ranking.title(one.choice)}: {_reading(one)}' for one in found.compiled)]


def _reading(one: Compiled) -> str:
    stages = one.plan.stages
    used, room = max(stage.used for stage in stages), stages[0].room
    of_room = f' of {room / 2**30:,.1f}' if room else ''
    said = [f'{used / 2**30:,.3f}{of_room} GiB' if used else 'does not say how much memory it would need']
    if not one.fits:
        said.insert(0, 'does not fit')
    elif one.plan.scheduled_seconds is not None:
        steps = sum(stage.steps for stage in stages)
        said.insert(0, f'{one.plan.scheduled_seconds / steps:.4g} s/step' if steps else f'{stages[0].estimate.step:.4g} s/step')
    sent = max((sum(each.times * each.sent for each in stage.collectives) for stage in stages), default=0.0)
    between = max((sum(each.times * each.between for each in stage.collectives) for stage in stages), default=0.0)
    said += [f'{sent / 2**20:,.1f} MiB sent by a device'] * bool(sent) + [f'{between / 2**20:,.1f} of them to other slices'] * bool(between)
    said += ['kept from an earlier command'] * one.kept
    return ', '.join(said)


def write(found: Ranking, folder: str) -> list[str]:
    """ranking.json, and plan.json and plan.png of the best that was compiled; their paths."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, JSON)
    with open(path + '.tmp', 'w', encoding='utf-8') as file:
        json.dump(found.as_json(), file, indent=1, default=making.plain, allow_nan=False)
        file.write('\n')
    os.replace(path + '.tmp', path)
    return [path, *(showing.write(found.compiled[0].plan, folder) if found.compiled else [])]
