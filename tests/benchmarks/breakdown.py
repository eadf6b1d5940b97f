"""Where the time of a training step goes, by what it computes: products with weights, products and softmax of attention, norms, dropout, the vocabulary, the
optimiser.

    taskset -c 1 python -m tests.benchmarks.breakdown [--size=base] [--batch=8] [--length=128] [--dtype=float32] [--steps=5]
        [--grid='model.dropout_bits=hash,threefry']

A step of configs/bert.py (MLM + NSP, unrolled, attention dense, but for what --grid says) is compiled and profiled with JAX's own profiler; each operation of
the compiled step carries the place in the model that it came from. XLA makes one operation of several that are next to each other, and names it after the
last, so that what is beside another thing is counted with that (biases with their products' activations, a cast with whatever reads it). Shares are of the
time of all operations on one thread; `host` is what is left of the wall clock. The profiler itself costs some percent.
"""

import collections
import glob
import os
import re
import tempfile
import time

from absl import flags
import jax
import numpy as np

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import AttentionKernel, Config, DType
from t5x_lite.sweeps import grid
from t5x_lite.training import devices
from tests.benchmarks import steps, turns
from tests.benchmarks.steps import make_batch

FLAGS = flags.FLAGS

_VOCABULARY = 30522
_INSIDE = re.compile(r'^jit\(train_step\)/(.*)$')
# (kind, pattern over where an operation came from); the first that fits.
KINDS = (
    ('dropout', r'/dropout/'),
    ('norms', r'norm/'),
    ('products of attention', r'/attention/(?!query|key|value|output).*dot_general'),
    ('products with the vocabulary', r'attend.*dot_general'),
    ('products with weights', r'dot_general'),
    ('softmax and masks of attention', r'/attention/(?!query|key|value|output)'),
    ('activations and biases', r'/mlp/|/attention/|/transform/'),
    ('embeddings', r'/embeddings'),
    ('vocabulary and loss', r'attend|mlm|nsp|jvp\(\)|jvp\(jit'),
    ('residual stream and layers', r'layers|stack'),
    ('optimiser', r'^(?!.*jvp)'),
)


def kind_of(place: str) -> str:
    """Of an operation, by its `op_name`."""
    inside = _INSIDE.match(place)
    if not inside:
        return 'other'
    return next((kind for kind, pattern in KINDS if re.search(pattern, inside.group(1))), 'other')


def places(text: str) -> dict[str, str]:
    """{operation: where it came from} of a compiled step."""
    return dict(re.findall(r'%?([\w.-]+) = .*?op_name="([^"]*)"', text))


def profiled(run, count: int) -> tuple[dict[str, float], float]:
    """({operation: seconds a step}, wall seconds a step), the time within an operation of another one counted once."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            for _ in range(count):
                run()
            wall = time.perf_counter() - began
        (path,) = glob.glob(os.path.join(folder, '**', '*.xplane.pb'), recursive=True)
        spent: dict[str, float] = collections.Counter()
        for plane in jax.profiler.ProfileData.from_file(path).planes:
            for line in plane.lines:
                for name, seconds in _own(line.events):
                    spent[name] += seconds / count
    return spent, wall / count


def _own(events):
    """(operation, seconds of its own) of one thread: without those of operations inside it (loops, calls)."""
    found = sorted(
        ((event.start_ns, -event.duration_ns, dict(event.stats)['hlo_op']) for event in events if any(name == 'hlo_op' for name, _ in event.stats)),
    )
    open_: list[list] = []  # [end, name, own]
    for start, negative, name in found:
        while open_ and open_[-1][0] <= start:
            end, closed, own = open_.pop()
            yield closed, own / 1e9
        if open_:
            open_[-1][2] += negative
        open_.append([start - negative, name, -negative])
    for _, name, own in open_:
        yield name, own / 1e9


def main(argv: list[str]) -> None:
    del argv
    devices.keep_freed_memory()
    base = bert_config.get_config(FLAGS.size)
    base.steps, base.batch_size, base.data.seq_len = 1_000_000, FLAGS.batch, FLAGS.length
    model = base.model
    model.vocab_size, model.scan_layers, model.dtype, model.attention = _VOCABULARY, False, DType(FLAGS.dtype), AttentionKernel.dense
    batch = make_batch(FLAGS.batch, FLAGS.length, _VOCABULARY)
    for fields in grid.combinations(FLAGS.grid, '', base):
        _measured(grid.changed(base, fields), batch, ', '.join(f'{name}={grid.as_text(name, value)}' for name, value in fields.items()))


def _measured(config: Config, batch: dict[str, np.ndarray], fields: str) -> None:
    program, step = steps.compiled(finalize(config), batch)
    run = steps.running(program, step, batch)
    for _ in range(2):
        run()
    spent, wall = profiled(run, FLAGS.steps)
    where = places(step.as_text())
    shares = collections.Counter()
    for name, seconds in spent.items():
        shares[kind_of(where.get(name, ''))] += seconds
    shares['host'] = max(0.0, wall - sum(shares.values()))
    machine = turns.cpu() if jax.default_backend() == 'cpu' else jax.devices()[0].device_kind
    what = f'A step of BERT-{FLAGS.size}, {FLAGS.batch} x {FLAGS.length}, {FLAGS.dtype}' + f', {fields}' * bool(fields)
    print(f'\n{what}: {wall:.3f} s; {machine}, jax {jax.__version__}\n')
    print('| | s | share |\n|---|---:|---:|')
    for kind, seconds in shares.most_common():
        print(f'| {kind} | {seconds:.3f} | {seconds / sum(shares.values()):.1%} |')
    if FLAGS.operations:
        print()
        for name, seconds in sorted(spent.items(), key=lambda one: -one[1])[: FLAGS.operations]:
            print(f'{seconds:9.4f} s  {kind_of(where.get(name, "")):<32} {name:<40} {where.get(name, "")}')


if __name__ == '__main__':
    flags.DEFINE_integer('steps', 5, 'That are profiled.', lower_bound=1)
    flags.DEFINE_string('size', 'base', 'A variant of configs/bert.py.')
    flags.DEFINE_integer('batch', 8, 'Rows.', lower_bound=1)
    flags.DEFINE_integer('length', 128, 'Tokens a row.', lower_bound=8)
    flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of operands.')
    flags.DEFINE_string('grid', '', 'Fields to change, as in t5x_lite.sweep; each combination is a table.')
    flags.DEFINE_integer('operations', 0, 'So many of the longest are listed.', lower_bound=0)
    cli.run(main)
