"""A training step of BERT-base, ours beside transformers on torch, on the same machine and in turns.

    python -m tests.benchmarks.train [--steps=10] [--batch=8] [--length=128] [--dtype=float32] [--threads=2] [--compile] [--output=train.jsonl]

Both train `BertForPreTraining` (MLM + NSP, dropout 0.1, AdamW with decay on kernels only, gradients clipped at 1.0) from the same weights, which travel
through our Hugging Face interop, on the same batch: seven rows in eight are full, one is half padding, 15 % of the tokens masked, at most 20 a row.
transformers projects every position to the vocabulary; ours the masked ones only, or all of them too (`all positions`).

Machines are shared and change pace, so the competitors take turns, one step each, and the median over turns of the ratio of neighbouring steps counts, not
seconds. All live in one process; its thread pools sleep between turns (`idle` below is the CPU time that they burn in a pause; it should be near 0). Needs
the extra `parity` (torch, transformers).
"""

import gc
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import flags
import jax
import numpy as np

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Activation, DType
from t5x_lite.errors import UserError
from t5x_lite.interop import folder
from t5x_lite.training import checkpoint, devices, partitioning
from t5x_lite.training.step import batch_loss, make_program, make_train_step
from tests.benchmarks import turns

FLAGS = flags.FLAGS
flags.DEFINE_integer('steps', 10, 'Turns that count; two more go before.', lower_bound=1)
flags.DEFINE_string('size', 'base', 'A variant of configs/bert.py.')
flags.DEFINE_integer('batch', 8, 'Rows.', lower_bound=1)
flags.DEFINE_integer('length', 128, 'Tokens a row.', lower_bound=8)
flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of operands: ours by config.model.dtype, theirs by autocast.')
flags.DEFINE_float('dropout', 0.1, 'Of both.', lower_bound=0)
flags.DEFINE_integer('threads', 2, 'For both, on as many cores.', lower_bound=1)
flags.DEFINE_bool('keep_memory', True, 'For both: malloc keeps what a step frees, as t5x_lite.train has it on a CPU.')
flags.DEFINE_list('layers', ['unrolled', 'scanned'], 'Ours with the loop over layers unrolled (config.model.scan_layers=False), scanned, or both.')
flags.DEFINE_bool('compile', False, 'A turn for transformers under torch.compile as well (minutes to compile, needs a C++ compiler).')
flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')


