"""A prepared corpus in memory, with the attributes of `t5x_lite.data.corpus.Corpus`, and configs for it."""

import hashlib
import os

import numpy as np

from t5x_lite.config import Config

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
PAD, UNK, CLS, SEP, MASK = range(5)


class FakeCorpus:
    """`documents`: lists of sentences, lists of token ids from 5 up. `pieces`: other spellings of some ids, {30: '<extra_id_0>'}."""

    def __init__(self, folder, documents, vocab_size, continuations=(), name='fake', split='train', pieces=None):
        sentences = [sentence for document in documents for sentence in document]
        self.path, self.split, self.vocab_size = name, split, vocab_size
        self.tokenizer_path = os.path.join(folder, f'tokenizer{vocab_size}')
        self._tokens = np.array([token for sentence in sentences for token in sentence], np.int32)
        self.sentence_starts = np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])]).astype(np.int64)
        self.document_starts = np.concatenate([[0], np.cumsum([len(document) for document in documents])]).astype(np.int64)
        self.num_documents, self.num_sentences, self.num_tokens = len(documents), len(sentences), len(self._tokens)
        digest = hashlib.sha256(self._tokens.tobytes()).hexdigest()
        self.manifest = {
            'tokenizer_sha256': f'vocabulary of {vocab_size}',
            'splits': {split: {'shards': [{'sha256': digest, 'documents': self.num_documents, 'sentences': self.num_sentences}]}},
        }
        if not os.path.isdir(self.tokenizer_path):
            os.makedirs(self.tokenizer_path)
            usual = [*SPECIAL, *(f'##{token}' if token in continuations else f'w{token}' for token in range(5, vocab_size))]
            pieces = [(pieces or {}).get(number, piece) for number, piece in enumerate(usual)]
            with open(os.path.join(self.tokenizer_path, 'vocab.txt'), 'w', encoding='utf-8') as file:
                file.write('\n'.join(pieces) + '\n')

    def tokens(self, start, stop):
        return self._tokens[start:stop]


def numbered(lengths):
    """Documents of sentences of these lengths ([[3, 2], [4]]). Each token's id is 5 + its place in the corpus, which shows in examples."""
    documents, place = [], 5
    for document in lengths:
        documents.append([])
        for length in document:
            documents[-1].append(list(range(place, place + length)))
            place += length
    return documents


def random_lengths(count, seed=0, most_sentences=12, most_tokens=14):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, most_tokens + 1, rng.integers(1, most_sentences + 1)).tolist() for _ in range(count)]


def random_corpus(folder, count=150, seed=0, **options):
    lengths = random_lengths(count, seed, **options)
    documents = numbered(lengths)
    return FakeCorpus(folder, documents, vocab_size=documents[-1][-1][-1] + 1)


def config_for(source, seq_len=32, batch_size=8, **mlm):
    config = Config(seed=3, batch_size=batch_size)
    config.model.vocab_size = 100_000
    config.data.source, config.data.seq_len = source, seq_len
    for name, value in mlm.items():
        assert hasattr(config.data.mlm, name)
        setattr(config.data.mlm, name, value)
    return config


def unmasked(batch):
    """The tokens before masking."""
    tokens = batch['tokens'].copy()
    row, slot = np.nonzero(batch['masked_weights'])
    tokens[row, batch['masked_positions'][row, slot]] = batch['masked_targets'][row, slot]
    return tokens


def same(ours, theirs):
    """Equal features of equal types."""
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and np.array_equal(ours[name], theirs[name]) for name in ours
    )
