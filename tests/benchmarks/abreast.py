"""What sharing a compiled step saves, and whether runs go faster abreast: a small BERT classifier on one device.

    python -m tests.benchmarks.abreast --runs=4 --rows=16 --length=64

Prints seconds to compile the step of one run and that of all abreast, and seconds a step of all runs takes one after the other and abreast: the median of
rounds in which both take turns, and the processor's seconds of the same, which other work on the machine disturbs less.
"""

from collections.abc import Callable, Sequence
import statistics
import time

from absl import app, flags
import jax
import numpy as np

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, ModelConfig, OptimConfig
from t5x_lite.training import devices, partitioning
from t5x_lite.training.step import make_program, make_train_step, numbers

_RUNS = flags.DEFINE_integer('runs', 4, 'How many go abreast.')
_ROWS = flags.DEFINE_integer('rows', 16, 'Of a batch.')
_LENGTH = flags.DEFINE_integer('length', 64, 'Tokens of a row.')
_LAYERS = flags.DEFINE_integer('layers', 2, 'Of the model, whose width is MiniLM\'s 384.')
_ROUNDS = flags.DEFINE_integer('rounds', 8, 'Of measurement.')


def main(argv: Sequence[str]) -> None:
    del argv
    config = finalize(
        Config(
            steps=1000,
            batch_size=_ROWS.value,
            loss='t5x_lite.tasks.classification:LabelledLoss',
            model=ModelConfig(
                module='bert_flax.bert:BertForClassification', num_labels=2, vocab_size=30522, num_layers=_LAYERS.value, d_model=384, num_heads=12, d_ff=1536,
            ),
            data=DataConfig(seq_len=_LENGTH.value),
            optim=OptimConfig(learning_rate=2e-5, warmup_fraction=0.1),
        )
    )  # fmt: skip
    devices.configure(config)
    program = make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))
    rng, shape = np.random.default_rng(0), (_ROWS.value, _LENGTH.value)
    batch = {
        'tokens': rng.integers(0, 30522, shape, dtype=np.int32),
        'token_types': np.zeros(shape, np.int32),
        'sequence_ids': np.ones(shape, np.int32),
        'labels': rng.integers(0, 2, shape[0], dtype=np.int32),
        'example_weights': np.ones(shape[0], np.float32),
    }
    count, step = _RUNS.value, make_train_step(program)

    def stacked(tree):
        return jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), tree)

    with jax.set_mesh(program.mesh):
        inputs = program.init(), batch, numbers(program)
        several = tuple(map(stacked, inputs))
        one, of_one = compiled(step, inputs)
        all_of_them, of_all = compiled(jax.vmap(step), several)
        print(f'compiling: the step of one run {of_one:.1f} s, of {count} abreast {of_all:.1f} s; {count} runs that share nothing {count * of_one:.1f} s')
        states, together = [jax.tree.map(jax.numpy.copy, inputs[0]) for _ in range(count)], several[0]
        spent: dict[str, list[tuple[float, float]]] = {'one after the other': [], 'abreast': []}
        for _ in range(_ROUNDS.value + 1):
            began = time.perf_counter(), time.process_time()
            states = [jax.block_until_ready(one(state, *inputs[1:])[0]) for state in states]
            middle = time.perf_counter(), time.process_time()
            together = jax.block_until_ready(all_of_them(together, *several[1:])[0])
            end = time.perf_counter(), time.process_time()
            spent['one after the other'].append(tuple(np.subtract(middle, began)))
            spent['abreast'].append(tuple(np.subtract(end, middle)))
    for name, rounds in spent.items():
        wall, processor = (statistics.median(part) for part in zip(*rounds[1:]))
        print(f'{count} runs {name}: {wall:.3f} s a step of all ({min(part[0] for part in rounds[1:]):.3f} at best), {processor:.3f} s of processors')


def compiled(function: Callable, inputs: tuple) -> tuple[Callable, float]:
    began = time.perf_counter()
    made = jax.jit(function, donate_argnums=0).lower(*inputs).compile()
    return made, time.perf_counter() - began


if __name__ == '__main__':
    app.run(main)
