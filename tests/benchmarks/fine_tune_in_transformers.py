"""Fine-tuning by transformers on torch, with the data, subsets and recipe of ours: what EVIDENCE.md puts beside our scores. Needs the extra `parity`.

    python -m tests.benchmarks.fine_tune_in_transformers --kind=classes --encoder=HF_FOLDER --train=train.tsv --dev=dev.tsv --text_columns=2 --label_column=0 \\
        --examples=1000 --epochs=5 --batch_size=32 --rate=5e-5 --length=48 --seeds=0,1,2 --output=theirs.jsonl

Kinds: classes (accuracy) and numbers (Pearson) of tab-separated files without a header, tags (entity F1) of column files. AdamW with eps 1e-6, decay 0.01
except of biases and norms, linear warm-up over 10 % of the steps and linear decay after it, gradients clipped at 1.0, dropout as the folder says. Batches are
padded to their longest text, and run on from one epoch into the next, as ours do.
"""

import json
import random
import time

from absl import flags
import numpy as np
import torch
import transformers

from t5x_lite import cli
from t5x_lite.data import tagged_files, tags
from t5x_lite.data.in_epochs import subset
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics, metrics_tags

FLAGS = flags.FLAGS


def examples_of(path: str) -> list[tuple[list[str], object]]:
    """(texts, label) or (words, tags) of each example."""
    if FLAGS.kind == 'tags':
        sentences, _, _ = tagged_files.read(path)
        scheme = tags.detect([(sentence.where, sentence.tags) for sentence in sentences])
        return [(list(one.words), tags.convert(one.tags, scheme, tags.scheme_of('IOB2', ''), one.where)) for one in sentences]
    with open(path, encoding='utf-8') as file:
        rows = [line.rstrip('\n').split('\t') for line in file if line.strip()]
    return [([row[int(column)] for column in FLAGS.text_columns], row[FLAGS.label_column]) for row in rows]


def batch_of(tokenizer, chunk, names) -> tuple[dict, list[dict[int, int]]]:
    """(what the model takes, of tagged words where the first piece of each is)."""
    if FLAGS.kind != 'tags':
        columns = map(list, zip(*(texts for texts, _ in chunk)))
        batch = dict(tokenizer(*columns, truncation=True, max_length=FLAGS.length, padding=True, return_tensors='pt'))
        batch['labels'] = torch.tensor([float(label) if FLAGS.kind == 'numbers' else names.index(label) for _, label in chunk])
        return batch, []
    encoded = tokenizer([words for words, _ in chunk], is_split_into_words=True, truncation=True, max_length=FLAGS.length, padding=True, return_tensors='pt')
    labels, firsts = np.full(tuple(encoded['input_ids'].shape), -100), []
    for row, (_, marks) in enumerate(chunk):
        at: dict[int, int] = {}
        for place, word in enumerate(encoded.word_ids(row)):
            if word is not None and word not in at:
                at[word] = place
                labels[row, place] = names.index(marks[word])
        firsts.append(at)
    return dict(encoded) | {'labels': torch.tensor(labels)}, firsts


