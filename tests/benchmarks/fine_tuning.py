"""Fine-tuning from one end to the other, ours beside transformers' Trainer: the wall clock of whole commands, from their start to the held-out score.

    python -m tests.benchmarks.fine_tuning --data=SST2 --encoder=HF_FOLDER [--examples=1000] [--epochs=3] [--dtype=float32] [--turns=3] [--output=FILE]

SST2 holds train.tsv and dev.tsv (text, label; no header), HF_FOLDER a BERT encoder with its tokenizer. A turn is a command of each, one after the other, on the same cores
with as many threads, on the same subset: starting Python, reading, tokenizing, compiling, training, and judging all of dev.tsv. The Trainer sorts texts of like length into a
batch of 32 (train_sampling_strategy=group_by_length), pads to the longest of it, and uses SDPA and fused AdamW. Of ours, texts share rows of 64 tokens, and a batch is --rows
of them (config.data.pack): 12 hold 32.5 texts of SST-2 on the average. With --rows=0 ours sorts too, in batches of 32, and compiles a step for each of --length_buckets. What
is compiled is compiled again in every turn: nothing is kept from one to the next. Recipe: AdamW with eps 1e-6, decay 0.01, 10 % warm-up, linear decay, clip 1.0. With
--dtype=bfloat16 the Trainer runs under bf16 autocast. Needs torch, transformers and accelerate.
"""

import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError
from tests.benchmarks import turns

FLAGS = flags.FLAGS

# What the Trainer's side runs, in a process of its own: arguments are a JSON object.
_THEIRS = '''
import json, sys
import numpy as np, torch, transformers
a = json.loads(sys.argv[1])
torch.set_num_threads(a["threads"])
transformers.set_seed(0)
tokenizer = transformers.AutoTokenizer.from_pretrained(a["encoder"])
model = transformers.AutoModelForSequenceClassification.from_pretrained(a["encoder"], num_labels=2)

class Rows(torch.utils.data.Dataset):
    def __init__(self, path):
        rows = [line.rstrip("\\n").split("\\t") for line in open(path, encoding="utf-8")]
        self.encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=64)
        self.labels = [int(label) for _, label in rows]
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, i):
        return {"input_ids": self.encoded["input_ids"][i], "attention_mask": self.encoded["attention_mask"][i], "labels": self.labels[i]}

train, dev = Rows(a["train"]), Rows(a["dev"])
steps = a["epochs"] * -(-len(train) // 32)
arguments = transformers.TrainingArguments(
    a["folder"], num_train_epochs=a["epochs"], per_device_train_batch_size=32, per_device_eval_batch_size=64, learning_rate=5e-5, weight_decay=0.01,
    adam_epsilon=1e-6, warmup_steps=round(0.1 * steps), train_sampling_strategy="group_by_length", save_strategy="no", report_to="none", use_cpu=True,
    bf16=a["dtype"] == "bfloat16", disable_tqdm=True, logging_steps=50, torch_compile=a["compile"], dataloader_pin_memory=False)
trainer = transformers.Trainer(
    model=model, args=arguments, train_dataset=train, eval_dataset=dev, data_collator=transformers.DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(-1) == given.label_ids).mean())})
trainer.train()
print(json.dumps({"accuracy": trainer.evaluate()["eval_accuracy"]}))
'''


