"""What each strategy of config.tune saves: weights that learn, bytes of the optimiser and of gradients, of checkpoints, temporaries and FLOPs of a compiled
step.

    python -m tests.benchmarks.strategies [--size=base] [--batch=16] [--length=128] [--only=full,lora] [--scan] [--output=strategies.jsonl]

The step is the training step of configs/bert.py with two labels on top, compiled for one device and not run: memory and FLOPs are XLA's own counts, which do
not depend on how busy the machine is. With --scan the layers are a compiled loop, or two where the bottom is frozen. XLA counts FLOPs inside a loop once: use
GFLOPs of unrolled layers.
"""

import json
from typing import Any

from absl import flags
import jax
import numpy as np

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Adapters, Config, DataConfig, TuneConfig
from t5x_lite.errors import UserError, nearest
from t5x_lite.training import adapters, partitioning, paths, tuning
from t5x_lite.training.step import Program, make_program, make_train_step

FLAGS = flags.FLAGS

_HEAD = ('classifier/.*', 'encoder/pooler/.*')


def strategies(layers: int) -> dict[str, TuneConfig]:
    half = layers // 2
    return {
        'full': TuneConfig(),
        'embeddings frozen': TuneConfig(freeze=('encoder/embeddings/.*',)),
        f'bottom {half} frozen': TuneConfig(freeze_layers=half),
        'head only': TuneConfig(train=_HEAD),
        'unfreezing, first stage': TuneConfig(train=_HEAD, unfreeze=((0.5, 'encoder/layers/.*', 0.5),)),
        'bias only': TuneConfig(train=('.*/bias', *_HEAD)),
        'houlsby 64': TuneConfig(adapters=Adapters.houlsby, adapter_size=64),
        'pfeiffer 64': TuneConfig(adapters=Adapters.pfeiffer, adapter_size=64),
        'lora 8': TuneConfig(lora=(('.*/attention/(query|value)', 8, 16.0),)),
        'ia3': TuneConfig(ia3=True),
        'prefix 16': TuneConfig(prefix=16),
        'prompt 16': TuneConfig(prompt=16),
    }


def program_of(tune: TuneConfig, size: str, batch: int, length: int, scan: bool) -> Program:
    model = bert_config.get_config(size).model
    model.module, model.num_labels, model.vocab_size, model.scan_layers = 'bert_flax.bert:BertForClassification', 2, model.default_vocab_size, scan
    config = finalize(
        Config(
            batch_size=batch, init_fresh=_HEAD, loss='t5x_lite.tasks.classification:LabelledLoss', model=model, data=DataConfig(seq_len=length), tune=tune
        )
    )
    return make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))


def batch_of(config: Config) -> dict[str, np.ndarray]:
    shape = (config.batch_size, config.data.seq_len)
    tokens = {name: np.zeros(shape, np.int32) for name in ('tokens', 'token_types')} | {'sequence_ids': np.ones(shape, np.int32)}
    return tokens | {'labels': np.zeros(shape[0], np.int32), 'example_weights': np.ones(shape[0], np.float32)}


def measured(program: Program) -> dict[str, Any]:
    """Counts of a program's step, compiled for batches of its config."""
    config, params = program.config, program.abstract.params
    with jax.set_mesh(program.mesh):
        compiled = jax.jit(make_train_step(program), donate_argnums=0).lower(program.abstract, batch_of(config)).compile()
    learns, whole = _size(program.tuning.select(params)), _size(params)
    part = tuning.learnt(config.tune, params, config.init_fresh, config.steps, [path for path in paths.leaves(params) if adapters.is_added(path)])
    return {
        'learn': learns // 4,
        'share': learns / whole,
        'optimiser_bytes': _size(program.abstract.opt_state),
        'gradient_bytes': learns,
        # Of parameters and optimiser, where they stand beside a base.
        'checkpoint_bytes': _size(program.abstract.opt_state) + (whole if part is None else _size(part.select(params))),
        'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
        'flops': compiled.cost_analysis()['flops'],
    }


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main(argv: list[str]) -> None:
    del argv
    chosen = strategies(bert_config.get_config(FLAGS.size).model.num_layers)
    for name in FLAGS.only:
        if name not in chosen:
            raise UserError(f'--only={name}: no such strategy, {nearest(name, chosen)}')
    print(f'BERT {FLAGS.size}, batches of {FLAGS.batch} x {FLAGS.length}, float32, {"scanned" if FLAGS.scan else "unrolled"} (MB, GFLOPs)')
    print(f'{"strategy":<24}{"learn":>12}{"share":>9}{"optimiser":>11}{"gradients":>11}{"checkpoint":>12}{"temporaries":>13}{"GFLOPs":>9}')
    for name, tune in chosen.items():
        if FLAGS.only and name not in FLAGS.only:
            continue
        found = measured(program_of(tune, FLAGS.size, FLAGS.batch, FLAGS.length, FLAGS.scan))
        sizes = [found[f'{kind}_bytes'] / 1e6 for kind in ('optimiser', 'gradient', 'checkpoint', 'temporary')]
        print(
            f'{name:<24}{found["learn"]:>12,}{found["share"]:>9.2%}{sizes[0]:>11,.1f}{sizes[1]:>11,.1f}{sizes[2]:>12,.1f}{sizes[3]:>13,.1f}'
            f'{found["flops"] / 1e9:>9,.1f}',
            flush=True,
        )
        if FLAGS.output:
            with open(FLAGS.output, 'a', encoding='utf-8') as file:
                line = {'strategy': name, 'size': FLAGS.size, 'batch': FLAGS.batch, 'length': FLAGS.length, 'scan': FLAGS.scan, **found}
                file.write(json.dumps(line) + '\n')


def _define_flags() -> None:
    flags.DEFINE_string('size', 'base', 'A variant of configs/bert.py.')
    flags.DEFINE_integer('batch', 16, 'Rows.', lower_bound=1)
    flags.DEFINE_integer('length', 128, 'Tokens a row.', lower_bound=8)
    flags.DEFINE_list('only', [], 'Strategies; all by default.')
    flags.DEFINE_bool('scan', False, 'Layers as one compiled loop (config.model.scan_layers).')
    flags.DEFINE_string('output', '', 'A file to which a JSON line a strategy is appended.')


if __name__ == '__main__':
    _define_flags()  # here: a test imports what is above
    cli.run(main)
