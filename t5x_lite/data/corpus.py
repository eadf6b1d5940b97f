"""A prepared corpus: tokens on disk with random access, as `python -m t5x_lite.prepare` writes them.

DIR/manifest.json               format, counts, shards, the settings that made it, the tokenizer's fingerprint
DIR/tokenizer/                  a tokenizer folder
DIR/unigram_counts.npy          int64[vocab_size]: how often each token occurs in the train split
DIR/SPLIT-00000.tokens          token ids of one shard, raw little-endian uint16 or uint32, without special tokens
DIR/SPLIT-00000.sentences.npy   int32: tokens in each sentence
DIR/SPLIT-00000.documents.npy   int32: sentences in each document; documents never cross shards
DIR/SPLIT.sentence_starts.npy   int64: running sums of the above over the whole split, so that a reader opens at once and shares
DIR/SPLIT.document_starts.npy   the memory with others
"""

import functools
import hashlib
import json
import os

import numpy as np

from t5x_lite import remote
from t5x_lite.errors import UserError

FORMAT = 1
MANIFEST = 'manifest.json'  # written last: a folder without it is no corpus


class Corpus:
    """One split of a prepared corpus, memory-mapped: opening costs nothing but the manifest, however large the corpus.

    Worked example, two documents of (2, 1) sentences of (3, 2, 4) tokens:
      sentence_starts [0, 3, 5, 9]   sentence i is tokens(sentence_starts[i], sentence_starts[i + 1])
      document_starts [0, 2, 3]      document d is sentences document_starts[d] .. document_starts[d + 1]

    Attributes:
      path, split: what was opened.
      manifest: manifest.json as a dict.
      vocab_size, tokenizer_path: of the tokenizer in the folder.
      num_documents, num_sentences, num_tokens: of this split.
      sentence_starts: int64[num_sentences + 1], offsets in the token stream of the split.
      document_starts: int64[num_documents + 1], first sentence of each document.
    """

    def __init__(self, path: str, split: str, folder: str = ''):
        """Raises UserError where the folder is no prepared corpus, lacks the split, or a file of it is missing or has the wrong size.

        Args:
          folder: the copy of a path in a bucket, where there is one.
        """
        self.path, self.split = os.fspath(path), split
        self._folder = folder or remote.local(self.path, 'tokenizer')
        self.manifest = read_manifest(self._folder)
        splits = self.manifest['splits']
        if split not in splits:
            raise UserError(
                f'{self.path}: no {split} part, only {", ".join(sorted(splits))}; prepare it again into another folder '
                'with --validation_fraction or --validation_input'
            )
        counts = splits[split]
        self.vocab_size = self.manifest['vocab_size']
        self.tokenizer_path = os.path.join(self._folder, 'tokenizer')
        self.num_documents, self.num_sentences, self.num_tokens = (counts[key] for key in ('documents', 'sentences', 'tokens'))
        if not self.num_tokens:
            raise UserError(f'{self.path}: the {split} part is empty')
        self._shards = counts['shards']
        self._dtype = np.dtype(self.manifest['dtype']).newbyteorder('<')
        for shard in self._shards:
            self._check_size(f'{shard["name"]}.tokens', shard['tokens'] * self._dtype.itemsize)
        self._shard_starts = np.concatenate([[0], np.cumsum([shard['tokens'] for shard in self._shards])]).astype(np.int64)
        self.sentence_starts = self._starts('sentence', self.num_sentences)
        self.document_starts = self._starts('document', self.num_documents)
        if self.sentence_starts[-1] != self.num_tokens or self.document_starts[-1] != self.num_sentences:
            raise UserError(f'{self.path}: the lengths of the {split} part do not add up to the counts in manifest.json; prepare it again')
        self._maps: dict[int, np.ndarray] = {}

    @functools.cached_property
    def unigram_counts(self) -> np.ndarray:
        """int64[vocab_size]: how often each token occurs in the train split, whatever this split is."""
        counts = self._load('unigram_counts.npy')
        if counts.shape != (self.vocab_size,):
            raise UserError(f'{self.path}/unigram_counts.npy: shape {counts.shape}, expected ({self.vocab_size},); prepare it again')
        return np.asarray(counts)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """int32[stop - start] at these offsets of the split's token stream; the span must lie inside one document."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f'tokens {start}..{stop} of {self.num_tokens}')
        if start == stop:
            return np.zeros(0, np.int32)
        index = int(np.searchsorted(self._shard_starts, start, side='right')) - 1
        first = int(self._shard_starts[index])
        if stop > self._shard_starts[index + 1]:
            raise IndexError(f'tokens {start}..{stop} cross the end of a shard, and so of a document')
        if index not in self._maps:
            name = f'{self._shards[index]["name"]}.tokens'
            self._maps[index] = np.memmap(os.path.join(self._folder, name), dtype=self._dtype, mode='r')
        return self._maps[index][start - first : stop - first].astype(np.int32)

    def verify(self) -> None:
        """Reads the whole split, a gigabyte in a second or so, and raises UserError where it does not hold what `prepare` wrote."""
        for shard in self._shards:
            path = os.path.join(self._folder, f'{shard["name"]}.tokens')
            with open(path, 'rb') as file:
                if hashlib.file_digest(file, 'sha256').hexdigest() != shard['sha256']:
                    raise UserError(f'{path}: does not hold what was written there (its checksum differs); prepare the corpus again')

    def __reduce__(self):
        return Corpus, (self.path, self.split, self._folder)  # loader processes map the files themselves

    def _starts(self, kind: str, count: int) -> np.ndarray:
        name = f'{self.split}.{kind}_starts.npy'
        if os.path.exists(os.path.join(self._folder, name)):
            starts = self._load(name)
        else:
            lengths = [self._load(f'{shard["name"]}.{kind}s.npy') for shard in self._shards]
            starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
        if starts.shape != (count + 1,):
            raise UserError(
                f'{self.path}: {starts.shape[0] - 1} {kind}s in the files of the {self.split} part, {count} in manifest.json; '
                'prepare it again'
            )
        return starts

    def _load(self, name: str) -> np.ndarray:
        path = os.path.join(self._folder, name)
        try:
            return np.load(path, mmap_mode='r')
        except FileNotFoundError as error:
            raise UserError(f'{path}: missing; prepare the corpus again') from error
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f'{path}: broken or truncated ({error}); prepare the corpus again') from error

    def _check_size(self, name: str, size: int) -> None:
        path = os.path.join(self._folder, name)
        if not os.path.exists(path):
            raise UserError(f'{path}: missing; prepare the corpus again')
        if os.path.getsize(path) != size:
            raise UserError(
                f'{path}: {os.path.getsize(path):,} bytes, expected {size:,}: truncated or overwritten; prepare the corpus again'
            )


def read_manifest(path: str) -> dict:
    """manifest.json of a prepared corpus, or UserError."""
    file_path = os.path.join(path, MANIFEST)
    try:
        with open(file_path, encoding='utf-8') as file:
            manifest = json.load(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        unfinished = os.path.exists(os.path.join(path, 'unfinished'))
        mend = (
            'its preparation was interrupted: repeat that command to finish it'
            if unfinished
            else 'give a folder that python -m t5x_lite.prepare wrote'
        )
        raise UserError(f'{path}: not a prepared corpus (no manifest.json); {mend}') from error
    except ValueError as error:
        raise UserError(f'{file_path}: not JSON ({error}); prepare the corpus again') from error
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
        found = manifest.get('format') if isinstance(manifest, dict) else None
        raise UserError(f'{file_path}: format {found!r}, this version reads {FORMAT}; prepare the corpus again')
    return manifest
