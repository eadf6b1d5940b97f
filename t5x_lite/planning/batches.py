"""Batches of a run as shapes: what its source makes of a text that stands in for a corpus, so that a plan needs no data."""

import os
import tempfile
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from t5x_lite.assemble import Run
from t5x_lite.config import Config
from t5x_lite.data.tokenizer import SPECIAL_TOKENS
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.training import partitioning

Stage = tuple[int, int, int, int]  # as t5x_lite.stages gives them: from_step, seq_len, batch_size, max_predictions

_SENTENCE, _WORDS, _SENTINELS = 16, 64, 100


class StandIn:
    """A corpus of numbered words with the attributes of `t5x_lite.data.corpus.Corpus`, long enough for several rows, and a vocabulary with every special
    token that an objective asks for.
    """

    def __init__(self, folder: str, split: str, seq_len: int):
        pieces = [*SPECIAL_TOKENS.values(), '[NLU]', '[NLG]', '[S2S]', *(f'<extra_id_{number}>' for number in range(_SENTINELS))]
        first = len(pieces)
        pieces += [f'w{number}' for number in range(_WORDS)]
        self.path, self.split, self.vocab_size, self.tokenizer_path = folder, split, len(pieces), os.path.join(folder, 'tokenizer')
        if not os.path.isdir(self.tokenizer_path):
            os.makedirs(self.tokenizer_path)
            with open(os.path.join(self.tokenizer_path, 'vocab.txt'), 'w', encoding='utf-8') as file:
                file.write('\n'.join(pieces) + '\n')
        a_document, self.num_documents = -(-2 * seq_len // _SENTENCE), 16
        self.num_sentences = a_document * self.num_documents
        self.num_tokens = self.num_sentences * _SENTENCE
        self.sentence_starts = np.arange(self.num_sentences + 1, dtype=np.int64) * _SENTENCE
        self.document_starts = np.arange(self.num_documents + 1, dtype=np.int64) * a_document
        self._tokens = (first + np.arange(self.num_tokens) % _WORDS).astype(np.int32)
        self.unigram_counts = np.bincount(self._tokens, minlength=self.vocab_size)
        part = {'sha256': '', 'documents': self.num_documents, 'sentences': self.num_sentences}
        self.manifest = {'tokenizer_sha256': '', 'splits': {split: {'shards': [part]}}}

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self._tokens[start:stop]


def shapes(run: Run, config: Config, stage: Stage) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch of a stage, without shardings.

    Raises:
      UserError: the source reads what only data tell.
    """
    start, length, size, predictions = stage
    if run.train is not None:
        row = run.train.batch(start, rows=slice(0, 1))
    else:
        if not config.data.source:
            raise UserError('config.data.source is empty; name the class that makes examples, such as bert_flax.objectives:MlmNsp')
        source = resolve(config.data.source, 'config.data.source', 'get')
        if not getattr(source, 'from_corpus', False):
            raise UserError(f'what {config.data.source} reads depends on the data; give them as for training (--config.data.train=FILE, or the names of tasks)')
        with tempfile.TemporaryDirectory() as folder:
            stand_in = StandIn(folder, 'train', length)
            made = source(config, 'train', config.seed, length, predictions, stand_in)
            row = made.get(np.zeros(1, np.int64))
    return {name: jax.ShapeDtypeStruct((size, *value.shape[1:]), value.dtype) for name, value in row.items()}


def placed(batch: dict[str, jax.ShapeDtypeStruct], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """With the shardings that training gives them."""
    shardings: dict[str, Any] = partitioning.batch_shardings(batch, mesh, batch['tokens'].shape[-1])
    return {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=shardings[name]) for name, value in batch.items()}
