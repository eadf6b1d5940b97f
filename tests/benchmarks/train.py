"""Training steps of ours beside transformers on torch: BERT, GPT-2 and T5, on the same machine and in turns.

    python -m tests.benchmarks.train [--model=bert] [--size=base] [--steps=10] [--batch=8] [--length=128] [--dtype=float32] [--threads=2] [--compile]
        [--output=train.jsonl]

Both train from the same random weights, which travel through our Hugging Face interop, on the same batch, with the same dropout, AdamW (decay of kernels and
tables, gradients clipped at 1.0) and no other work. BERT is MLM + NSP: seven rows in eight are full, one is half padding, 15 % of the tokens are masked, at
most 20 a row; transformers projects every position to the vocabulary, ours the masked ones only, or all of them too (`all positions`). GPT-2 has full rows,
T5 those of span corruption. Before that, both must have the same loss.

Machines are shared and change pace, so the competitors take turns, one step each, and the median over turns of the ratio of neighbouring steps counts, not
seconds. All live in one process; its thread pools sleep between turns (`idle` is the CPU time that they burn in a pause; it should be near 0). On an
accelerator torch is on it too. Needs the extra `parity` (torch, transformers).
"""

import dataclasses
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import flags
import jax
import numpy as np

from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Config, DType, OptimConfig, Schedule
from t5x_lite.errors import UserError, nearest
from t5x_lite.interop import folder
from t5x_lite.training import checkpoint, devices, partitioning
from t5x_lite.training.step import batch_loss, make_program, make_train_step
from tests.benchmarks import peers, turns

FLAGS = flags.FLAGS
_WEIGHT_DECAY, _LEARNING_RATE, _EPS = 0.01, 1e-4, 1e-6