def theirs(train: str, compile_: bool) -> float:
    """Accuracy of a whole run of the Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        asked = {
            'train': train, 'dev': os.path.join(FLAGS.data, 'dev.tsv'), 'encoder': FLAGS.encoder, 'epochs': FLAGS.epochs, 'folder': folder, 'dtype': FLAGS.dtype,
            'threads': FLAGS.threads, 'compile': compile_,
        }  # fmt: skip
        out = _run([sys.executable, '-c', _THEIRS, json.dumps(asked)])
    return json.loads(re.findall(r'^\{"accuracy".*', out, re.MULTILINE)[-1])['accuracy']


def ours(train: str) -> float:
    """Accuracy of a whole run of ours."""
    folder = tempfile.mkdtemp()
    sorted_ = ['--config.data.group_by_length', f'--config.data.length_buckets={FLAGS.length_buckets}', '--config.batch_size=32']
    try:
        out = _run([
            sys.executable, '-m', 't5x_lite.train', '--config=configs/classify.py', f'--config.init_from={FLAGS.encoder}', f'--config.data.train={train}',
            f'--config.data.validation={FLAGS.data}/dev.tsv', '--config.data.text_columns=0,', '--config.data.label_column=1', '--config.data.seq_len=64',
            *(['--config.data.pack', f'--config.batch_size={FLAGS.rows}'] if FLAGS.rows else sorted_), f'--config.epochs={FLAGS.epochs}',
            f'--config.model.scan_layers={FLAGS.scan_layers}', '--config.optim.learning_rate=5e-5', f'--config.model.dtype={FLAGS.dtype}',
            '--config.checkpoint.best_metric=', '--config.eval.every_steps=0', f'--workdir={folder}/run',
        ])  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return float(re.findall(r'held out at step \d+: accuracy ([\d.]+)', out)[-1])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(FLAGS.threads)})
    if done.returncode:
        raise UserError(f'{" ".join(command[:3])} ended with {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1]}')
    return done.stdout + done.stderr


def main(argv: list[str]) -> None:
    del argv
    turns.parity('torch', 'transformers', 'accelerate')
    turns.pin(FLAGS.threads)
    with open(os.path.join(FLAGS.data, 'train.tsv'), encoding='utf-8') as file:
        rows = file.read().splitlines()
    chosen = random.Random(0).sample(rows, FLAGS.examples) if FLAGS.examples else rows
    scores: dict[str, list[float]] = {}

    def kept(name: str, run) -> None:
        scores.setdefault(name, []).append(run())

    with tempfile.TemporaryDirectory() as folder:
        train = os.path.join(folder, 'train.tsv')
        with open(train, 'w', encoding='utf-8') as file:
            file.write('\n'.join(chosen) + '\n')
        runs = {'Trainer': functools.partial(theirs, train, False)}
        if FLAGS.compile:
            runs['Trainer, torch.compile'] = functools.partial(theirs, train, True)
        runs['ours'] = functools.partial(ours, train)
        competitors = {
            name: turns.Competitor(functools.partial(kept, name, run), {'examples': FLAGS.epochs * len(chosen)}) for name, run in runs.items()
        }
        what = f'Fine-tuning on SST-2 and judging, {len(chosen):,} examples, {FLAGS.epochs} epochs, {FLAGS.dtype}: whole commands'
        packages = ('jax', 'flax', 'torch', 'transformers', 'accelerate')
        record = turns.measure('fine_tuning', what, competitors, None, FLAGS.turns, before=0, packages=packages)
    for name, found in scores.items():
        record['competitors'][name]['said'] = {'accuracy': ' '.join(f'{100 * score:.1f}' for score in sorted(set(found)))}
    turns.write(record, FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_string('data', None, 'Folder with train.tsv and dev.tsv.', required=True)
    flags.DEFINE_string('encoder', None, 'Hugging Face folder of a BERT encoder.', required=True)
    flags.DEFINE_integer('examples', 1000, 'Of the training part, the same for all; 0: all.', lower_bound=0)
    flags.DEFINE_integer('epochs', 3, 'Of each.', lower_bound=1)
    flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of operands: ours by config.model.dtype, theirs by autocast.')
    flags.DEFINE_integer('rows', 12, 'Of 64 tokens, that texts share, in a batch of ours; 0: a text a row.', lower_bound=0)
    flags.DEFINE_string('length_buckets', '(16,24,32,48,64)', 'config.data.length_buckets of ours with --rows=0.')
    flags.DEFINE_bool('scan_layers', True, 'config.model.scan_layers of ours.')
    flags.DEFINE_integer('threads', 2, 'For both, on as many cores.', lower_bound=1)
    flags.DEFINE_bool('compile', False, 'A turn for the Trainer with torch_compile as well.')
    flags.DEFINE_integer('turns', 3, 'Whole runs of each.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
