"""Training on one accelerator, for machines that have little but jax, flax, optax, numpy and perhaps torch: random weights, random tokens, real sizes.

    python -m tests.benchmarks.accelerator --model=gpt [--size=gpt2] [--batch=64] [--length=1024] [--dtype=bfloat16] [--layers=unrolled,scanned] [--notorch]
        [--remat=none] [--turns=10] [--output=FILE]

--model=gpt trains a GPT-2 without dropout on full rows, as llm.c and nanoGPT are timed, beside the same in plain torch under torch.compile (torch_gpt2.py)
where torch is installed; --model=bert masked LM with dropout, on packed rows between whose sequences there is no attention; --model=t5 span corruption with
dropout. Each is the program, optimiser and attention (config.model.attention=auto) of `t5x_lite.train`. Real tokens are counted, not padding. FLOPs are those
of the model's formula, and nothing computed twice is in them: three times the forward pass, the output layer included, attention for all pairs of positions
(a causal one needs half of its share). MFU is by what the maker states of the chip's bf16, where it is known; beside it stands the share of the matmul rate
that was measured in the same run.

Attention with T5's bias and without, and decoding, are tests/benchmarks/attention.py and decode.py, which run on accelerators as they are; T5 beside
transformers is train.py --model=t5 --compile.
"""

import dataclasses
import sys
import time
from collections.abc import Callable

from absl import flags
import jax
import numpy as np

