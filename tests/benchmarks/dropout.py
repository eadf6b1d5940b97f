"""What dropout costs of a training step of BERT, by what draws it.

    python -m tests.benchmarks.dropout [--size=base] [--depth=2] [--batch=8] [--length=128] [--dtype=float32] [--steps=10]

The same weights and batch, dropout 0.1 as configs/bert.py has it: none, ours (config.model.dropout_bits=hash and threefry), and, for reference, jax.random's
generators over whole arrays, threefry and unsafe_rbg, which draws the bits of all devices on each. The competitors take turns, one step each; a ratio is the
median over turns of that of neighbours.
"""

from collections.abc import Callable, Sequence
import contextlib
from typing import Any
from unittest import mock

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import DropoutBits, DType
from t5x_lite.models import dropout
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program, make_train_step
from tests.benchmarks import turns
from tests.benchmarks.train import make_batch

_VOCABULARY = 4096


def of_jax(kind: str) -> Callable[..., jax.Array]:
    """`dropout.kept` by a generator of jax.random."""

    def kept(rate: float, key: dropout.DropoutKey, site: int, sizes: Sequence[int], places: Sequence[jax.Array]) -> jax.Array:
        del places
        folded = key.fold(site).seed
        data = jnp.stack([folded, dropout._mix(folded)] * (2 if kind == 'unsafe_rbg' else 1))
        return jax.random.bernoulli(jax.random.wrap_key_data(data, impl=kind), 1 - rate, (key.rows.size, *sizes))

    return kept


def step(rate: float, bits: DropoutBits, kept: Callable[..., jax.Array] | None = None) -> Callable[[], Any]:
    config = bert_config.get_config(flags.FLAGS.size)
    config.steps, config.batch_size, config.data.seq_len = 1_000_000, flags.FLAGS.batch, flags.FLAGS.length
    model = config.model
    model.dtype, model.vocab_size, model.dropout_bits, model.scan_layers = DType(flags.FLAGS.dtype), _VOCABULARY, bits, False
    model.num_layers = flags.FLAGS.depth or model.num_layers
    model.dropout = model.attention_dropout = rate
    config = finalize(config)
    mesh = partitioning.make_mesh(config, jax.devices()[:1])
    program, batch = make_program(config, mesh), make_batch(flags.FLAGS.batch, flags.FLAGS.length, _VOCABULARY)
    with jax.set_mesh(mesh), mock.patch.object(dropout, 'kept', kept) if kept else contextlib.nullcontext():
        state = program.init()
        compiled = jax.jit(make_train_step(program), donate_argnums=0).lower(state, batch).compile()
    held = [state]

    def run() -> None:
        held[0], metrics = compiled(held[0], batch)
        jax.block_until_ready((held[0], metrics))

    return run


def main(argv: list[str]) -> None:
    del argv
    jax.config.update('jax_threefry_partitionable', True)
    competitors = {
        'no dropout': step(0.0, DropoutBits.hash),
        'hash': step(0.1, DropoutBits.hash),
        'threefry': step(0.1, DropoutBits.threefry),
        'jax.random, threefry': step(0.1, DropoutBits.hash, of_jax('threefry2x32')),
        'jax.random, unsafe_rbg': step(0.1, DropoutBits.hash, of_jax('unsafe_rbg')),
    }
    times, _, _ = turns.measure(competitors, lambda: 0.0, flags.FLAGS.steps)
    device = jax.devices()[0].device_kind if jax.default_backend() != 'cpu' else turns.cpu()
    print(f'BERT-{flags.FLAGS.size}, {flags.FLAGS.depth or "all"} layers, {flags.FLAGS.batch} x {flags.FLAGS.length}, {flags.FLAGS.dtype}; {device}')
    print(f'jax {jax.__version__}\n| | median s (quartiles) | time against none (quartiles) |\n|---|---|---|')
    without = times['no dropout'][:, 0]
    for name, used in times.items():
        low, middle, high = np.quantile(used[:, 0], (0.25, 0.5, 0.75))
        less, ratio, more = np.quantile(used[:, 0] / without, (0.25, 0.5, 0.75))
        print(f'| {name} | {middle:.3f} ({low:.3f}-{high:.3f}) | {ratio:.3f} ({less:.3f}-{more:.3f}) |')


if __name__ == '__main__':
    flags.DEFINE_integer('depth', 2, 'Layers; 0: all of them.', lower_bound=0)
    cli.run(main)
