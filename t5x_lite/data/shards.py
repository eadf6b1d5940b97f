"""Writing the files of a prepared corpus (laid out in `t5x_lite.data.corpus`), one shard after the other, each all or nothing.

While a corpus is being written, DIR/unfinished/ holds the shard in the making and, for every finished shard, a record. A shard is finished
when its record is there: its files were complete and on disk before. A run that starts again counts on records alone, and writes the same
shards after them.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 20  # numbers copied at a time when files are gone through
_KINDS = ('tokens', 'sentences.npy', 'documents.npy')


@dataclasses.dataclass
class Documents:
    """Whole documents of one split, from one block, in order; or, where `part` says so, a part of a long one."""

    tokens: np.ndarray  # in a row, in the corpus's dtype
    sentences: np.ndarray  # int32: tokens of each sentence
    documents: np.ndarray  # int32: sentences of each document
    lengths: np.ndarray  # int64: tokens of each document
    characters: np.ndarray  # int64: of each document's sentences
    places: np.ndarray  # int64: number of each document in the block

    def of(self, first: int, stop: int) -> 'Documents':
        """The documents `first` to `stop` - 1 of these."""
        tokens, sentences = (np.concatenate([[0], np.cumsum(counts)])[[first, stop]] for counts in (self.lengths, self.documents))
        parts = (field[first:stop] for field in (self.documents, self.lengths, self.characters, self.places))
        return Documents(self.tokens[slice(*tokens)], self.sentences[slice(*sentences)], *parts)


def runs(lengths: np.ndarray, tokens: int, shard_tokens: int) -> Iterator[tuple[int, int, int]]:
    """(first, stop, tokens in the shard then) of the runs of whole documents that go into one shard each: one is full with the document that fills it.

    Args:
      lengths: int64 [n], tokens of each document.
      tokens: that the first shard has before.
    """
    ends, first = np.cumsum(lengths), 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        stop = min(int(np.searchsorted(ends, before + shard_tokens - tokens)) + 1, len(ends))
        tokens += int(ends[stop - 1]) - before
        yield first, stop, tokens
        tokens = 0 if tokens >= shard_tokens else tokens
        first = stop


class ShardWriter:
    """Appends documents of one split; finishes a shard with the document that fills it.

    Attributes:
      done: (block, number in it): every document of the split before this one is in a finished shard.
      records: of the finished shards.
    """

    def __init__(self, folder: str, split: str, dtype: np.dtype, shard_tokens: int, first: int = 0):
        """`first`: number of the first shard to write; those before it are others' work."""
        self._folder, self._work, self._split = folder, os.path.join(folder, 'unfinished'), split
        self.dtype, self._shard_tokens = np.dtype(dtype).newbyteorder('<'), shard_tokens
        self._first = first
        self.records: list[dict] = []
        while os.path.exists(self._record_path(len(self.records))):
            with open(self._record_path(len(self.records)), encoding='utf-8') as file:
                self.records.append(json.load(file))
        self.done = tuple(self.records[-1]['end']) if self.records else (0, 0)
        self._files = None

    @property
    def tokens(self) -> int:
        """Of finished shards and of the one in the making."""
        return sum(record['tokens'] for record in self.records) + (self._counts['tokens'] if self._files else 0)

    def add(self, block: int, new: Documents) -> None:
        """Appends whole documents."""
        for first, stop, _ in runs(new.lengths, self._counts['tokens'] if self._files else 0, self._shard_tokens):
            self._open()
            part = new.of(first, stop)
            self._append(part.tokens, part.sentences, int(part.characters.sum()))
            self._end_documents(part.documents, (block, int(part.places[-1]) + 1))

    def add_part(self, new: Documents) -> None:
        """Appends a part of a long document."""
        if not len(new.sentences):
            return
        self._open()
        self._append(new.tokens, new.sentences, int(new.characters.sum()))
        self._long_sentences += len(new.sentences)

    def end_long(self, start: int) -> None:
        """Ends the long document that began in block `start`."""
        if self._files and self._long_sentences:
            sentences, self._long_sentences = self._long_sentences, 0
            self._end_documents(np.array([sentences], np.int32), (start, 1))

    def finish(self, end: tuple[int, int]) -> None:
        """Finishes the last shard."""
        if self._files and self._counts['documents']:
            self._commit(end)

    def close(self) -> None:
        """Leaves the shard in the making unfinished."""
        for file in (self._files or {}).values():
            file.close()
        self._files = None

    def _open(self) -> None:
        if self._files:
            return
        self._name = f'{self._split}-{self._first + len(self.records):05d}'
        self._files = {kind: open(os.path.join(self._work, f'{self._name}.{kind}'), 'wb') for kind in _KINDS}
        for kind in _KINDS[1:]:
            _write_npy_header(self._files[kind], np.int32, 0)
        self._counts = dict.fromkeys(('documents', 'sentences', 'tokens', 'characters'), 0)
        self._hash = hashlib.sha256()
        self._long_sentences = 0

    def _append(self, tokens: np.ndarray, sentences: np.ndarray, characters: int) -> None:
        data = np.ascontiguousarray(tokens, self.dtype).data
        self._hash.update(data)
        self._files['tokens'].write(data)
        self._files['sentences.npy'].write(np.ascontiguousarray(sentences, '<i4').data)
        self._counts['tokens'] += len(tokens)
        self._counts['sentences'] += len(sentences)
        self._counts['characters'] += characters

    def _end_documents(self, sentences: np.ndarray, end: tuple[int, int]) -> None:
        self._files['documents.npy'].write(np.ascontiguousarray(sentences, '<i4').data)
        self._counts['documents'] += len(sentences)
        if self._counts['tokens'] >= self._shard_tokens:
            self._commit(end)

    def _commit(self, end: tuple[int, int]) -> None:
        for kind, count in zip(_KINDS[1:], ('sentences', 'documents'), strict=True):
            self._files[kind].seek(0)
            _write_npy_header(self._files[kind], np.int32, self._counts[count])
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for kind in _KINDS:
            name = f'{self._name}.{kind}'
            os.replace(os.path.join(self._work, name), os.path.join(self._folder, name))
        sync_folder(self._folder)
        record = {'name': self._name, **self._counts, 'sha256': self._hash.hexdigest(), 'end': list(end)}
        write_json(self._record_path(len(self.records)), record)
        self.records.append(record)
        self.done, self._files = end, None

    def _record_path(self, index: int) -> str:
        return os.path.join(self._work, f'{self._split}-{self._first + index:05d}.json')