class Theirs:
    """A model of transformers' in torch: scaled_dot_product_attention, fused AdamW, set up as its own training scripts do."""

    def __init__(self, torch: Any, transformers: Any, family: peers.Family, config: Config):
        self._torch, self._family = torch, family
        self._device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
        torch.set_num_threads(FLAGS.threads)
        torch.manual_seed(0)
        self.model = family.model(transformers, config.model).to(self._device)
        named = list(self.model.named_parameters())
        groups = [
            {'params': [value for _, value in named if value.ndim > 1], 'weight_decay': _WEIGHT_DECAY},
            {'params': [value for _, value in named if value.ndim < 2], 'weight_decay': 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=_LEARNING_RATE, eps=_EPS, fused=True)

    def inputs(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: self._torch.from_numpy(value.astype(np.int64)).to(self._device) for name, value in self._family.inputs(batch).items()}

    def loss(self, inputs: dict[str, Any]) -> float:
        with self._torch.no_grad():
            return float(self._family.loss(self._torch, self.model.eval(), inputs))

    def step(self, model: Any, inputs: dict[str, Any]) -> Callable[[], float]:
        def run() -> float:
            self._optimizer.zero_grad(set_to_none=True)
            with self._torch.autocast(self._device, self._torch.bfloat16, enabled=FLAGS.dtype == 'bfloat16'):
                loss = self._family.loss(self._torch, model, inputs)
            loss.backward()
            self._torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            return loss.item()

        return run


class Ours:
    """A config as `t5x_lite.train` runs it: the same program, jitted step and donation. All variants train one state."""

    def __init__(self, config: Config, weights: str):
        self._config, self._weights, self.state = config, weights, None

    def program(self, scan: bool, every: bool) -> Any:
        config = finalize(self._config)
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


def configured(family: peers.Family, size: str) -> Config:
    """The family's config with this benchmark's size, dropout and optimiser."""
    if size not in family.sizes:
        raise UserError(f'--size={size}: {FLAGS.model} has no such size, {nearest(size, family.sizes)}')
    config = family.config(size)
    config.steps, config.batch_size, config.data.seq_len = 1_000_000, FLAGS.batch, FLAGS.length
    model = config.model
    model.vocab_size, model.dtype = family.vocabulary, DType(FLAGS.dtype)
    model.dropout = model.attention_dropout = FLAGS.dropout
    if FLAGS.model == 't5':
        model.hidden_dropout = model.output_dropout = FLAGS.dropout
    config.optim = OptimConfig(
        learning_rate=_LEARNING_RATE, schedule=Schedule.constant, eps=_EPS, decay=(('.*/(bias|scale|relative_embedding)', 0.0), ('.*', _WEIGHT_DECAY))
    )
    return config


def main(argv):
    del argv
    if FLAGS.keep_memory:
        devices.keep_freed_memory()
    torch, transformers = turns.parity('torch', 'transformers')
    turns.pin(FLAGS.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    family = peers.FAMILIES[FLAGS.model]
    size = FLAGS.size or family.size
    config = configured(family, size)
    theirs = Theirs(torch, transformers, family, config)
    batch = family.batch(FLAGS.batch, FLAGS.length, family.vocabulary)
    inputs = theirs.inputs(batch)
    projected = (('masked positions', False), ('all positions', True)) if FLAGS.model == 'bert' else (('', False),)

    with tempfile.TemporaryDirectory() as weights:
        theirs.model.save_pretrained(weights)
        ours = Ours(config, weights)
        variants = {', '.join(filter(None, ('ours', layout, what))): ours.program(layout == 'scanned', every) for layout in FLAGS.layers for what, every in projected}
        first = next(iter(variants.values()))
        ours.start(first)
    placed = ours.place(first, batch)
    losses = theirs.loss(inputs), *(ours.loss(program, placed) for program in list(variants.values())[: len(projected)])
    print(f'loss of the same weights and batch, no dropout: transformers {losses[0]:.6f}, ours {", ".join(f"{loss:.6f}" for loss in losses[1:])}')
    if FLAGS.dtype == 'float32' and max(abs(loss - losses[0]) for loss in losses[1:]) > 1e-4:
        raise UserError('the losses differ by more than 1e-4: the two do not compute the same thing, and their times say nothing')

    theirs.model.train()
    predictions = batch['targets'].shape[1] if FLAGS.model == 't5' else config.data.mlm.max_predictions

    def flops(every: bool) -> float:
        model = dataclasses.replace(config.model, project_all_positions=every)
        return 3.0 * FLAGS.batch * first.module.forward_flops(model, FLAGS.length, predictions)

    units = {'real tokens': sum(int(np.count_nonzero(batch[name])) for name in ('sequence_ids', 'decoder_sequence_ids') if name in batch)}
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
    what = f'A training step of {FLAGS.model} {size}, {family.says}, {FLAGS.batch} x {FLAGS.length}, {FLAGS.dtype}, dropout {FLAGS.dropout}'
    packages = ('jax', 'flax', 'torch', 'transformers')
    turns.write(turns.measure('train', what, taking, turns.matmul_rates(torch, FLAGS.dtype), FLAGS.steps, packages=packages), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_enum('model', 'bert', list(peers.FAMILIES), 'Which architecture.')
    flags.DEFINE_string('size', '', 'A variant of configs/bert.py (base), configs/gpt.py (gpt2) or configs/t5.py (base).')
    flags.DEFINE_integer('steps', 10, 'Turns that count; two more go before.', lower_bound=1)
    flags.DEFINE_integer('batch', 8, 'Rows.', lower_bound=1)
    flags.DEFINE_integer('length', 128, 'Tokens a row.', lower_bound=8)
    flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of operands: ours by config.model.dtype, theirs by autocast.')
    flags.DEFINE_float('dropout', 0.1, 'Of both.', lower_bound=0)
    flags.DEFINE_integer('threads', 2, 'For both, on as many cores.', lower_bound=1)
    flags.DEFINE_bool('keep_memory', True, 'For both: malloc keeps what a step frees, as t5x_lite.train has it on a CPU.')
    flags.DEFINE_list('layers', ['unrolled', 'scanned'], 'Ours with the loop over layers unrolled (config.model.scan_layers=False), scanned, or both.')
    flags.DEFINE_bool('compile', False, 'A turn for transformers under torch.compile as well (minutes to compile, needs a C++ compiler).')
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
