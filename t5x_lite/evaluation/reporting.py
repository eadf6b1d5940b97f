"""Curves as a picture and scores as a table, from what runs leave behind: metrics.jsonl, config.json and evaluation.json."""

from collections.abc import Sequence
import dataclasses
import json
import math
import os
from typing import Any

from t5x_lite import mirrors, remote
from t5x_lite.errors import UserError, nearest
from t5x_lite.training import goodput

CURVES, SUMMARY = 'curves.png', 'summary.md'

# What `evaluate`, and tests/benchmarks/mlm_baselines.py, write beside a score: metric -> ((its key in evaluation.json, its name in the picture), ...).
BASELINES = {
    'mlm_loss': (('unigram_loss', 'unigram'), ('two_sided_loss', 'two-sided bigrams')),
    'lm_loss': (('unigram_loss', 'unigram'),),
    'mlm_accuracy': (('most_frequent_token_accuracy', 'most frequent token'), ('two_sided_accuracy', 'two-sided bigrams')),
}
_HELD_OUT = 'eval/'
PALETTE = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#444444')  # told apart by colour-blind people too (Okabe and Ito)

Curve = tuple[list[int], list[float]]  # steps, values


@dataclasses.dataclass
class RunRecord:
    """A run as it is on disk."""

    name: str
    config: dict[str, Any]
    train: dict[str, Curve]  # of each metric; a value is the mean over the steps since the one before
    held_out: dict[str, Curve]  # of evaluations while it trained
    scores: dict[str, float]  # of evaluation.json; without one, the last held-out ones. `step` is among them
    seconds: float  # of training; compiling, evaluating and saving apart
    goodput: goodput.Summary | None  # None: it was trained before there was one


def report(workdirs: Sequence[str], output: str, metrics: Sequence[str] = ()) -> str:
    """Writes OUTPUT/curves.png and OUTPUT/summary.md, and returns what the latter holds.

    Args:
      metrics: to draw, in this order; () all that have both a training curve and held-out values.

    Raises:
      UserError: matplotlib is not installed; a folder is not a run, or has nothing to show; an unknown metric.
    """
    figure_class = matplotlib_figure()
    runs = read_runs(workdirs)
    drawn = _metrics(runs, metrics)
    os.makedirs(output, exist_ok=True)
    draw(runs, drawn, figure_class).savefig(os.path.join(output, CURVES), dpi=150)
    text = table(runs)
    with open(os.path.join(output, SUMMARY), 'w', encoding='utf-8') as file:
        file.write(text + '\n')
    return text


def read_runs(workdirs: Sequence[str]) -> list[RunRecord]:
    """The runs, each under the shortest ending of its path that no other has: runs/a/x, runs/b/x, runs/y -> a/x, b/x, y."""
    paths = list(dict.fromkeys(remote.absolute(path) for path in workdirs))
    if not paths:
        raise UserError('--workdirs is empty; give the folders of runs, separated by commas')
    return [read_run(path, _ending(path, paths)) for path in paths]


def _of_tasks(written: dict[str, Any]) -> dict[str, float]:
    """{'sst2 accuracy': 90.0, 'sst2 accuracy, 4 shots': 71.0, ...} of an evaluation.json with tasks in it."""
    found = {}
    for asked, tasks in written['tasks'].items() if 'tasks' in written else ():
        for task, scores in tasks.items():
            found |= {f'{task} {metric}' + (f', {asked}' if asked != 'as taught' else ''): value for metric, value in scores.items() if value is not None}
    return found


def _ending(path: str, paths: list[str]) -> str:
    parts = path.split(os.sep)
    endings = ('/'.join(parts[-depth:]) for depth in range(1, len(parts)))
    return next((ending for ending in endings if sum(other.replace(os.sep, '/').endswith('/' + ending) for other in paths) == 1), path)


def read_run(workdir: str, name: str) -> RunRecord:
    """The record of a folder. A line that is cut short is passed over at the end of metrics.jsonl, where a live run writes, and nowhere else."""
    config = _json(os.path.join(workdir, 'config.json'), f'{workdir} is not the folder of a run (no config.json); name what --workdir of train was')
    path = os.path.join(workdir, 'metrics.jsonl')
    try:
        lines = remote.read(path).decode().splitlines()
    except FileNotFoundError:
        lines = []
    train, held_out, seconds, last = {}, {}, 0.0, 0
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            step = values.pop('step')
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise UserError(f'{path}:{number}: not an object with a step; repeat the train command, which mends the file') from error
        for key, value in values.items():
            if isinstance(value, (int, float)):
                curves, metric = (held_out, key.removeprefix(_HELD_OUT)) if key.startswith(_HELD_OUT) else (train, key)
                steps, points = curves.setdefault(metric, ([], []))
                steps.append(step)
                points.append(value)
        if 'seconds_per_step' in values:
            seconds += values['seconds_per_step'] * (step - last)
            last = step
    if not train and not held_out:
        raise UserError(f'{path} has no lines yet; wait until the run has made config.log.every_steps steps')
    path = os.path.join(workdir, 'evaluation.json')
    if remote.exists(path):
        written = _json(path, '')
        scores = {metric: value for metric, value in written.items() if isinstance(value, (int, float))} | _of_tasks(written)
    else:
        scores = {metric: points[-1] for metric, (_, points) in held_out.items()}
        scores['step'] = max((steps[-1] for steps, _ in held_out.values()), default=last)
    return RunRecord(name, config, train, held_out, scores, seconds, goodput.read(mirrors.folder_of(workdir)))


