"""What dropout costs of a training step of BERT, by what draws it.

    python -m tests.benchmarks.dropout [--size=base] [--depth=2] [--batch=8] [--length=128] [--dtype=float32] [--turns=10] [--output=FILE]

The same weights and batch, dropout 0.1 as configs/bert.py has it: none, ours (config.model.dropout_bits=hash and threefry), and, for reference, jax.random's
generators over whole arrays, threefry and unsafe_rbg, which draws the bits of all devices on each. The competitors take turns, one step each.
"""

from collections.abc import Callable, Sequence
import contextlib
from typing import Any
from unittest import mock

from absl import flags
import jax
import jax.numpy as jnp

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import DropoutBits, DType
from t5x_lite.models import dropout
from tests.benchmarks import steps, turns

FLAGS = flags.FLAGS
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
    config = bert_config.get_config(FLAGS.size)
    config.steps, config.batch_size, config.data.seq_len = 1_000_000, FLAGS.batch, FLAGS.length
    model = config.model
    model.dtype, model.vocab_size, model.dropout_bits, model.scan_layers = DType(FLAGS.dtype), _VOCABULARY, bits, False
    model.num_layers = FLAGS.depth or model.num_layers
    model.dropout = model.attention_dropout = rate
    batch = steps.make_batch(FLAGS.batch, FLAGS.length, _VOCABULARY)
    with mock.patch.object(dropout, 'kept', kept) if kept else contextlib.nullcontext():
        return steps.running(*steps.compiled(finalize(config), batch), batch)


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
    what = f'A step of BERT-{FLAGS.size}, {FLAGS.depth or "all"} layers, {FLAGS.batch} x {FLAGS.length}, {FLAGS.dtype}'
    turns.write(turns.measure('dropout', what, {name: turns.Competitor(run) for name, run in competitors.items()}, None, FLAGS.turns), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_string('size', 'base', 'A variant of configs/bert.py.')
    flags.DEFINE_integer('depth', 2, 'Layers; 0: all of them.', lower_bound=0)
    flags.DEFINE_integer('batch', 8, 'Rows.', lower_bound=1)
    flags.DEFINE_integer('length', 128, 'Tokens a row.', lower_bound=8)
    flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of operands.')
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