def make_batch(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """A batch as MlmNsp gives it, of random pieces."""
    draw, most = np.random.default_rng(0), min(20, -(-length * 15 // 100))
    lengths = np.where(np.arange(rows) % 8 == 7, length // 2, length)
    real = np.arange(length) < lengths[:, None]
    tokens = np.where(real, draw.integers(1000, vocabulary, (rows, length)), 0)
    places, used = np.zeros((rows, most), np.int32), np.arange(most) < np.round(0.15 * lengths)[:, None]
    for row, count in enumerate(used.sum(1)):
        places[row, :count] = np.sort(draw.choice(np.arange(1, lengths[row]), count, replace=False))
    return {
        'tokens': tokens.astype(np.int32),
        'token_types': (real & (np.arange(length) >= lengths[:, None] // 2)).astype(np.int32),
        'sequence_ids': real.astype(np.int32),
        'masked_positions': places,
        'masked_targets': np.where(used, draw.integers(1000, vocabulary, (rows, most)), 0).astype(np.int32),
        'masked_weights': used.astype(np.float32),
        'next_sentence_labels': draw.integers(0, 2, rows).astype(np.int32),
        'example_weights': np.ones(rows, np.float32),
    }


class Theirs:
    """transformers' BERT in torch: scaled_dot_product_attention, fused AdamW, set up as its own training scripts do."""

    def __init__(self, torch: Any, transformers: Any, sizes: dict[str, Any]):
        self._torch = torch
        torch.set_num_threads(FLAGS.threads)
        torch.manual_seed(0)
        dropout = {'hidden_dropout_prob': FLAGS.dropout, 'attention_probs_dropout_prob': FLAGS.dropout}
        self.model = transformers.BertForPreTraining(transformers.BertConfig(attn_implementation='sdpa', **sizes, **dropout))
        named = list(self.model.named_parameters())
        plain = [value for name, value in named if name.endswith('bias') or 'LayerNorm' in name]
        decayed = [value for name, value in named if not (name.endswith('bias') or 'LayerNorm' in name)]
        groups = [{'params': decayed, 'weight_decay': 0.01}, {'params': plain, 'weight_decay': 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-6, fused=True)

    def inputs(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        labels = np.full(batch['tokens'].shape, -100, np.int64)
        rows, slots = np.nonzero(batch['masked_weights'])
        labels[rows, batch['masked_positions'][rows, slots]] = batch['masked_targets'][rows, slots]
        arrays = {
            'input_ids': batch['tokens'],
            'token_type_ids': batch['token_types'],
            'attention_mask': batch['sequence_ids'],
            'labels': labels,
            'next_sentence_label': batch['next_sentence_labels'],
        }
        return {name: self._torch.from_numpy(value.astype(np.int64)) for name, value in arrays.items()}

    def loss(self, inputs: dict[str, Any]) -> float:
        with self._torch.no_grad():
            return float(self.model.eval()(**inputs).loss)

    def step(self, model: Any, inputs: dict[str, Any]) -> Callable[[], float]:
        def run() -> float:
            self._optimizer.zero_grad(set_to_none=True)
            with self._torch.autocast('cpu', self._torch.bfloat16, enabled=FLAGS.dtype == 'bfloat16'):
                loss = model(**inputs).loss
            loss.backward()
            self._torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            return loss.item()

        return run


class Ours:
    """configs/bert.py as `t5x_lite.train` runs it: the same program, jitted step and donation. All variants train one state."""

    def __init__(self, weights: str):
        config = bert_config.get_config(FLAGS.size)
        config.steps, config.batch_size, config.data.seq_len = 1_000_000, FLAGS.batch, FLAGS.length
        config.data.mlm.max_predictions = 20
        config.model.activation = Activation.gelu
        config.model.dropout = config.model.attention_dropout = FLAGS.dropout
        config.model.dtype = DType(FLAGS.dtype)
        self._config, self._weights, self.state = config, weights, None

    def program(self, scan: bool, every: bool) -> Any:
        config = finalize(self._config)
        config.model.vocab_size = 30522
        config.model.scan_layers, config.model.project_all_positions = scan, every
        return make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))

    def start(self, program: Any) -> None:
        state = program.init()
        _, loaded = folder.load(self._weights)
        self.state = state.replace(params=checkpoint.merge(state.params, loaded, (), self._weights)[0])

    def place(self, program: Any, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        shardings = partitioning.batch_shardings(batch, program.mesh, FLAGS.length)
        return partitioning.to_devices(batch, shardings, slice(0, FLAGS.batch), FLAGS.batch)

    def loss(self, program: Any, batch: dict[str, jax.Array]) -> float:
        with jax.set_mesh(program.mesh):
            return float(jax.jit(lambda p, b: batch_loss(program, p, b, program.loss.weights(b), None)[0])(self.state.params, batch))

    def step(self, program: Any, batch: dict[str, jax.Array]) -> tuple[Callable[[], float], float]:
        """(a training step, seconds to compile it)."""
        began = time.perf_counter()
        shardings = (program.shardings, {name: value.sharding for name, value in batch.items()})
        with jax.set_mesh(program.mesh):
            jitted = jax.jit(make_train_step(program), donate_argnums=0, in_shardings=shardings, out_shardings=(program.shardings, None))
            compiled = jitted.lower(program.abstract, batch).compile()

        def run() -> float:
            self.state, metrics = compiled(self.state, batch)
            jax.block_until_ready(self.state)
            return float(metrics['loss'])

        return run, time.perf_counter() - began


def main(argv):
    del argv
    if FLAGS.keep_memory:
        devices.keep_freed_memory()
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"{error}; this comparison needs the reference: pip install '.[parity]'") from error
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: FLAGS.threads]))  # XLA has as many threads as it sees cores
    transformers.utils.logging.set_verbosity_error()
    layers, width, heads = bert_config.SIZES[FLAGS.size]
    sizes = {'num_hidden_layers': layers, 'hidden_size': width, 'num_attention_heads': heads, 'intermediate_size': 4 * width}
    theirs = Theirs(torch, transformers, sizes)
    batch = make_batch(FLAGS.batch, FLAGS.length, 30522)
    inputs = theirs.inputs(batch)

    with tempfile.TemporaryDirectory() as weights:
        theirs.model.save_pretrained(weights)
        ours = Ours(weights)
        variants = {
            f'ours, {layout}, {what}': ours.program(layout == 'scanned', every)
            for layout in FLAGS.layers
            for what, every in (('masked positions', False), ('all positions', True))
        }
        first = next(iter(variants.values()))
        ours.start(first)
    placed = ours.place(first, batch)
    losses = theirs.loss(inputs), *(ours.loss(program, placed) for program in list(variants.values())[:2])
    print(f'loss of the same weights and batch, no dropout: transformers {losses[0]:.6f}, ours {losses[1]:.6f} (masked), {losses[2]:.6f} (all)')
    if FLAGS.dtype == 'float32' and max(abs(loss - losses[0]) for loss in losses[1:]) > 1e-4:
        raise UserError('the losses differ by more than 1e-4: the two do not compute the same thing, and their times say nothing')

    theirs.model.train()
    taking, compile_seconds = {'transformers': theirs.step(theirs.model, inputs)}, {}
    if FLAGS.compile:
        taking['transformers, torch.compile'] = theirs.step(torch.compile(theirs.model), inputs)
        compile_seconds['transformers, torch.compile'] = turns.timed(taking['transformers, torch.compile'])[0]
    for name, program in variants.items():
        taking[name], compile_seconds[name] = ours.step(program, placed)
        print(f'compiled {name} in {compile_seconds[name]:.1f} s', file=sys.stderr, flush=True)
    gc.collect()
    times, rates, idle = turns.measure(taking, turns.matmul_rates(torch), FLAGS.steps)
    report(times, rates, idle, compile_seconds, batch, variants, losses)


def report(times, rates, idle, compile_seconds, batch, variants, losses) -> None:
    tokens, rate = int(batch['sequence_ids'].sum()), statistics.median(rates)
    versions = {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'torch', 'transformers')} | {'python': platform.python_version()}
    command = 'python -m tests.benchmarks.train ' + shlex.join(sys.argv[1:])
    print(f'\nBERT-{FLAGS.size}, {FLAGS.batch} x {FLAGS.length}, {FLAGS.dtype}, dropout {FLAGS.dropout}, {FLAGS.threads} threads, {FLAGS.steps} turns; {turns.cpu()}')
    print(', '.join(f'{name} {version}' for name, version in versions.items()) + f'; {command}')
    print(f'float32 matmul {rate:.0f} GFLOP/s (median over the turns); idle between turns {statistics.median(idle):.1%} of a core\n')
    print('| | median s (quartiles) | fastest s | CPU s | real tokens/s | speed against transformers (quartiles) | of matmul rate | compile s |')
    print('|---|---|---|---|---|---|---|---|')
    results, base = {}, times['transformers']
    every = next(program for name, program in variants.items() if name.endswith('all positions'))
    for name, used in times.items():
        program = variants.get(name, every)
        flops = 3 * FLAGS.batch * program.module.forward_flops(program.config.model, FLAGS.length, program.config.data.mlm.max_predictions)
        low, middle, high = np.quantile(used[:, 0], (0.25, 0.5, 0.75))
        ratio_low, ratio, ratio_high = np.quantile(base[:, 0] / used[:, 0], (0.25, 0.5, 0.75))
        results[name] = {
            'seconds': used[:, 0].round(4).tolist(),
            'cpu_seconds': used[:, 1].round(4).tolist(),
            'median': round(middle, 4),
            'ratio': round(ratio, 4),
            'ratio_of_fastest': round(base[:, 0].min() / used[:, 0].min(), 4),
            'ratio_of_cpu': round(float(np.median(base[:, 1]) / np.median(used[:, 1])), 4),
            'share_of_matmul_rate': round(flops / middle / rate / 1e9, 4),
            'compile_seconds': round(compile_seconds.get(name, 0.0), 1),
        }
        print(
            f'| {name} | {middle:.2f} ({low:.2f}-{high:.2f}) | {used[:, 0].min():.2f} | {np.median(used[:, 1]):.2f} | {tokens / middle:,.0f} | '
            f'{ratio:.2f} ({ratio_low:.2f}-{ratio_high:.2f}) | {flops / middle / rate / 1e9:.0%} | {compile_seconds.get(name, 0.0):.0f} |'
        )
    if FLAGS.output:
        line = {'command': command, 'versions': versions, 'cpu': turns.cpu(), 'matmul_gflops': round(rate, 1), 'losses': losses, 'results': results}
        with open(FLAGS.output, 'a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    cli.run(main)
