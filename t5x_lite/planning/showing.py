"""A plan as text, plan.json and a picture."""

import json
import os
from typing import Any

from t5x_lite.evaluation import reporting
from t5x_lite.planning import making
from t5x_lite.planning.making import Plan, StagePlan
from t5x_lite.training.telemetry import duration

JSON, PICTURE = 'plan.json', 'plan.png'
_MOST_ROWS = 16  # of the table of collectives; plan.json has them all


def text(plan: Plan) -> str:
    """What a person reads first: does it fit, how long does it take, what stands in its way."""
    axes = ' x '.join(f'{axis}={size}' for axis, size in plan.mesh.items() if size > 1) or 'one device'
    how = '' if plan.compiled else ' (not compiled: formulas, and FLOPs of the program before its compiler)'
    parts = [f'{plan.parameters:,} parameters on {plan.topology.shown}: {plan.topology.chips:,} x {plan.topology.chip.name}, mesh {axes}{how}']
    for stage in plan.stages:
        parts += ['\n'.join(lines) for lines in _stage(plan, stage) if lines]
    parts += ['\n'.join(_run(plan)), '\n'.join(['assumed:', *(f'  {line}' for line in plan.assumptions)])]
    return '\n\n'.join(parts)


def _stage(plan: Plan, stage: StagePlan) -> list[list[str]]:
    start, length, rows, predictions = stage.stage
    compiled = f', compiled in {stage.seconds:.0f} s' if plan.compiled else ''
    lines = [[f'{stage.steps:,} steps from step {start:,}: {rows:,} rows of {length:,} ({predictions:,} predicted a row){compiled}']]
    lines[0].append(_fits(stage))
    lines.append(_memory(plan, stage))
    lines.append([f'what would make it fit:{"".join(f"{chr(10)}  {mend}" for mend in stage.mends)}'] if stage.mends else [])
    if stage.flops:
        ratio = stage.flops / stage.model_flops
        what = 'compiled' if plan.compiled else 'in the program'
        lines.append([f"FLOPs of a step: {stage.flops:.4g} {what}, {stage.model_flops:.4g} by the model's formula ({ratio:.3f} x)"])
        if stage.untold:
            lines[-1].append(f'  too low: {len(stage.untold)} loops do not tell how often they run, and count once ({", ".join(stage.untold[:3])})')
    lines.append(_collectives(plan, stage))
    if stage.predicted is not None:
        lines.append([f'a step takes {stage.predicted:.4g} s, MFU {stage.predicted_mfu:.1%}, by formulas that are held to published runs'])
    if stage.estimate is not None:
        found = stage.estimate
        by = " by the compiler's own cost model" if found.modelled != found.busy else ''
        lines[-1] += [
            f'  as the compiler has scheduled it {found.step:.4g} s, MFU {stage.mfu:.1%}; at best {found.best:.4g} s and {stage.mfu * found.step / found.best:.1%}',
            f"  computing {found.modelled:.4g} s{by}, communication waited for {found.waited:.4g} s, hidden {found.hidden:.4g} s",
            f'  at best: products {found.products:.4g} s, main memory {found.memory:.4g} s, both as scheduled {found.busy:.4g} s',
        ]
    if stage.gates:
        lines.append(['gates:', *(f'  {"held  " if gate.held else "MISSED"}  {gate.name}: {gate.said}' for gate in stage.gates)])
    return lines


def _fits(stage: StagePlan) -> str:
    used, room = stage.used / 2**30, stage.room / 2**30
    if stage.fits is None:
        return f'memory: {used:,.3f} GiB a device (what these devices have is not known)'
    if stage.fits:
        return f'fits: {used:,.2f} of {room:,.2f} GiB a chip ({used / room:.1%})'
    if not stage.used:
        return f'does not fit into {room:,.2f} GiB a chip; the compiler does not say by how much'
    return f'does not fit: {used:,.2f} GiB of {room:,.2f} a chip, {used - room:,.2f} too many'


def _memory(plan: Plan, stage: StagePlan) -> list[str]:
    what = 'of what a step is given and its gradients' if stage.fits is False and plan.compiled else 'by kind'
    return [f'memory of a device {what}, MiB:', *(f'  {kind:<16}{size / 2**20:>14,.1f}' for kind, size in stage.memory.items() if size)]


