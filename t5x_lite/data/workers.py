"""What `prepare` does to one block of text, and how blocks reach several processes and come back in order.

Imports neither jax nor TensorFlow: a worker process starts in a fraction of a second.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from t5x_lite.data import sentences, shards, sources, tokenizers
from t5x_lite.data.block_texts import Job, texts_of

IN_FLIGHT = 4  # blocks a process that are read and not yet written
_LINE = re.compile(r'[^\n]*\n|[^\n]+')
_BATCH = 1 << 18  # characters tokenised at a time


@dataclasses.dataclass
class Scanned:
    documents: int
    characters: int
    keys: np.ndarray  # uint64, of documents that are not assigned to a split by their source
    problems: list[sources.Problem]
    emptied: int = 0  # documents of which repeated spans left too little


@dataclasses.dataclass
class Sampled:
    text: str
    problems: list[sources.Problem]


@dataclasses.dataclass
class Encoded:
    block: int
    start: int
    part: int
    last: bool
    splits: dict[str, shards.Documents]
    problems: list[sources.Problem]


def scan(job: Job, block: sources.Block) -> Scanned:
    texts = texts_of(job, block)
    keys = [] if block.split else [_key(job, block, text) for _, text in texts.kept]
    if block.part:
        keys = keys[:1] if block.part == 1 and keys else []
    count = len(texts.kept) if not block.part else int(block.part == 1 and not (block.removed and block.removed.documents))
    return Scanned(count, sum(len(text) for _, text in texts.kept), np.array(keys, np.uint64), texts.problems, texts.emptied)


def sample(job: Job, block: sources.Block) -> Sampled:
    """Lines of the training documents, each with probability job.rate; where white space counts, those of a document as a JSON string."""
    found = texts_of(job, block)
    texts = [text for _, text in found.kept if _split(job, block, text) == 'train']
    lines = ((place, line) for place, text in enumerate(texts) for line in (_LINE.findall(text) if job.whole else text.split('\n')))
    lines = (pair for pair in lines if job.whole or pair[1].strip())
    if job.rate < 1:
        bound = int(job.rate * (1 << 32))
        lines = (pair for number, pair in enumerate(lines) if zlib.crc32(b'%d %d %d' % (job.seed, block.index, number)) < bound)
    if not job.whole:
        return Sampled('\n'.join(line for _, line in lines), found.problems)
    grouped = (''.join(line for _, line in group) for _, group in itertools.groupby(lines, key=lambda pair: pair[0]))
    return Sampled('\n'.join(json.dumps(text, ensure_ascii=False) for text in grouped), found.problems)


def encode(job: Job, block: sources.Block) -> Encoded:
    texts = texts_of(job, block)
    done = dict(job.done)
    found: dict[str, list[tuple[int, list[str]]]] = {}
    for place, text in texts.kept:
        split = _split(job, block, text)
        if (block.start, place) >= done.get(split, (0, 0)):
            cut = sentences.cut if job.whole else sentences.split
            found.setdefault(split, []).append((place, cut(text, job.lines)))
    tokenizer = _tokenizer(job.tokenizer)
    splits = {split: _encode_documents(tokenizer, documents) for split, documents in found.items()}
    return Encoded(block.index, block.start, block.part, block.last, splits, texts.problems)


def _encode_documents(tokenizer: tokenizers.Tokenizer, documents: list[tuple[int, list[str]]]) -> shards.Documents:
    texts = [sentence for _, document in documents for sentence in document]
    owner = np.repeat(np.arange(len(documents)), [len(document) for _, document in documents])
    characters = np.fromiter(map(len, texts), np.int64, len(texts))
    batch = np.concatenate([[0], np.cumsum(characters)[:-1]]) // _BATCH if texts else characters
    bounds = [0, *(np.flatnonzero(np.diff(batch)) + 1).tolist(), len(texts)]
    encoded = [tokenizer.encode_flat(texts[first:last]) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    dtype = token_dtype(tokenizer.vocab_size)
    lengths = np.concatenate([part[1] for part in encoded])
    real = lengths > 0
    count = len(documents)
    per_document = np.bincount(owner[real], minlength=count)
    kept = per_document > 0
    return shards.Documents(
        tokens=np.concatenate([part[0].astype(dtype) for part in encoded]),
        sentences=lengths[real],
        documents=per_document[kept].astype(np.int32),
        lengths=np.bincount(owner, weights=lengths, minlength=count)[kept].astype(np.int64),
        characters=np.bincount(owner[real], weights=characters[real], minlength=count)[kept].astype(np.int64),
        places=np.array([place for place, _ in documents], np.int64)[kept],
    )


def train(kind: str, sample_path: str, vocab_size: int | None, lowercase: bool, output: str) -> None:
    """Trains a tokenizer on the lines of a file that `sample` wrote."""
    tokenizers.train(kind, _Lines(sample_path, kind in tokenizers.KEEP_WHITESPACE), vocab_size, lowercase).save(output)


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class _Lines:
    """The lines of a file, or the texts that they hold as JSON, as often as they are asked for."""

    def __init__(self, path: str, as_json: bool):
        self._path, self._as_json = path, as_json

    def __iter__(self) -> Iterator[str]:
        with open(self._path, encoding='utf-8', newline='\n') as file:
            for line in file:
                yield json.loads(line) if self._as_json else line.rstrip('\n')


def _key(job: Job, block: sources.Block, text: str) -> int:
    return block.key if block.part else sources.document_key(text.encode(), job.seed)


def _split(job: Job, block: sources.Block, text: str) -> str:
    return block.split or ('validation' if _key(job, block, text) < job.threshold else 'train')


@functools.lru_cache(1)
def _tokenizer(path: str) -> tokenizers.Tokenizer:
    return tokenizers.load(path).literal()


class Pool:
    """Processes that work on blocks; with one, this process does."""

    def __init__(self, workers: int):
        self.workers = workers
        self._executor = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._executor:
            self._executor.shutdown(wait=kind is None, cancel_futures=True)

    def in_order(self, function: Callable, job: Job, blocks: Iterable[sources.Block]) -> Iterator:
        """function(job, block) of each block, in their order. At most IN_FLIGHT x workers blocks are read ahead of what is taken here."""
        if self.workers == 1:
            for block in blocks:
                yield function(job, block)
            return
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        for block in blocks:
            waiting.append(self._start().submit(function, job, block))
            if len(waiting) >= IN_FLIGHT * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def apart(self, function: Callable, *args, every: float, tick: Callable[[], None]) -> None:
        """function(*args) in a process of its own, so that its memory is given back; `tick` is called while it runs."""
        if self.workers == 1:
            function(*args)
            return
        self.__exit__(None)
        self._executor = None
        with concurrent.futures.ProcessPoolExecutor(1, _context(), _begin, (True,)) as executor:
            future = executor.submit(function, *args)
            while True:
                try:
                    return future.result(timeout=every)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        raise
                    tick()

    def _start(self) -> concurrent.futures.ProcessPoolExecutor:
        if not self._executor:
            self._executor = concurrent.futures.ProcessPoolExecutor(self.workers, _context(), _begin, (False,))
        return self._executor


def _context():
    return multiprocessing.get_context('spawn')


def _begin(threads: bool) -> None:
    """In a new worker process: one core each, an interrupt is for the parent to handle, and no life after the parent's death."""
    os.environ['TOKENIZERS_PARALLELISM'] = 'true' if threads else 'false'
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
