"""What the runs of a sweep reached, side by side: sweep.md, sweep.csv, and the config of the best.

The scores of a run are those of its last evaluation; with config.checkpoint.best_metric, of the evaluation that was best by it, whose checkpoint is kept.
Runs that differ in nothing but `seed` and `data.fold` are a group, and judged by their mean.
"""

from collections.abc import Sequence
import csv
import dataclasses
import functools
import io
import json
import math
import os
from typing import Any

from t5x_lite import dry_run, remote
from t5x_lite.config import Best, CheckpointConfig, Config, MeshConfig
from t5x_lite.config_values import flatten, from_dict, from_json, to_dict, to_json
from t5x_lite.errors import UserError, nearest
from t5x_lite.evaluation import reporting, spread
from t5x_lite.sweeps import grid, runs
from t5x_lite.sweeps.plan import Planned, Sweep
from t5x_lite.training import partitioning

TABLE, ROWS, BEST = 'sweep.md', 'sweep.csv', 'best.json'
REPEATS = ('seed', 'data.fold')
_LOWER = ('loss', 'entropy', 'error', 'perplexity')  # in the names of metrics of which less is better
_MOST_SCORES = 5  # columns of sweep.md; sweep.csv has all


@dataclasses.dataclass(frozen=True)
class Row:
    run: Planned
    state: runs.State
    values: dict[str, Any]  # of the fields that vary, as JSON has them
    scores: dict[str, float]  # {} where it has not ended
    step: int  # of the scores; of an unfinished run, the last that it wrote of
    steps: int  # 0: not known yet
    seconds: float  # of training; compiling, evaluating and saving apart
    learning: int  # parameters; 0: not known yet


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that differ in `REPEATS` alone."""

    values: dict[str, Any]
    rows: list[Row]
    mean: float  # of the metric, over those that ended; nan: none did
    deviation: float  # nan for one

    @property
    def ended(self) -> list[Row]:
        return [row for row in self.rows if row.scores]


@dataclasses.dataclass(frozen=True)
class Results:
    rows: list[Row]
    groups: list[Group]
    metric: str
    highest: bool
    best: Group | None


def collect(sweep: Sweep) -> Results:
    """What is on disk.

    Raises:
      UserError: no run has the metric.
    """
    varied = fields_that_vary(sweep.runs)
    rows = [_row(run, varied) for run in sweep.runs]
    known = list(dict.fromkeys(name for row in rows for name in row.scores))
    wanted = sweep.metric or sweep.base.checkpoint.best_metric
    if known and wanted and wanted not in known:
        raise UserError(f'--metric={wanted}: no run has it, {nearest(wanted, known)}')
    metric = wanted or next((name for name in known if lower_is_better(name)), known[0] if known else '')
    highest = sweep.best == Best.highest.name if sweep.best else is_highest(metric, sweep.base.checkpoint)
    groups = _groups(rows, metric)
    # A group of which some runs failed or are still to come is no match for one that is whole.
    able = [group for group in groups if math.isfinite(group.mean)]
    whole = [group for group in able if len(group.ended) == len(group.rows)] or able
    best = (max if highest else min)(whole, key=lambda group: group.mean) if whole else None
    return Results(rows, groups, metric, highest, best)


def lower_is_better(metric: str) -> bool:
    return any(word in metric for word in _LOWER)


def is_highest(metric: str, config: CheckpointConfig) -> bool:
    """Whether more of it is better: as config.checkpoint.best says of its own metric, else by the name."""
    if metric == config.best_metric and config.best in (Best.lowest, Best.highest):
        return config.best is Best.highest
    return not lower_is_better(metric)


def fields_that_vary(planned: Sequence[Planned]) -> dict[str, list[Any]]:
    """{field: its values}, in the order in which the runs name them; all fields that a sweep of one run names."""
    named = dict.fromkeys(field for run in planned for field in run.fields)
    flat = [flatten(run.config) for run in planned]
    values: dict[str, list[Any]] = {}
    for field in named:
        for config in flat:
            if config[field] not in values.setdefault(field, []):
                values[field].append(config[field])
    return {field: found for field, found in values.items() if len(found) > 1 or len(planned) == 1}


def _row(run: Planned, varied: dict[str, list[Any]]) -> Row:
    state, flat = runs.state_of(run.workdir), flatten(run.config)
    values = {field: flat[field] for field in varied}
    path = os.path.join(run.workdir, 'config.json')
    if not remote.exists(path):
        return Row(run, state, values, {}, 0, 0, 0.0, 0)
    config = from_json(path)
    try:
        record = reporting.read_run(run.workdir, run.name)
    except UserError:  # it has no lines yet
        return Row(run, state, values, {}, 0, config.steps, 0.0, learning(config))
    last = max(steps[-1] for steps, _ in (*record.train.values(), *record.held_out.values()))
    scores, step = ({}, last) if state.kind != runs.FINISHED else _scores(record.held_out, config)
    return Row(run, state, values, scores, step, config.steps, record.seconds, learning(config))


def _scores(held_out: dict[str, reporting.Curve], config: Config) -> tuple[dict[str, float], int]:
    """({metric: value}, step) of the evaluation that counts."""
    step = max((steps[-1] for steps, _ in held_out.values()), default=0)
    if config.checkpoint.best_metric in held_out:
        steps, values = held_out[config.checkpoint.best_metric]
        step = steps[values.index((max if is_highest(config.checkpoint.best_metric, config.checkpoint) else min)(values))]
    found = {metric: values[steps.index(step)] for metric, (steps, values) in held_out.items() if step in steps}
    return found, step


def learning(config: Config) -> int:
    """Parameters that learn, in the end, of a complete config."""
    parts = {name: to_dict(getattr(config, name)) for name in ('model', 'tune', 'init_fresh', 'loss')}
    parts |= {'optim': {'decay': to_dict(config.optim.decay)}, 'steps': config.steps if config.tune.unfreeze else 1}
    return _learning(json.dumps(parts))


@functools.cache
def _learning(parts: str) -> int:
    # On any machine, wherever the run was.
    config = dataclasses.replace(from_dict(Config, json.loads(parts)), mesh=MeshConfig())
    return max(dry_run.learning(config, dry_run.unpadded(config, partitioning.make_mesh(config))).values())


def _groups(rows: Sequence[Row], metric: str) -> list[Group]:
    together: dict[str, list[Row]] = {}
    for row in rows:
        values = flatten(row.run.config)
        together.setdefault(json.dumps({name: value for name, value in values.items() if name not in REPEATS}), []).append(row)
    groups = []
    for members in together.values():
        values = {name: value for name, value in members[0].values.items() if name not in REPEATS}
        scores = [row.scores[metric] for row in members if metric in row.scores]
        # A run without the score (a correlation of constants) leaves the group without a mean.
        ended = sum(bool(row.scores) for row in members)
        mean, deviation = spread.over_seeds(scores) if scores and len(scores) == ended else (math.nan, math.nan)
        groups.append(Group(values, members, mean, deviation))
    return groups


def write(sweep: Sweep, results: Results) -> str:
    """Writes sweep.md, sweep.csv and best.json, and returns what the first holds."""
    text = as_markdown(sweep, results)
    rows = io.StringIO(newline='')
    _write_rows(rows, results)
    files = {TABLE: f'{text}\n', ROWS: rows.getvalue()}
    if results.best is not None:
        files[BEST] = f'{to_json(best_config(results.best))}\n'
    for name, content in files.items():
        remote.write(os.path.join(sweep.folder, name), content.encode())
    return text


def best_config(group: Group) -> Config:
    """Of its first run; where folds were compared, without them: all of the file is there to learn from, but for what validation_fraction holds out."""
    row = group.ended[0]
    config = from_json(os.path.join(row.run.workdir, 'config.json'))
    if 'data.fold' in row.values:
        config.data.folds = config.data.fold = 0
    return config


def _write_rows(file: Any, results: Results) -> None:
    fields = list(results.rows[0].values)
    scores = list(dict.fromkeys(name for row in results.rows for name in row.scores))
    writer = csv.writer(file)
    writer.writerow(['run', 'state', 'reason', *fields, 'step', 'steps', 'seconds', 'parameters_learning', *scores])
    for row in results.rows:
        values = [grid.as_text(field, row.values[field]) for field in fields]
        found = [row.scores[name] if name in row.scores else '' for name in scores]
        known = (row.step, row.steps or '', round(row.seconds, 3), row.learning or '')
        writer.writerow([row.run.name, row.state.kind, row.state.reason, *values, *known, *found])


def as_markdown(sweep: Sweep, results: Results) -> str:
    """The table of runs, that of means where runs are repeated, and what is best."""
    names = _short(list(results.rows[0].values))
    metric = results.metric
    others = [name for name in dict.fromkeys(name for row in results.rows for name in row.scores) if name != metric]
    shown = ([metric] if metric else []) + others[: _MOST_SCORES - 1]
    head = [*names.values(), *(name.replace('_', ' ') for name in shown), 'step', 'training', 'learns', 'run']
    rows = []
    for row in results.rows:
        scores = [_number(row.scores[name]) if name in row.scores else '-' for name in shown]
        step = f'{row.step:,}' if row.scores else f'{row.step:,} of {row.steps:,}' if row.steps else '-'
        learns = f'{row.learning:,}' if row.learning else '-'
        note = '' if row.state.kind == runs.FINISHED else f' ({row.state.kind})'
        rows.append([*(grid.as_text(name, row.values[name]) for name in names), *scores, step, f'{row.seconds:,.1f} s', learns, row.run.name + note])
    parts = [_aligned(head, rows, len(names), last_left=True)]
    if any(len(group.rows) > 1 for group in results.groups) and metric:
        fields = [name for name in names if name not in REPEATS]
        head = [*(names[name] for name in fields), f'{metric.replace("_", " ")}, mean', 'standard deviation', 'runs']
        rows = []
        for group in results.groups:
            counted = f'{len(group.ended)}' + (f' of {len(group.rows)}' if len(group.ended) < len(group.rows) else '')
            rows.append([*(grid.as_text(name, group.values[name]) for name in fields), _number(group.mean), _number(group.deviation), counted])
        parts.append(_aligned(head, rows, len(fields)))
    failed = [row for row in results.rows if row.state.reason]
    parts += ['\n'.join(f'- {row.run.name} {row.state.kind}: {row.state.reason}' for row in failed)] if failed else []
    parts.append(_in_words(sweep, results))
    return '\n\n'.join(parts)


def _in_words(sweep: Sweep, results: Results) -> str:
    ended = sum(row.state.kind == runs.FINISHED for row in results.rows)
    lines = [f'{ended:,} of {len(results.rows):,} runs are finished.']
    if results.best is not None:
        group = results.best
        values = ', '.join(f'{name}={grid.as_text(name, value)}' for name, value in group.values.items()) or 'all alike'
        several = len(group.ended) > 1
        how = ('highest' if results.highest else 'lowest') + (' mean' if several else '')
        score = _number(group.mean) + (f' ± {_number(group.deviation)}, {len(group.ended)} runs' if several else '')
        lines.append(f'Best by {results.metric} ({how}): {values} ({score}). Its config: {os.path.join(sweep.folder, BEST)}')
        if len(group.ended) < len(group.rows):
            lines.append('No group of runs is whole yet.')
    return '\n'.join(lines)


def _short(fields: Sequence[str]) -> dict[str, str]:
    """{'optim.learning_rate': 'learning rate'}, whole names where the last parts are not told apart."""
    lasts = [field.rpartition('.')[2] for field in fields]
    return {field: last.replace('_', ' ') if lasts.count(last) == 1 else field for field, last in zip(fields, lasts, strict=True)}


def _number(value: float) -> str:
    return f'{value:.4f}' if math.isfinite(value) else '-'


def _aligned(head: list[str], rows: list[list[str]], left: int, last_left: bool = False) -> str:
    """Markdown; the first `left` columns, and the last where that is asked for, are aligned to the left."""
    cells = [[cell.replace('|', '\\|') for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lefts = [column < left or (last_left and column == len(head) - 1) for column in range(len(head))]
    rule = ['-' * width if is_left else '-' * (width - 1) + ':' for width, is_left in zip(widths, lefts, strict=True)]
    return '\n'.join(
        '| ' + ' | '.join(cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in zip(row, widths, lefts, strict=True)) + ' |'
        for row in (cells[0], rule, *cells[1:])
    )