def _json(path: str, absent: str) -> dict[str, Any]:
    try:
        return json.loads(remote.read(path))
    except FileNotFoundError as error:
        raise UserError(absent) from error
    except json.JSONDecodeError as error:
        raise UserError(f'{path}:{error.lineno}: not JSON ({error.msg}); run the command that writes it again') from error


def _metrics(runs: list[RunRecord], wanted: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(metric for run in runs for metric in [*run.held_out, *run.train]))
    for metric in wanted:
        if metric not in known:
            raise UserError(f'--metrics={metric}: no run has it, {nearest(metric, known)}')
    both = [metric for metric in known if any(metric in run.held_out and metric in run.train for run in runs)]
    return list(wanted) or both or ['loss']


def draw(runs: list[RunRecord], metrics: Sequence[str], figure_class: Any) -> Any:
    """A figure with a panel a metric and a colour a run: training thin, held out with points, baselines dashed."""
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = figure_class(figsize=(4.6 * columns, 3.7 * rows), layout='constrained')
    colours = {run.name: PALETTE[index % len(PALETTE)] for index, run in enumerate(runs)}
    for index, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, index + 1)
        baselines, last = set(), 0
        shown = [run for run in runs if metric in run.train or metric in run.held_out]
        for run in shown:
            prefix = f'{run.name}, ' if len(shown) > 1 else ''
            if metric in run.train:
                axes.plot(*run.train[metric], color=colours[run.name], linewidth=0.9, alpha=0.4, label=f'{prefix}training')
                last = max(last, run.train[metric][0][-1])
            if metric in run.held_out:
                axes.plot(*run.held_out[metric], color=colours[run.name], linewidth=1.8, marker='o', markersize=4, label=f'{prefix}held out')
                last = max(last, run.held_out[metric][0][-1])
            baselines |= {(name, run.scores[key]) for key, name in BASELINES.get(metric, ()) if key in run.scores}
        styles = dict(zip(sorted({name for name, _ in baselines}, reverse=True), ('--', ':', '-.')))
        for name, value in sorted(baselines):
            axes.axhline(value, color='#333333', linewidth=1.1, linestyle=styles[name], label=f'{name}: {value:.3g}')
        axes.set_title(metric.replace('_', ' '))
        axes.set_xlabel('step')
        axes.set_xlim(0, last * 1.02)
        if 'accuracy' in metric:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure


def table(runs: list[RunRecord]) -> str:
    """Markdown: runs that have the same scores share a table, a row each. Below, the goodput of each run."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(set(run.scores) - {'step'})), []).append(run)
    lines = [f'- {run.name}: {run.goodput}' for run in runs if run.goodput]
    return '\n\n'.join([*map(_rows, groups.values()), *['\n'.join(lines)] * bool(lines)])


def _rows(runs: list[RunRecord]) -> str:
    scores = [name for name in runs[0].scores if name != 'step']
    rows = [['run', 'weights', 'step', *(name.replace('_', ' ') for name in scores), 'training']]
    for run in runs:
        source = run.config.get('init_from') if run.config.get('init_weights', True) else ''
        weights = f'from {os.path.basename(os.path.normpath(source))}' if source else 'from random'
        time = f'{int(run.seconds) // 60}:{int(run.seconds) % 60:02} min'
        rows.append([run.name, weights, f'{run.scores["step"]:,}', *(f'{run.scores[name]:.4f}' for name in scores), time])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ['-' * width if column < 2 else '-' * (width - 1) + ':' for column, width in enumerate(widths)]

    def line(row):
        cells = (cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        return f'| {" | ".join(cells)} |'

    return '\n'.join(map(line, [rows[0], rule, *rows[1:]]))


def matplotlib_figure() -> Any:
    """Its Figure, which draws into files and needs no display."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError(
            "pictures need matplotlib, which is not installed; run  python -m pip install 'matplotlib>=3.8'  (in a clone: python -m pip install -e '.[report]')"
        ) from error
    return Figure
