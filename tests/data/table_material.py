"""What the tests of labelled tables share: files of rows, and the examples made of them."""

import gzip

import numpy as np

from t5x_lite.config import Config
from t5x_lite.data.tables import LabelledExamples

WORDS = 'the a cat dog sings sleeps loudly quietly man woman red green house tree runs'.split()
VOCAB = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
PAD, CLS, SEP = 0, 2, 3


def vocabulary(folder) -> str:
    """The folder of a tokenizer of `VOCAB`."""
    path = folder / 'words'
    path.mkdir(exist_ok=True)
    (path / 'vocab.txt').write_text('\n'.join(VOCAB) + '\n')
    return str(path)


def examples(kind, folder, files, split='train', seed=0, seq_len=16, **fields):
    """Examples of a class, of `files`, {'train.tsv': text}, written into `folder`; `fields` are those of config.data, by default the first file to train on."""
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
    config = Config()
    config.data.tokenizer, config.data.seq_len = vocabulary(folder), seq_len
    for name, value in {'train': next(iter(files)), **fields}.items():
        if name in ('train', 'validation') and value and not value.startswith('tfds:'):
            value = str(folder / value)
        assert hasattr(config.data, name)
        setattr(config.data, name, value)
    return kind(config, split, seed, seq_len)


def labelled(folder, files, split='train', seed=0, seq_len=16, **fields) -> LabelledExamples:
    return examples(LabelledExamples, folder, files, split, seed, seq_len, **fields)


def rows_of(count, seed=0, labels=('neg', 'pos')):
    """(text, label) pairs."""
    rng = np.random.default_rng(seed)
    return [(f'{WORDS[i % len(WORDS)]} {" ".join(rng.choice(WORDS, rng.integers(2, 9)))}', labels[i % len(labels)]) for i in range(count)]


def tsv(rows, header=('text', 'label')) -> str:
    return ''.join('\t'.join(row) + '\n' for row in ([header] if header else []) + list(rows))


def all_of(examples):
    return examples.get(np.arange(len(examples)))


def words(row) -> str:
    """Of a row of ids."""
    return ' '.join(VOCAB[token] for token in row if token > 4)


GOOD = tsv(rows_of(20))
