"""A training step of BERT-base, ours beside transformers on torch, on the same machine and in turns.

    python -m tests.benchmarks.train [--steps=10] [--batch=8] [--length=128] [--dtype=float32] [--threads=2] [--compile] [--output=train.jsonl]

Both train `BertForPreTraining` (MLM + NSP, dropout 0.1, AdamW with decay on kernels only, gradients clipped at 1.0) from the same weights, which travel
through our Hugging Face interop, on the same batch: seven rows in eight are full, one is half padding, 15 % of the tokens masked, at most 20 a row.
transformers projects every position to the vocabulary; ours the masked ones only, or all of them too (`all positions`).

Machines are shared and change pace, so the competitors take turns, one step each, and the median over turns of the ratio of neighbouring steps counts, not
seconds. All live in one process; its thread pools sleep between turns (`idle` is the CPU time that they burn in a pause; it should be near 0). Needs
the extra `parity` (torch, transformers).
"""

import gc
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
from tests.benchmarks.steps import make_batch

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
    torch, transformers = turns.parity('torch', 'transformers')
    turns.pin(FLAGS.threads)
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

    def flops(every: bool) -> float:
        config = next(program for name, program in variants.items() if name.endswith('all positions') == every).config
        return 3 * FLAGS.batch * first.module.forward_flops(config.model, FLAGS.length, config.data.mlm.max_predictions)

    units = {'real tokens': int(batch['sequence_ids'].sum())}
    taking = {'transformers': turns.Competitor(theirs.step(theirs.model, inputs), units, flops(True))}
    if FLAGS.compile:
        step = theirs.step(torch.compile(theirs.model), inputs)
        said = {'compile s': f'{turns.timed(step)[0]:.0f}'}
        taking['transformers, torch.compile'] = turns.Competitor(step, units, flops(True), said)
    for name, program in variants.items():
        step, seconds = ours.step(program, placed)
        taking[name] = turns.Competitor(step, units, flops(name.endswith('all positions')), {'compile s': f'{seconds:.0f}'})
        print(f'compiled {name} in {seconds:.1f} s', file=sys.stderr, flush=True)
    gc.collect()
    what = f'A training step of BERT-{FLAGS.size}, MLM + NSP, {FLAGS.batch} x {FLAGS.length}, {FLAGS.dtype}, dropout {FLAGS.dropout}'
    packages = ('jax', 'flax', 'torch', 'transformers')
    turns.write(turns.measure('train', what, taking, turns.matmul_rates(torch), FLAGS.steps, packages=packages), FLAGS.output)


if __name__ == '__main__':
    cli.run(main)