def _collectives(plan: Plan, stage: StagePlan) -> list[str]:
    if not stage.collectives:
        return []
    title = 'collectives' if plan.compiled else 'collectives by the shapes'
    total = sum(one.times * one.sent for one in stage.collectives)
    lines = [f'{title} of a step ({total / 2**20:,.1f} MiB sent by each device):']
    if between := sum(one.times * one.between for one in stage.collectives):
        network = plan.topology.chip.network
        how_long = f', {between / network:.4g} s at {network / 1e9:g} GB/s a chip' if network else ''
        lines.append(f'  of it {between / 2**20:,.1f} MiB to other slices{how_long}: (slices) marks what crosses the data-centre network')
    lines.append(f'  {"kind":<18} {"axes":<16} {"MiB":>10} {"times":>6}  {"overlapped" if plan.compiled else "":<10}  where')
    rows: dict[tuple[Any, ...], list[float]] = {}
    for one in stage.collectives:
        overlapped = f'{one.hidden:.0%}' if plan.compiled else ''
        key = one.kind, '+'.join(one.axes) + ' (slices)' * (one.slices > 1), one.bytes, overlapped, _short(one.place or one.name)
        row = rows.setdefault(key, [0, 0.0])
        row[0] += one.times
        row[1] += one.times * one.sent
    ordered = sorted(rows.items(), key=lambda row: -row[1][1])
    for (kind, axes, size, overlapped, place), (times, _) in ordered[:_MOST_ROWS]:
        lines.append(f'  {kind:<18} {axes:<16} {size / 2**20:>10,.3f} {times:>6,}  {overlapped:<10}  {place}')
    if len(ordered) > _MOST_ROWS:
        rest = sum(sent for _, (_, sent) in ordered[_MOST_ROWS:])
        lines.append(f'  and {len(ordered) - _MOST_ROWS} kinds of smaller ones, {rest / total:.1%} of the bytes ({JSON} has all)')
    return lines


def _short(place: str) -> str:
    """The end of where JAX says that it comes from: module and operation."""
    parts = [part for part in place.split('/') if part not in ('closed_call', 'checkpoint', 'while', 'body', 'layers', 'rematted_computation')]
    backward = 'backward: ' if 'transpose(' in place else ''
    return backward + '/'.join(parts[-3:])


def _run(plan: Plan) -> list[str]:
    if plan.seconds is None:
        return ['the whole run: no estimate, no figures of these devices are published']
    fit = '' if all(stage.fits for stage in plan.stages) else ', were there memory for it'
    hours = plan.chip_hours
    lines = [f'the whole run of {sum(stage.steps for stage in plan.stages):,} steps: about {duration(plan.seconds)}, {hours:,.1f} chip-hours{fit}']
    if plan.price:
        lines.append(f'  at {plan.price:g} a chip for an hour: {hours * plan.price:,.0f}')
    return lines


def write(plan: Plan, folder: str) -> list[str]:
    """plan.json and plan.png in a folder, which is made; their paths."""
    figure = reporting.matplotlib_figure()
    os.makedirs(folder, exist_ok=True)
    written = [os.path.join(folder, JSON), os.path.join(folder, PICTURE)]
    with open(written[0] + '.tmp', 'w', encoding='utf-8') as file:
        json.dump(plan.as_json(), file, indent=1, default=making.plain, allow_nan=False)
        file.write('\n')
    os.replace(written[0] + '.tmp', written[0])
    draw(plan, figure).savefig(written[1], dpi=120)
    return written


def draw(plan: Plan, figure_class: Any) -> Any:
    """A row a stage: memory by kind against the chip's, and the terms of the roofline."""
    figure = figure_class(figsize=(11, 1.5 + 2.1 * len(plan.stages)), layout='constrained')
    axes = figure.subplots(len(plan.stages), 2, squeeze=False)
    figure.suptitle(f'{plan.parameters:,} parameters on {plan.topology.shown}{"" if plan.compiled else " (not compiled)"}', fontsize=10)
    for stage, (left, right) in zip(plan.stages, axes, strict=True):
        start = 0.0
        for number, (kind, size) in enumerate((kind, size) for kind, size in stage.memory.items() if size):
            left.barh([0], [size / 2**30], left=[start], color=f'C{number}', label=kind, height=0.6)
            start += size / 2**30
        if stage.room:
            left.axvline(stage.room / 2**30, color='black', linestyle='--', linewidth=1, label='a chip has')
        left.set(yticks=[], xlabel='GiB of a device', title=f'{stage.stage[2]:,} x {stage.stage[1]:,}')
        left.title.set_fontsize(8)
        if stage.predicted is None:
            right.text(0.5, 0.5, 'no estimate of time', ha='center', va='center', fontsize=9)
            right.set_axis_off()
            continue
        terms, said = {'by formulas': stage.predicted}, f'MFU {stage.predicted_mfu:.1%} by formulas'
        if stage.estimate is not None:
            found = stage.estimate
            terms |= {'as scheduled': found.step, 'at best': found.best, 'products': found.products, 'memory': found.memory, 'waited for': found.waited}
            said += f', {stage.mfu:.1%} as scheduled'
        right.barh(list(terms), [1e3 * seconds for seconds in terms.values()], color='C0')
        right.invert_yaxis()
        right.set(xlabel='ms of a step')
        right.set_title(said, fontsize=8)
        right.tick_params(labelsize=7)
    handles = {label: handle for row in axes for handle, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=7, ncols=len(handles), loc='outside lower center')
    return figure
