"""The data-efficiency curve of finished sweeps: scores against labelled examples, from pretrained weights, from random ones, and of a bag of words.

    python -m tests.benchmarks.curve --sweeps=sweeps/trec,sweeps/sst2 --output=FOLDER

A sweep is one of tests/benchmarks/curve.txt crossed with seeds; the bag of words learns from the same subsets here. Writes curve.md and curve.png: means over
seeds, standard deviations, and a point a run.
"""

from collections.abc import Sequence
import os
import statistics

from absl import flags
import numpy as np

from t5x_lite import cli
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.data.tables import LabelledExamples
from t5x_lite.errors import UserError
from t5x_lite.evaluation import bag_of_words, reporting
from tests.benchmarks import finished_sweeps

FLAGS = flags.FLAGS

PRETRAINED, SCRATCH = 'pretrained', 'from scratch'
Curves = dict[str, dict[int, list[float]]]  # {line: {examples: scores}}


def curves(folder: str) -> tuple[str, Curves]:
    """(metric, scores in percent) of a sweep, those of runs that have not finished left out.

    Raises:
      UserError: no sweep, or no run has finished.
    """
    results = finished_sweeps.results_of(folder)
    found: Curves = {PRETRAINED: {}, SCRATCH: {}, bag_of_words.BAG_OF_WORDS: {}}
    read = set()
    for row in results.rows:
        if not row.scores:
            continue
        config = from_json(os.path.join(row.run.workdir, 'config.json'))
        examples = LabelledExamples(config, 'train', config.seed, config.data.seq_len)
        count = len(examples)
        found[PRETRAINED if config.init_weights else SCRATCH].setdefault(count, []).append(100 * row.scores[results.metric])
        subset = (config.data.max_examples, config.seed if config.data.max_examples else 0)  # all examples are the same for every seed
        if subset not in read:
            read.add(subset)
            found[bag_of_words.BAG_OF_WORDS].setdefault(count, []).append(100 * of_words(config, examples, results.metric))
    if not read:
        raise UserError(f'--sweeps={folder}: no run has finished; finish the sweep first')
    return results.metric, found


def of_words(config: Config, train: LabelledExamples, metric: str) -> float:
    held_out = LabelledExamples(config, 'validation', config.seed, config.data.seq_len)
    scores = bag_of_words.measure(train.texts, train.labels, held_out.texts, held_out.labels, train.num_labels)
    return scores[bag_of_words.BAG_OF_WORDS][metric]


def written(tasks: dict[str, tuple[str, Curves]]) -> str:
    """Tables in Markdown."""
    lines = []
    for task, (metric, found) in tasks.items():
        counts = sorted({count for line in found.values() for count in line})
        lines += [f'| {task}, {metric} in % | ' + ' | '.join(f'{count:,}' for count in counts) + ' |', '|---' * (len(counts) + 1) + '|']
        for name, line in found.items():
            cells = [_cell(line[count]) if count in line else '' for count in counts]
            lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
        lines.append('')
    return '\n'.join(lines)


def _cell(scores: list[float]) -> str:
    mean = f'{statistics.mean(scores):.1f}'
    return f'{mean} ± {statistics.stdev(scores):.1f} ({len(scores)})' if len(scores) > 1 else mean


def draw(tasks: dict[str, tuple[str, Curves]], figure_class):
    figure = figure_class(figsize=(6.4 * len(tasks), 4.8), layout='constrained')
    for number, (task, (metric, found)) in enumerate(tasks.items(), 1):
        axes = figure.add_subplot(1, len(tasks), number)
        for colour, (name, line) in zip(reporting.PALETTE, found.items()):
            counts = sorted(line)
            means = np.array([statistics.mean(line[count]) for count in counts])
            spread = np.array([statistics.stdev(line[count]) if len(line[count]) > 1 else 0.0 for count in counts])
            axes.plot(counts, means, color=colour, label=name)
            axes.fill_between(counts, means - spread, means + spread, color=colour, alpha=0.15, linewidth=0)
            axes.scatter([count for count in counts for _ in line[count]], [score for count in counts for score in line[count]], color=colour, s=14)
        axes.set_xscale('log')
        ticks = sorted({count for line in found.values() for count in line})
        axes.set_xticks(ticks, [f'{count:,}' for count in ticks])
        axes.minorticks_off()
        axes.set_xlabel('labelled examples')
        axes.set_ylabel(f'{metric}, %')
        axes.set_title(task)
        axes.grid(alpha=0.3)
        axes.legend(loc='lower right')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    figure_class = reporting.matplotlib_figure()
    tasks = {finished_sweeps.task_of(folder): curves(folder) for folder in FLAGS.sweeps}
    finished_sweeps.write(FLAGS.output, 'curve', written(tasks), draw(tasks, figure_class))


if __name__ == '__main__':
    flags.DEFINE_list('sweeps', None, 'Folders of sweeps, one a task.', required=True)
    flags.DEFINE_string('output', None, 'Folder that curve.md and curve.png go to.', required=True)
    cli.run(main)
