"""The strategies of finished sweeps side by side: the score of each at its best learning rate, against what learns, memory and time of a step.

    python -m tests.benchmarks.pareto --sweeps=sweeps/trec,sweeps/ner --output=FOLDER [--turns=10]

A sweep is one of tests/benchmarks/strategies.txt, crossed with seeds where that is asked for. Of each strategy the rate with the best mean score counts. Then
the steps of all strategies are compiled for the same batch and take turns: seconds are the medians of the turns; memory is that of parameters and optimiser,
and XLA's own count of the step's temporaries, gradients and activations. With unfreezing, the step is that of the last stage. Writes pareto.md and
pareto.png.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
import os
import statistics
import tempfile
import time
from typing import Any

from absl import flags
import jax

from t5x_lite import cli
from t5x_lite.assemble import assemble
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.errors import UserError
from t5x_lite.evaluation import reporting
from t5x_lite.sweeps import table
from t5x_lite.training import devices, driving, features, partitioning, tuning
from t5x_lite.training.beginning import begun
from t5x_lite.training.step import make_program
from tests.benchmarks import finished_sweeps

FLAGS = flags.FLAGS

# The name of a strategy is that of the first of these fields that its runs name.
_NAMES = {
    'tune.features': lambda value: 'cached features',
    'tune.unfreeze': lambda value: 'unfreezing',
    'tune.freeze_layers': lambda value: f'bottom {value:.0%} frozen' if value < 1 else f'bottom {value} frozen',
    'tune.layer_decay': lambda value: f'layer decay {value}',
    'tune.adapters': lambda value: str(value),
    'tune.lora': lambda value: f'LoRA {value[0][1]}',
    'tune.ia3': lambda value: '(IA)^3',
    'tune.prefix': lambda value: f'prefix {value}',
    'tune.prompt': lambda value: f'prompt {value}',
    'tune.mixout': lambda value: f'mixout {value}',
    'optim.decay_to_init': lambda value: 'decay to the start',
    'tune.train': lambda value: 'bias only' if any('bias' in pattern for pattern in value) else 'head only',
}
_COSTS = {'learning': 'parameters that learn', 'megabytes': 'MB of a step', 'seconds': 'seconds a step'}


@dataclasses.dataclass
class Strategy:
    name: str
    task: str
    group: table.Group
    config: Config  # complete, of one of its runs
    learning: int
    megabytes: float = math.nan
    seconds: float = math.nan


def best_of_each(folder: str) -> tuple[str, list[Strategy]]:
    """(metric, strategies of a sweep, each at its best rate), in the order of its runs.

    Raises:
      UserError: no sweep, or runs that have not finished.
    """
    results = finished_sweeps.results_of(folder)
    best: dict[str, table.Group] = {}
    for group in results.groups:
        if len(group.ended) < len(group.rows):
            raise UserError(f'--sweeps={folder}: {len(group.rows) - len(group.ended)} runs have no scores, {group.rows[0].run.name} for one; finish the sweep first')
        name = name_of(group.rows[0].run.fields)
        if name not in best or (group.mean > best[name].mean) == results.highest:
            best[name] = group
    task = finished_sweeps.task_of(folder)
    found = []
    for name, group in best.items():
        row = group.rows[0]
        found.append(Strategy(name, task, group, from_json(os.path.join(row.run.workdir, 'config.json')), row.learning))
    return results.metric, found


def name_of(fields: dict[str, Any]) -> str:
    for field, name in _NAMES.items():
        if field in fields:
            return name(fields[field])
    return 'full'


def step_of(strategy: Strategy) -> Callable[[], None]:
    """A step of it on the first batch, compiled; its memory is noted."""
    config = strategy.config
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(config)
        train, _ = features.attach(run.config, folder, run.initial, run.train, run.validation)
        batch = train.batch(0)
    mesh = partitioning.make_mesh(run.config, jax.devices()[:1])
    program = make_program(run.config, mesh, max(tuning.stages(run.config.tune, run.config.steps)))
    asked = driving.Asked(0, program, batch, slice(0, config.batch_size), config.batch_size, begun(program, run.initial, say=lambda line: None))
    taker = driving.One()

    def step() -> None:
        taker.take(asked)
        jax.block_until_ready(taker.state)

    with jax.set_mesh(mesh):
        step()
        placed = partitioning.to_devices(batch, asked.shardings, asked.rows, asked.size)
        function, _ = driving.compiled(program, taker.state, placed)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(taker.state))
    strategy.megabytes = (state + function.memory_analysis().temp_size_in_bytes) / 1e6
    return step


def measure(strategies: Sequence[Strategy], turns: int) -> None:
    """Notes what a step of each takes, all of one task taking turns."""
    steps = []
    for strategy in strategies:
        steps.append(step_of(strategy))
        print(f'{strategy.task}, {strategy.name}: {strategy.megabytes:,.0f} MB', flush=True)
    spent: list[list[float]] = [[] for _ in steps]
    for _ in range(turns):
        for step, seconds in zip(steps, spent, strict=True):
            with jax.set_mesh(partitioning.make_mesh(strategies[0].config, jax.devices()[:1])):
                began = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - began)
    for strategy, seconds in zip(strategies, spent, strict=True):
        strategy.seconds = statistics.median(seconds)


def frontier(points: Sequence[tuple[float, float]], highest: bool) -> list[tuple[float, float]]:
    """Those (cost, score) that none beats in both, by cost."""
    found: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1] if highest else point[1])):
        if not found or (score > found[-1][1] if highest else score < found[-1][1]):
            found.append((cost, score))
    return found


def draw(tasks: dict[str, tuple[str, list[Strategy]]], figure_class: Any) -> Any:
    figure = figure_class(figsize=(15, 5.2 * len(tasks)), layout='constrained')
    names = list(dict.fromkeys(strategy.name for _, strategies in tasks.values() for strategy in strategies))
    unnamed = set(names)  # in the legend
    for row, (task, (metric, strategies)) in enumerate(tasks.items()):
        highest = not table.lower_is_better(metric)
        for column, (cost, title) in enumerate(_COSTS.items()):
            axes = figure.add_subplot(len(tasks), len(_COSTS), row * len(_COSTS) + column + 1)
            points = [(getattr(strategy, cost), strategy.group.mean) for strategy in strategies]
            axes.plot(*zip(*frontier(points, highest)), color='#bbbbbb', drawstyle='steps-post', zorder=1)
            for strategy, point in zip(strategies, points, strict=True):
                number = names.index(strategy.name)
                colour = reporting.PALETTE[number % len(reporting.PALETTE)]
                marker = 'osD^v'[number // len(reporting.PALETTE)]
                axes.scatter(*point, color=colour, marker=marker, zorder=2, label=strategy.name if strategy.name in unnamed else None)
                unnamed.discard(strategy.name)
            if cost == 'learning':
                axes.set_xscale('log')
            axes.set_xlabel(title)
            axes.set_ylabel(f'{task}: {metric}')
            axes.grid(alpha=0.3)
    figure.legend(loc='outside right upper', fontsize='small')
    return figure


def written(tasks: dict[str, tuple[str, list[Strategy]]]) -> str:
    """A table in Markdown."""
    lines = []
    for task, (metric, strategies) in tasks.items():
        lines += [f'| {task} | {metric} | best rate | learn | MB of a step | s a step |', '|---|---:|---:|---:|---:|---:|']
        for strategy in strategies:
            group = strategy.group
            deviation = f' ± {group.deviation:.3f}' if math.isfinite(group.deviation) else ''
            costs = f'{strategy.learning:,} | {strategy.megabytes:,.0f} | {strategy.seconds:.3f}'
            lines.append(f'| {strategy.name} | {group.mean:.3f}{deviation} | {group.rows[0].run.config.optim.learning_rate:g} | {costs} |')
        lines.append('')
    return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
    del argv
    figure_class = reporting.matplotlib_figure()
    tasks: dict[str, tuple[str, list[Strategy]]] = {}
    for folder in FLAGS.sweeps:
        metric, strategies = best_of_each(folder)
        devices.configure(strategies[0].config)
        tasks[strategies[0].task] = metric, strategies
    for _, strategies in tasks.values():
        measure(strategies, FLAGS.turns)
    finished_sweeps.write(FLAGS.output, 'pareto', written(tasks), draw(tasks, figure_class))


if __name__ == '__main__':
    flags.DEFINE_list('sweeps', None, 'Folders of sweeps, one a task.', required=True)
    flags.DEFINE_string('output', None, 'Folder that pareto.md and pareto.png go to.', required=True)
    flags.DEFINE_integer('turns', 10, 'Steps of each that are timed.', lower_bound=1)
    cli.run(main)