from configs import bert, gpt, t5
from t5x_lite import cli
from t5x_lite.config import Config, DType, Remat
from t5x_lite.errors import UserError, nearest
from t5x_lite.planning.topologies import CHIPS, GPUS
from tests.benchmarks import steps, torch_gpt2, turns

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is trained: (size, its config), a batch of (rows, length, vocabulary), how it is called, and by default (size, rows, length, dropout)."""

    says: str
    config: Callable[[str], Config]
    sizes: tuple[str, ...]
    vocabulary: int
    batch: Callable[[int, int, int], dict[str, np.ndarray]]
    usual: tuple[str, int, int, float]


def _masked_lm(size: str) -> Config:
    config = bert.get_config(size)
    config.model.module, config.loss = 'bert_flax.bert:BertForMaskedLm', 'bert_flax.losses:MlmLoss'
    config.data.source, config.data.mlm.max_predictions = 't5x_lite.data.objectives:PackedMlm', -(-FLAGS.length * 15 // 100)
    return config


SUBJECTS = {
    'gpt': Subject('causal LM', gpt.get_config, gpt.VARIANTS, 50257, steps.causal_batch, ('gpt2', 64, 1024, 0.0)),
    'bert': Subject('masked LM on packed rows', _masked_lm, tuple(bert.SIZES), 30522, steps.packed_batch, ('base', 64, 512, 0.1)),
    't5': Subject('span corruption', t5.get_config, tuple(t5.SIZES), 32128, steps.pair_batch, ('base', 32, 512, 0.1)),
}  # fmt: skip


def configured(subject: Subject, size: str, scan: bool) -> Config:
    config = subject.config(size)
    config.batch_size, config.data.seq_len = FLAGS.batch, FLAGS.length
    model = config.model
    model.vocab_size, model.dtype, model.remat, model.scan_layers = subject.vocabulary, DType(FLAGS.dtype), Remat(FLAGS.remat), scan
    model.max_positions = max(model.max_positions, FLAGS.length)
    model.dropout = model.attention_dropout = FLAGS.dropout
    if FLAGS.model == 't5':
        model.hidden_dropout = model.output_dropout = FLAGS.dropout
    return config  # its data are neither read nor checked: that takes tokenizers


def main(argv: list[str]) -> None:
    del argv
    subject = SUBJECTS[FLAGS.model]
    size, *usual = subject.usual
    size = FLAGS.size or size
    for name, value in zip(('batch', 'length', 'dropout'), usual, strict=True):
        if FLAGS[name].value is None:
            FLAGS[name].value = value
    if size not in subject.sizes:
        raise UserError(f'--size={size}: {FLAGS.model} has no such size, {nearest(size, subject.sizes)}')
    batch = subject.batch(FLAGS.batch, FLAGS.length, subject.vocabulary)
    units = {'real tokens': sum(int(np.count_nonzero(batch[name])) for name in ('sequence_ids', 'decoder_sequence_ids') if name in batch)}
    competitors, peak = {}, _stated_flops()  # the first competitor is what the others are compared with

    def joins(name: str, run: Callable[[], object], flops: float, compile_seconds: float) -> None:
        said = {'TFLOP a step': f'{flops / 1e12:.1f}', 'compile s': f'{compile_seconds:.0f}'}
        if peak:
            seconds = min(turns.timed(run)[0] for _ in range(3))
            said[f'MFU of {peak / 1e12:.0f} TFLOP/s, best of 3'] = f'{flops / seconds / peak:.0%}'
        competitors[name] = turns.Competitor(run, units, flops, said)
        print(f'compiled {name} in {compile_seconds:.0f} s', file=sys.stderr, flush=True)

    torch_run = _torch_step(configured(subject, size, False), batch) if FLAGS.model == 'gpt' and FLAGS.torch else None
    if torch_run:
        compiling = turns.timed(torch_run)[0]
    for layout in FLAGS.layers:
        config = configured(subject, size, layout == 'scanned')
        began = time.perf_counter()
        program, step = steps.compiled(config, batch)
        seconds = time.perf_counter() - began
        predictions = batch['masked_targets' if FLAGS.model == 'bert' else 'targets'].shape[1]
        flops = 3.0 * FLAGS.batch * program.module.forward_flops(config.model, FLAGS.length, predictions)
        if torch_run and not competitors:
            joins('torch, compiled', torch_run, flops, compiling)
        joins(f'ours, {layout}', steps.running(program, step, jax.device_put(batch)), flops, seconds)
    packages = ('jax', 'flax', *['torch'] * bool(torch_run))
    what = f'A training step of {FLAGS.model} {size}, {subject.says}, {FLAGS.batch} x {FLAGS.length}, {FLAGS.dtype}, dropout {FLAGS.dropout}'
    record = turns.measure('accelerator', what, competitors, turns.matmul_rates(dtype=FLAGS.dtype), FLAGS.turns, packages=packages)
    turns.write(record, FLAGS.output)


def _stated_flops() -> float:
    """Of the chip, in bf16, by its maker; 0 where it is not known, or operands are none of bf16."""
    kind = jax.devices()[0].device_kind
    return next((CHIPS[name].peak for name in GPUS if name in kind), 0.0) if FLAGS.dtype == 'bfloat16' else 0.0


def _torch_step(config: Config, batch: dict[str, np.ndarray]) -> Callable[[], float] | None:
    try:
        import torch
    except ImportError:
        print('torch is not installed, and is left out', file=sys.stderr)
        return None
    device = 'cuda' if torch.cuda.is_available() and jax.default_backend() == 'gpu' else 'cpu'
    return torch_gpt2.step(torch, config.model, batch, device, compiled=True)


if __name__ == '__main__':
    flags.DEFINE_enum('model', 'gpt', list(SUBJECTS), 'Which architecture.')
    flags.DEFINE_string('size', '', 'A variant of configs/gpt.py (gpt2), configs/bert.py (base) or configs/t5.py (base).')
    flags.DEFINE_integer('batch', None, 'Rows; by default 64, of T5 32.', lower_bound=1)
    flags.DEFINE_integer('length', None, 'Tokens a row; by default 1024 of a GPT, 512 of others.', lower_bound=16)
    flags.DEFINE_float('dropout', None, 'By default 0 of a GPT, 0.1 of others.', lower_bound=0, upper_bound=1)
    flags.DEFINE_enum('dtype', 'bfloat16', [kind.value for kind in DType], 'Of operands.')
    flags.DEFINE_enum('remat', 'none', [kind.value for kind in Remat], 'What is computed once more.')
    flags.DEFINE_list('layers', ['unrolled', 'scanned'], 'The loop over layers unrolled, scanned, or both.')
    flags.DEFINE_bool('torch', True, 'A turn for plain torch under torch.compile, of a GPT.')
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