def trained(seed: int, train: list, names: list[str]):
    """(model, tokenizer, steps)."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(FLAGS.encoder)
    kind = transformers.AutoModelForTokenClassification if FLAGS.kind == 'tags' else transformers.AutoModelForSequenceClassification
    config = transformers.AutoConfig.from_pretrained(FLAGS.encoder, num_labels=1 if FLAGS.kind == 'numbers' else len(names))
    model = kind.from_config(config) if FLAGS.scratch else kind.from_pretrained(FLAGS.encoder, config=config)
    parts: dict[bool, list] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[name.endswith('bias') or 'LayerNorm' in name].append(parameter)
    groups = [{'params': parts[False], 'weight_decay': 0.01}, {'params': parts[True], 'weight_decay': 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=FLAGS.rate, eps=1e-6)
    steps = FLAGS.epochs * len(train) // FLAGS.batch_size
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, round(0.1 * steps), steps)
    model.train()
    order = random.Random(seed)
    shuffled = [example for _ in range(FLAGS.epochs) for example in order.sample(train, len(train))]
    for step in range(steps):
        batch, _ = batch_of(tokenizer, shuffled[step * FLAGS.batch_size : (step + 1) * FLAGS.batch_size], names)
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    model.eval()
    return model, tokenizer, steps


def score(model, tokenizer, dev: list, names: list[str]) -> float:
    found, wanted = [], []
    for first in range(0, len(dev), 64):
        chunk = dev[first : first + 64]
        batch, firsts = batch_of(tokenizer, chunk, names)
        with torch.no_grad():
            logits = model(**{name: value for name, value in batch.items() if name != 'labels'}).logits.numpy()
        if FLAGS.kind == 'tags':
            for row, (words, marks) in enumerate(chunk):
                given = ['O'] * len(words)
                for word, place in firsts[row].items():
                    given[word] = names[int(logits[row, place].argmax())]
                found.append(tags.spans(given))
                wanted.append(tags.spans(marks))
        else:
            found += list(logits)
            wanted += batch['labels'].tolist()
    if FLAGS.kind == 'tags':
        return metrics_tags.entities(wanted, found)['f1']
    if FLAGS.kind == 'numbers':
        return metrics.pearson(np.array(wanted), np.array(found)[:, 0])
    return float(np.mean(np.argmax(found, axis=1) == np.array(wanted)))


def main(argv):
    del argv
    if FLAGS.kind != 'tags' and not FLAGS.text_columns:
        raise UserError('--text_columns is empty; give the numbers of the columns with texts, from 0')
    train, dev = examples_of(FLAGS.train), examples_of(FLAGS.dev)
    names = sorted({mark for _, label in train + dev for mark in (label if FLAGS.kind == 'tags' else [label])})
    for seed in map(int, FLAGS.seeds):
        chosen = [train[row] for row in subset(np.arange(len(train)), FLAGS.examples, seed, FLAGS.train)] if FLAGS.examples else train
        began = time.time()
        model, tokenizer, steps = trained(seed, chosen, names)
        result = {'seed': seed, 'score': score(model, tokenizer, dev, names), 'steps': steps, 'minutes': round((time.time() - began) / 60, 2)}
        print(json.dumps(result), flush=True)
        if FLAGS.output:
            given = {name: getattr(FLAGS, name) for name in ('kind', 'train', 'examples', 'epochs', 'batch_size', 'rate', 'length', 'scratch')}
            with open(FLAGS.output, 'a', encoding='utf-8') as file:
                file.write(json.dumps(result | given) + '\n')


if __name__ == '__main__':
    flags.DEFINE_enum('kind', None, ['classes', 'numbers', 'tags'], 'What is learnt.', required=True)
    flags.DEFINE_string('encoder', None, 'Hugging Face folder of a BERT.', required=True)
    flags.DEFINE_string('train', None, 'Training file.', required=True)
    flags.DEFINE_string('dev', None, 'Held-out file.', required=True)
    flags.DEFINE_list('text_columns', [], 'Numbers of the columns with texts, from 0.')
    flags.DEFINE_integer('label_column', 0, 'Number of the column with labels.')
    flags.DEFINE_integer('examples', 0, 'A subset of so many by seed, as config.data.max_examples; 0: all.')
    flags.DEFINE_integer('epochs', 3, 'Epochs.')
    flags.DEFINE_integer('batch_size', 32, 'Examples a step.')
    flags.DEFINE_float('rate', 5e-5, 'Highest learning rate.')
    flags.DEFINE_integer('length', 128, 'Pieces that are read.')
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'A run each.')
    flags.DEFINE_bool('scratch', False, 'From random weights.')
    flags.DEFINE_string('output', '', 'A JSON line a run is appended here.')
    cli.run(main)