def write_index(folder: str, split: str, records: list[dict]) -> None:
    """SPLIT.sentence_starts.npy and SPLIT.document_starts.npy, from the lengths in the shards."""
    for kind in ('sentence', 'document'):
        path = os.path.join(folder, f'{split}.{kind}_starts.npy')
        with open(path + '.part', 'wb') as file:
            _write_npy_header(file, np.int64, 1 + sum(record[f'{kind}s'] for record in records))
            total = 0
            file.write(np.zeros(1, '<i8').data)
            for record in records:
                for lengths in _chunks(os.path.join(folder, f'{record["name"]}.{kind}s.npy'), '<i4', _header_size(np.int32)):
                    file.write((total + np.cumsum(lengths, dtype='<i8')).data)
                    total += int(lengths.sum(dtype=np.int64))
        os.replace(path + '.part', path)


def count_tokens(folder: str, records: list[dict], dtype: np.dtype, vocab_size: int) -> np.ndarray:
    """int64[vocab_size]: how often each token occurs in these shards."""
    counts = np.zeros(vocab_size, np.int64)
    for record in records:
        for tokens in _chunks(os.path.join(folder, f'{record["name"]}.tokens'), np.dtype(dtype).newbyteorder('<'), 0):
            counts += np.bincount(tokens, minlength=vocab_size)
    return counts


def write_npy(path: str, array: np.ndarray) -> None:
    """All or nothing."""
    with open(path + '.part', 'wb') as file:
        np.save(file, array)
    os.replace(path + '.part', path)


def write_json(path: str, value) -> None:
    """All or nothing."""
    with open(path + '.part', 'w', encoding='utf-8') as file:
        json.dump(value, file, indent=1)
        file.write('\n')
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + '.part', path)
    sync_folder(os.path.dirname(path))


def sync_folder(folder: str) -> None:
    handle = os.open(folder or '.', os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _chunks(path: str, dtype, skip: int):
    with open(path, 'rb') as file:
        file.seek(skip)
        while len(numbers := np.fromfile(file, dtype, CHUNK)):
            yield numbers


def _write_npy_header(file, dtype, count: int) -> None:
    """numpy pads headers so that the count can be put in later."""
    header = {'descr': np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder('<')), 'fortran_order': False, 'shape': (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _header_size(dtype) -> int:
    file = io.BytesIO()
    _write_npy_header(file, dtype, 0)
    return file.tell()
