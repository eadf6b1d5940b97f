"""How time and memory grow: with length, width, depth, batch and vocabulary of a training step, with the corpus, the tasks of a mixture and the number of
devices.

    python -m tests.benchmarks.growth --text=BOOKS/train [--axes=length,width,depth,batch,vocabulary,corpus,tasks,devices] [--dtype=float32] [--turns=5]
        [--output=FOLDER]

Each axis doubles from size to size with all else the same, and the sizes take turns. An exponent is the slope of log(measured) over log(size): over all sizes
(least squares) and over the last doubling. What theory allows is an upper bound on the latter: with 1 what grows does so in proportion at most, with 0 it
stays. Small sizes are dominated by what does not grow. FLOPs are those of the products in the compiled step, times the trips of its loops; memory is XLA's
own count of temporaries: neither depends on how busy the machine is. `devices` compiles for so many without having them, the batch growing in proportion:
FLOPs, memory and bytes sent are those of one device. Writes growth.md and growth.png where --output says.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
import numpy as np

from configs import gpt as gpt_config, t5_tasks
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import AttentionKernel, DType, Layout
from t5x_lite.data import pipeline, preparation
from t5x_lite.errors import UserError, nearest
from t5x_lite.evaluation import reporting
from t5x_lite.planning import hlo, products
from t5x_lite.tasks import registry
from t5x_lite.training import devices
from tests.benchmarks import finished_sweeps, steps

FLAGS = flags.FLAGS

SECONDS, MEMORY, FLOPS = 's a step', 'MB of temporaries', 'GFLOPs'


@dataclasses.dataclass
class Size:
    """One point of an axis.

    Attributes:
      turn: what is timed; None: nothing.
      known: {quantity: value} that needs no clock.
    """

    size: int
    turn: Callable[[], Any] | None = None
    known: dict[str, float] = dataclasses.field(default_factory=dict)
    timed: str = SECONDS


@dataclasses.dataclass(frozen=True)
class Axis:
    sizes: tuple[int, ...]
    made: Callable[[tuple[int, ...]], list[Size]]
    theory: dict[str, float]  # {quantity: the largest exponent}
    says: str


def step_of(**chosen: int) -> Size:
    """A step of a GPT with one size of its own; the axis is what `chosen` names."""
    (name, size), = chosen.items()
    of = {'length': 256, 'width': 256, 'depth': 4, 'batch': 8, 'vocabulary': 4096} | chosen
    config = gpt_config.get_config('gpt2')
    config.steps, config.batch_size, config.data.seq_len = 1_000_000, of['batch'], of['length']
    model = config.model
    model.num_layers, model.d_model, model.num_heads, model.d_ff = of['depth'], of['width'], of['width'] // 64, 4 * of['width']
    model.vocab_size, model.max_positions, model.attention = of['vocabulary'], of['length'], AttentionKernel.blockwise
    model.dropout, model.attention_dropout, model.dtype = 0.1, 0.1, DType(FLAGS.dtype)
    config = finalize(config)
    batch = steps.causal_batch(of['batch'], of['length'], of['vocabulary'])
    program, step = steps.compiled(config, batch)
    known = {MEMORY: step.memory_analysis().temp_size_in_bytes / 1e6, FLOPS: products.total(hlo.parse(step.as_text())) / 1e9}
    return Size(size, steps.running(program, step, batch), known)


def of_model(name: str) -> Callable[[tuple[int, ...]], list[Size]]:
    return lambda sizes: [step_of(**{name: size}) for size in sizes]


def of_corpus(sizes: tuple[int, ...]) -> list[Size]:
    """Preparing so many MB of text, by this process alone, and a batch of what comes out."""
    found = []
    folder = tempfile.mkdtemp()
    text = ''.join(_texts())
    if not text:
        raise UserError(f'--text={FLAGS.text} has no text; give a folder of .txt files')
    for size in sizes:
        source = os.path.join(folder, f'{size}.txt')
        with open(source, 'w', encoding='utf-8') as file:
            file.write((text * (1 + size * 1_000_000 // len(text)))[: size * 1_000_000])
        began = time.perf_counter()
        subprocess.run(
            [
                sys.executable, '-c', 'import re, sys; from t5x_lite.data import preparation as p\n'
                'p.prepare(p.Settings(input=(sys.argv[1],), output=sys.argv[2], vocab_size=2000, documents="paragraph", tokenizer_characters=1_000_000, workers=1), log=len)\n'
                # getrusage would count what this process had when it began that one.
                'print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024, file=open(sys.argv[2] + ".rss", "w"))',
                source, os.path.join(folder, str(size)),
            ],
            check=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        with open(os.path.join(folder, f'{size}.rss'), encoding='utf-8') as file:
            known = {'s to prepare': seconds, 'MB to prepare': float(file.read())}
        config = gpt_config.get_config('gpt2')
        config.steps, config.batch_size, config.data.seq_len, config.data.path, config.data.workers = 1_000_000, 32, 256, (os.path.join(folder, str(size)),), 0
        loader = pipeline.DataFunction(finalize(config), 'train').loader(0, 1 << 40)
        next(loader)
        found.append(Size(size, functools.partial(_batches, loader, 20), known, 's for 20 batches'))
    return found


def _batches(loader: Any, count: int) -> None:
    for _ in range(count):
        next(loader)


def _texts() -> list[str]:
    names = sorted(os.path.join(root, name) for root, _, files in os.walk(FLAGS.text) for name in files if name.endswith('.txt'))
    return [open(name, encoding='utf-8', errors='replace').read() for name in names[:20]]


class _Rows:
    """A source of a task, in memory."""

    splits = ('train',)

    def __init__(self, number: int):
        draw = random.Random(number)
        words = [''.join(draw.choices('abcdefghij', k=5)) for _ in range(200)]
        self._rows = [{'inputs': ' '.join(draw.choices(words, k=12)), 'targets': draw.choice(words)} for _ in range(500)]

    def read(self, split: str, tfds_dir: str | None = None) -> list[tuple[str, dict[str, str]]]:
        del split, tfds_dir
        return [(f'row {i}', row) for i, row in enumerate(self._rows)]


def of_tasks(sizes: tuple[int, ...]) -> list[Size]:
    """Batches of mixtures of so many tasks of 500 rows each, tokenized ahead of the turns."""
    folder = tempfile.mkdtemp()
    source = os.path.join(folder, 'text.txt')
    with open(source, 'w', encoding='utf-8') as file:
        for row in _Rows(0).read('train'):
            file.write(row[1]['inputs'] + '.\n\n')
    corpus = os.path.join(folder, 'corpus')
    preparation.prepare(preparation.Settings(input=(source,), output=corpus, tokenizer='sentencepiece', vocab_size=300, documents='paragraph', workers=1), log=len)
    for number in range(max(sizes)):
        registry.register(registry.Task(f'growth_{number}', _Rows(number), _as_it_is, hold_out=False))
    found = []
    for size in sizes:
        config = t5_tasks.get_config()
        config.steps, config.data.path, config.data.seq_len, config.data.target_len, config.data.workers = 1_000_000, (corpus,), 128, 32, 0
        config.data.layout = Layout.encoder_decoder
        config.data.tasks.names = tuple(f'growth_{number}' for number in range(size))
        loader = pipeline.DataFunction(finalize(config), 'train').loader(0, 1 << 40)
        next(loader)
        found.append(Size(size, functools.partial(_batches, loader, 20), timed='s for 20 batches'))
    return found


def _as_it_is(row: dict[str, str]) -> dict[str, str]:
    return row


def of_devices(sizes: tuple[int, ...]) -> list[Size]:
    """Of one device, where each has as many rows; parameters and optimiser on each (data), or divided (fsdp)."""
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [
                    sys.executable, '-m', 't5x_lite.plan', '--config=configs/gpt.py:gpt2', f'--topology=cpu:{size}', f'--config.batch_size={4 * size}', '--config.data.seq_len=128',
                    '--config.model.num_layers=2', '--config.model.d_model=256', '--config.model.num_heads=4', '--config.model.d_ff=1024', '--config.model.vocab_size=4096',
                    f'--output={folder}',
                ],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            with open(os.path.join(folder, 'plan.json'), encoding='utf-8') as file:
                stage = json.load(file)['stages'][0]
        sent = sum(one['sent'] * one['times'] for one in stage['collectives'])
        found.append(Size(size, known={'GFLOPs of a device': stage['flops'] / size / 1e9, 'MB of a device': stage['used'] / 1e6, 'MB sent by a device': sent / 1e6}))
    return found


AXES = {
    'length': Axis((256, 512, 1024, 2048, 4096), of_model('length'), {SECONDS: 2, MEMORY: 1, FLOPS: 2}, 'tokens of 8 rows'),
    'width': Axis((128, 256, 512, 1024), of_model('width'), {SECONDS: 2, MEMORY: 2, FLOPS: 2}, 'd_model, heads of 64'),
    'depth': Axis((2, 4, 8, 16, 32), of_model('depth'), {SECONDS: 1, MEMORY: 1, FLOPS: 1}, 'layers'),
    'batch': Axis((2, 4, 8, 16, 32), of_model('batch'), {SECONDS: 1, MEMORY: 1, FLOPS: 1}, 'rows of 256 tokens'),
    'vocabulary': Axis((4096, 8192, 16384, 32768, 65536), of_model('vocabulary'), {SECONDS: 1, MEMORY: 1, FLOPS: 1}, 'pieces'),
    'corpus': Axis((4, 8, 16, 32), of_corpus, {'s for 20 batches': 0, 's to prepare': 1, 'MB to prepare': 0}, 'MB of text'),
    'tasks': Axis((1, 4, 16, 64, 256), of_tasks, {'s for 20 batches': 0}, 'tasks of a mixture, 32 rows a batch'),
    'devices': Axis((2, 4, 8, 16, 32, 64), of_devices, {'GFLOPs of a device': 0, 'MB of a device': 0, 'MB sent by a device': 1}, 'devices, 4 rows each'),
}


def measure(axis: Axis, turns: int) -> dict[str, list[float]]:
    """{quantity: value at each size}."""
    points = axis.made(axis.sizes)
    spent: list[list[float]] = [[] for _ in points]
    for turn in range(-1, turns):
        for point, seconds in zip(points, spent, strict=True):
            if point.turn is None:
                continue
            began = time.perf_counter()
            point.turn()
            if turn >= 0:
                seconds.append(time.perf_counter() - began)
    found: dict[str, list[float]] = {}
    for point, seconds in zip(points, spent, strict=True):
        for name, value in (({point.timed: statistics.median(seconds)} if seconds else {}) | point.known).items():
            found.setdefault(name, []).append(value)
    return found


def exponents(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """(over all sizes, over the last doubling)."""
    x, y = np.log(sizes), np.log(np.maximum(values, 1e-12))
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def written(found: dict[str, dict[str, list[float]]]) -> str:
    lines = ['| axis | sizes | | at each size | exponent | of the last doubling | theory, at most |', '|---|---|---|---|---:|---:|---:|']
    for name, quantities in found.items():
        axis = AXES[name]
        said = [f'{name} ({axis.says})', ' '.join(f'{size:,}' for size in axis.sizes)]
        for quantity, values in quantities.items():
            whole, last = exponents(axis.sizes, values)
            row = [*said, quantity, ' '.join(f'{float(f"{value:.3g}"):,g}' for value in values)]
            lines.append(f'| {" | ".join(row)} | {whole:.2f} | {last:.2f} | {axis.theory[quantity]:g} |')
            said = ['', '']
    return '\n'.join(lines) + '\n'


def draw(found: dict[str, dict[str, list[float]]], figure_class: Any) -> Any:
    figure = figure_class(figsize=(15, 4 * -(-len(found) // 4)), layout='constrained')
    for place, (name, quantities) in enumerate(found.items()):
        axes = figure.add_subplot(-(-len(found) // 4), min(4, len(found)), place + 1)
        for number, (quantity, values) in enumerate(quantities.items()):
            axes.loglog(AXES[name].sizes, np.asarray(values) / values[0], marker='o', base=2, color=reporting.PALETTE[number], label=f'{quantity}: {exponents(AXES[name].sizes, values)[1]:.2f}')
        axes.set_title(f'{name} ({AXES[name].says})', fontsize='small')
        axes.set_ylabel('times the smallest')
        axes.set_ylim(0.8, max(2.2, axes.get_ylim()[1]))  # at least one power of two is marked
        axes.grid(alpha=0.3)
        axes.legend(fontsize='x-small')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    for name in FLAGS.axes:
        if name not in AXES:
            raise UserError(f'--axes={name}: no such axis, {nearest(name, AXES)}')
    if 'corpus' in FLAGS.axes and not os.path.isdir(FLAGS.text):
        raise UserError(f'--text={FLAGS.text}: no such folder; the axis corpus needs text, or leave it out of --axes')
    figure_class = reporting.matplotlib_figure()
    devices.keep_freed_memory()  # as training does
    found = {}
    for name in FLAGS.axes:
        found[name] = measure(AXES[name], FLAGS.turns)
        print(written({name: found[name]}), flush=True)
    if FLAGS.output:
        finished_sweeps.write(FLAGS.output, 'growth', written(found), draw(found, figure_class))


if __name__ == '__main__':
    flags.DEFINE_list('axes', list(AXES), 'Which.')
    flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of operands, in a step.')
    flags.DEFINE_string('text', '', 'A folder of text files, for the axis corpus.')
    flags.DEFINE_integer('turns', 5, 'That count; one more goes before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'Folder that growth.md and growth.png go to.')
    cli.run(main)
