"""SST-2 accuracy from a pretrained encoder and from scratch, by the command that a person would run.

    python -m tests.benchmarks.sst2 --data=SST2 --encoder=HF_FOLDER [--output=sst2.jsonl] [--runs=1000:pretrained:0,all:scratch:0] [--folder=sst2_runs]

SST2 holds train.tsv and dev.tsv (text, label; no header), HF_FOLDER a BERT encoder with its tokenizer. Each run is one `python -m t5x_lite.train
--config=configs/classify.py ...`, whose accuracy on the whole of dev.tsv after the last step counts. Training examples, epochs, rates and batches:

    100       10 epochs, 1e-4, batch 16
    1,000      5 epochs, 5e-5 (scratch 1e-4), batch 32
    all        3 epochs, 5e-5 (scratch 5 epochs, 1e-4), batch 32

AdamW with eps 1e-6, decay 0.01 except of biases and norms, a linear warm-up over 10 % of the steps and a linear fall after it, gradients clipped at 1.0, texts
cut at 64 word pieces, dropout 0.1. The subset of seed s is `random.Random(s).sample(train, n)`. Our batches run across the ends of epochs, so 5 epochs of
1,000 examples are 156 full batches of 32 (a loader that stops at the end of each epoch makes 160, of which 5 are partial).

Runs whose lines the output holds already are not repeated, and one that was interrupted goes on from its checkpoint.
"""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string('data', None, 'Folder with train.tsv and dev.tsv.', required=True)
flags.DEFINE_string('encoder', None, 'Hugging Face folder of a BERT encoder.', required=True)
flags.DEFINE_string('output', 'sst2.jsonl', 'A JSON line a run is appended here.')
flags.DEFINE_list(
    'runs',
    [f'{n}:{start}:{seed}' for n, start in (('1000', 'pretrained'), ('100', 'pretrained'), ('1000', 'scratch')) for seed in range(3)]
    + ['all:pretrained:0', 'all:scratch:0'],
    'EXAMPLES:pretrained|scratch:SEED, in this order.',
)
flags.DEFINE_string('folder', 'sst2_runs', 'Where the runs work; what is in it is deleted run by run, as they end.')
flags.DEFINE_list('extra', [], 'Further flags for the command, such as --config.model.scan_layers=False; they go into the output.')

# examples -> (epochs, batch size)
_LENGTHS = {'100': (10, 16), '1000': (5, 32), 'all': (3, 32)}


def recipe(examples: str, start: str) -> dict[str, float]:
    epochs, batch = _LENGTHS[examples]
    rate = 1e-4 if examples == '100' or start == 'scratch' else 5e-5
    return {'epochs': 5.0 if (examples, start) == ('all', 'scratch') else float(epochs), 'batch_size': batch, 'optim.learning_rate': rate}


def command(examples: str, start: str, seed: int, folder: str) -> list[str]:
    """`folder` takes the subset and the run."""
    train = os.path.join(FLAGS.data, 'train.tsv')
    with open(train, encoding='utf-8') as file:
        rows = file.read().splitlines()
    if examples != 'all':
        train = os.path.join(folder, f'sst2_{examples}_{seed}.tsv')
        with open(train, 'w', encoding='utf-8') as file:
            file.write('\n'.join(random.Random(seed).sample(rows, int(examples))) + '\n')
    fields = recipe(examples, start) | {
        'seed': seed,
        'init_from': FLAGS.encoder,
        'init_weights': start == 'pretrained',
        'data.train': train,
        'data.validation': os.path.join(FLAGS.data, 'dev.tsv'),
        'data.text_columns': "('0',)",
        'data.label_column': '1',
        'data.seq_len': 64,
        'data.length_buckets': '(44, 52, 64)',  # the longest of 32 texts has 48 pieces in the median, and each width is compiled
        'checkpoint.every_steps': 200,
        'log.console_seconds': 30.0,
        'log.tensorboard': False,
    }
    flagged = [f'--config.{name}={value}' for name, value in fields.items()]
    return [sys.executable, '-m', 't5x_lite.train', '--config=configs/classify.py', f'--workdir={folder}/run', *flagged, *FLAGS.extra]


def run(examples: str, start: str, seed: int) -> dict:
    folder = os.path.abspath(os.path.join(FLAGS.folder, f'{examples}_{start}_{seed}'))
    os.makedirs(folder, exist_ok=True)
    line, began, log = command(examples, start, seed, folder), time.time(), os.path.join(folder, 'log')
    with open(log, 'a', encoding='utf-8') as file:
        status = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    lines = []
    if not status:
        with open(os.path.join(folder, 'run', 'metrics.jsonl'), encoding='utf-8') as file:
            lines = [json.loads(text) for text in file]
    last = next((found for found in reversed(lines) if 'eval/accuracy' in found), None)
    if last is None:
        with open(log, encoding='utf-8') as file:
            raise UserError(f'{" ".join(line)} ended early, with status {status}; repeat to go on. The end of {log}: {file.read()[-500:]}')
    shutil.rmtree(folder)
    return {
        'examples': examples,
        'start': start,
        'seed': seed,
        'accuracy': last['eval/accuracy'],
        'cross_entropy': last['eval/cross_entropy'],
        'train_loss': next(found['loss'] for found in reversed(lines) if 'loss' in found),
        'steps': last['step'],
        'minutes': round((time.time() - began) / 60, 2),
        'command': ' '.join(line),
    }


def table(results: list[dict]) -> str:
    lines = ['| train examples | from | accuracy on dev, seed by seed | mean |', '|---|---|---|---|']
    for key in dict.fromkeys((result['examples'], result['start']) for result in results):
        scores = [100 * r['accuracy'] for r in sorted(results, key=lambda r: r['seed']) if (r['examples'], r['start']) == key]
        lines.append(f'| {key[0]} | {key[1]} | {" / ".join(f"{score:.1f}" for score in scores)} | {statistics.mean(scores):.1f} |')
    return '\n'.join(lines)


def _read() -> list[dict]:
    if not os.path.exists(FLAGS.output):
        return []
    with open(FLAGS.output, encoding='utf-8') as file:
        return [json.loads(line) for line in file]


def main(argv):
    del argv
    for name in ('train.tsv', 'dev.tsv'):
        if not os.path.exists(os.path.join(FLAGS.data, name)):
            raise UserError(f'--data={FLAGS.data}: no {name} there; expected train.tsv and dev.tsv of SST-2')
    wanted = []
    for text in FLAGS.runs:
        if not re.fullmatch(r'(100|1000|all):(pretrained|scratch):\d+', text):
            raise UserError(f'--runs: {text!r} is not EXAMPLES:START:SEED with 100, 1000 or all, pretrained or scratch, and a number')
        wanted.append(text)
    done = {f'{result["examples"]}:{result["start"]}:{result["seed"]}' for result in _read()}
    for text in wanted:
        if text in done:
            continue
        examples, start, seed = text.split(':')
        result = run(examples, start, int(seed))
        with open(FLAGS.output, 'a', encoding='utf-8') as file:
            file.write(json.dumps(result) + '\n')
        print(f'{text}: accuracy {result["accuracy"]:.2%} after {result["steps"]} steps, {result["minutes"]:.1f} minutes', flush=True)
    print(table(_read()))


if __name__ == '__main__':
    cli.run(main)
