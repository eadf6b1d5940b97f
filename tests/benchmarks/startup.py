"""How long a command takes to its first step, with compiled programs that are kept from before and without, beside a training script of transformers.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=wordpiece --vocab_size=30522
    python -m tests.benchmarks.startup --data=data/mine [--size=base] [--turns=5] [--output=FILE]

A turn is a process from its start to its end, of one training step of BERT (8 x 128): imports, data, weights, compiling, the step; ours writes its checkpoint
too, and evaluates a batch; when its first step was done, by its own account (metrics.jsonl), stands beside that. The peer's is `--peer`: imports, a random
model, a random batch, one step. Needs the extra `parity` (torch, transformers).
"""

from collections.abc import Callable
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import flags
import numpy as np

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.errors import UserError
from tests.benchmarks import turns

FLAGS = flags.FLAGS
_ROOT = pathlib.Path(__file__).resolve().parents[2]


def peer() -> None:
    torch, transformers = turns.parity('torch', 'transformers')
    layers, width, heads = bert_config.SIZES[FLAGS.size]
    fields = {'num_hidden_layers': layers, 'hidden_size': width, 'num_attention_heads': heads, 'intermediate_size': 4 * width}
    model = transformers.BertForPreTraining(transformers.BertConfig(**fields)).train()
    tokens = torch.randint(1000, 30522, (8, 128))
    loss = model(input_ids=tokens, labels=tokens, next_sentence_label=torch.zeros(8, dtype=torch.long)).loss
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()


def run(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, '-m', *arguments], cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f'{" ".join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}')


def ours(place: str, scan: bool, cache: str | None, first_steps: list[float]) -> None:
    """A run of one step.

    Args:
      cache: a folder of compiled programs; None: an empty one.
      first_steps: seconds from its start to the end of its first step are put there.
    """
    with tempfile.TemporaryDirectory(dir=place) as workdir:
        run([
            't5x_lite.train', f'--config=configs/bert.py:{FLAGS.size}', f'--config.data.path={os.path.abspath(FLAGS.data)}', '--config.steps=1',
            '--config.data.seq_len=128', '--config.batch_size=8', '--config.optim.warmup_steps=0', '--config.log.tensorboard=False', '--config.eval.every_steps=0',
            '--config.eval.batches=1',
            f'--config.model.scan_layers={scan}', f'--config.compilation_cache={cache or workdir + "/cache"}', f'--workdir={workdir}/run',
        ])  # fmt: skip
        with open(f'{workdir}/run/metrics.jsonl', encoding='utf-8') as file:
            line = json.loads(next(file))
        first_steps.append(line['seconds_per_step'] / line['goodput'])  # of all seconds, those that a step took


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.peer:
        peer()
        return
    if not FLAGS.data:
        raise UserError('give --data=DIR, a corpus that prepare wrote')
    first_steps: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        taking: dict[str, Callable[[], None]] = {
            'transformers': functools.partial(run, ['tests.benchmarks.startup', '--peer', f'--size={FLAGS.size}']),
            'imports of ours alone': functools.partial(run, ['t5x_lite.train', '--help']),
        }
        for name, scan in (('scanned', True), ('unrolled', False)):
            for kept, cache in (('nothing kept', None), ('programs kept', f'{place}/{name}')):
                first_steps[f'ours, {name}, {kept}'] = []
                taking[f'ours, {name}, {kept}'] = functools.partial(ours, place, scan, cache, first_steps[f'ours, {name}, {kept}'])
        competitors = {name: turns.Competitor(function) for name, function in taking.items()}
        what = f'A process to the end of its first training step, BERT-{FLAGS.size}, 8 x 128'
        record = turns.measure('startup', what, competitors, None, FLAGS.turns, packages=('jax', 'flax', 'torch', 'transformers'))
    for name, seconds in first_steps.items():
        record['competitors'][name]['said'] = {'s to the end of the first step': f'{np.median(seconds[-FLAGS.turns :]):.1f}'}
    turns.write(record, FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_string('data', '', 'A corpus that prepare wrote with a WordPiece tokenizer.')
    flags.DEFINE_string('size', 'base', 'A variant of configs/bert.py.')
    flags.DEFINE_bool('peer', False, 'The step of transformers, in this process.')
    flags.DEFINE_integer('turns', 5, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
