"""What fields of a config are worth: training steps that differ in them take turns on real batches.

    python -m tests.benchmarks.choices --config=configs/gpt.py:gpt2 --config.data.path=data/mine --choices=FILE [--steps=2] [--turns=7] [--output=FILE]

A line of --choices is a competitor, written as in `t5x_lite.sweep --runs`: `model.remat=dots model.scan_layers=False`; the first is what the others are
compared with. A turn is --steps training steps, on the first batches of the run, which are made before it. Speed is that of real tokens, so that padded rows
and packed ones compare. Temporaries are XLA's own count for a step.
"""

from absl import flags
import numpy as np

from t5x_lite import cli
from t5x_lite.assemble import assemble
from t5x_lite.config import Config
from t5x_lite.sweeps import grid
from t5x_lite.training import devices
from tests.benchmarks import steps, turns

FLAGS = flags.FLAGS


def competitor(config: Config) -> turns.Competitor:
    run = assemble(config)
    batches = [run.train.batch(number) for number in range(FLAGS.steps)]
    ids = [batch[name] for batch in batches for name in ('sequence_ids', 'decoder_sequence_ids') if name in batch]
    real, places = sum(int(np.count_nonzero(array)) for array in ids), sum(array.size for array in ids)
    program, step = steps.compiled(run.config, batches[0])
    said = {'padding': f'{1 - real / places:.1%}', 'temporaries MB': f'{step.memory_analysis().temp_size_in_bytes / 1e6:,.0f}'}
    return turns.Competitor(steps.running(program, step, *batches), {'real tokens': real}, said=said)


def main(argv: list[str]) -> None:
    del argv
    devices.keep_freed_memory()
    turns.pin(FLAGS.threads)
    base = _CONFIG.value
    chosen = [fields for fields, _ in grid.read_lines(FLAGS.choices, base)]
    competitors = {' '.join(f'{name}={grid.as_text(name, value)}' for name, value in fields.items()): competitor(grid.changed(base, fields)) for fields in chosen}
    what = f'Training steps of {FLAGS.what or base.model.module}'
    turns.write(turns.measure('choices', what, competitors, None, FLAGS.turns), FLAGS.output)


if __name__ == '__main__':
    _CONFIG = cli.define_config_flags(workdir_required=False)
    flags.DEFINE_string('choices', None, 'A file with the fields of a competitor a line.', required=True)
    flags.DEFINE_string('what', '', 'Is measured, in words, for the page.')
    flags.DEFINE_integer('steps', 1, 'Of a turn.', lower_bound=1)
    flags.DEFINE_integer('threads', 2, 'For all, on as many cores.', lower_bound=1)
    flags.DEFINE_integer('turns', 7, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
