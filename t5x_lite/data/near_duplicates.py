"""Documents that are nearly the same: MinHash signatures, bands of them that collide, clusters of which the first document stays. (numpy only)

Broder (1997), "On the resemblance and containment of documents"; Lee et al. (2022), "Deduplicating training data makes language models better", section 4.2.
A document is the set of its runs of n words (shingles), lower-cased, punctuation and white space ignored; Chinese and Japanese characters count as words. Of
`permutations` hash functions each gives the smallest value over that set: two documents agree in one with probability J, the share of shingles that they have
in common (Jaccard). Rows are joined into bands; documents that agree in a whole band are candidates, which are verified by the share of all values in which
they agree: J with a standard deviation of sqrt(J (1 - J) / permutations). With r rows a band, a pair is a candidate with probability 1 - (1 - J^r)^bands: at
16 bands of 8, 0.06 for J = 0.5, 0.95 for 0.8, 0.9999 for 0.9.

Verified pairs make clusters (connected components), and of each the first document in the order of the corpus stays. Where more than 64 documents share a
band, not all pairs are compared but all with the first, those unlike it with the first of these, and so on, 64 times.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import re

import numpy as np

from t5x_lite.data import buckets, random
from t5x_lite.errors import UserError

ENTRY = np.dtype([('hash', '<u8'), ('document', '<i8')])
_CJK = '\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'
_WORD = re.compile(rf'[{_CJK}]|[^\W{_CJK}]+')
_ALL_PAIRS = 64  # documents of a band of which all pairs are compared
_AT_ONCE = 1 << 12  # pairs


@dataclasses.dataclass(frozen=True)
class MinHash:
    permutations: int = 128
    bands: int = 16
    threshold: float = 0.8
    words: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raises UserError for numbers that do not go together."""
        for name, least in (('permutations', 1), ('bands', 1), ('words', 1)):
            if getattr(self, name) < least:
                raise UserError(f'--minhash_{name}={getattr(self, name)}: it must be at least {least}')
        if not 0 < self.threshold <= 1:
            raise UserError(f'--minhash_threshold={self.threshold}: it must be above 0 and at most 1')
        if self.permutations % self.bands:
            divisors = [number for number in range(1, self.permutations + 1) if self.permutations % number == 0]
            near = min(divisors, key=lambda number: (abs(number - self.bands), number))
            raise UserError(f'--minhash_bands={self.bands} does not divide --minhash_permutations={self.permutations}; give {near}')


def shingles(texts: Sequence[str], words: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 [n]: hashes of the runs of so many words, those of each text in a row, repeated ones included; int64 [texts]: where those of each begin).

    A text with fewer words is one run, one without any is one of its characters.
    """
    hashes = [list(map(_hash, _WORD.findall(text.lower()))) or [_hash(text.strip())] for text in texts]
    counts = np.array([len(part) for part in hashes], np.int64)
    found = np.fromiter((value for part in hashes for value in part), np.uint64, int(counts.sum()))
    starts, runs = np.cumsum(counts) - counts, np.maximum(counts - words + 1, 1)
    places = np.arange(runs.sum()) + np.repeat(starts - (np.cumsum(runs) - runs), runs)
    result = np.zeros(len(places), np.uint64)
    for size in np.unique(np.minimum(counts, words)).tolist():
        here = np.repeat(np.minimum(counts, words) == size, runs)
        result[here] = random.bits(_ROOT, *(found[places[here] + number] for number in range(size)))
    return result, np.cumsum(runs) - runs


def signatures(texts: Sequence[str], job: MinHash) -> np.ndarray:
    """uint32 [texts, permutations]. That of a document in parts is the smaller of theirs, value by value."""
    result = np.empty((len(texts), job.permutations), np.uint32)
    if len(texts):
        values, starts = shingles(texts, job.words)
        draws = random.bits(random.key(job.seed, 'near_duplicates'), np.arange(job.permutations), np.arange(2)[:, None])
        for number, (mask, factor) in enumerate(draws.T):
            result[:, number] = np.minimum.reduceat((values ^ mask) * (factor | np.uint64(1)), starts) >> np.uint64(32)
    return result


def band_hashes(rows: np.ndarray, bands: int) -> np.ndarray:
    """uint64 [n, bands] of signatures [n, permutations]; those of different bands never agree but by chance."""
    parts = rows.reshape(len(rows), bands, rows.shape[1] // bands)
    return random.bits(_ROOT, np.arange(bands)[None], *np.moveaxis(parts, -1, 0))


def matches(
    entries: np.ndarray, fetch: Callable[[np.ndarray], np.ndarray], threshold: float, joined: Callable[[np.ndarray], np.ndarray] | None = None
) -> Iterator[np.ndarray]:
    """int64 [m, 2] each: verified pairs of documents, the earlier first.

    Args:
      entries: ENTRY [n], all those of some hashes.
      fetch: gives the signatures [k, permutations] of documents int64 [k].
      joined: says of pairs [k, 2] which are known to be in one cluster, by what was given so far or otherwise: they need no verification.
    """
    entries = entries[np.lexsort((entries['document'], entries['hash']))]
    documents = entries['document']
    ends = np.append(np.flatnonzero(entries['hash'][1:] != entries['hash'][:-1]) + 1, len(entries)) if len(entries) else np.zeros(0, np.int64)
    sizes = np.diff(ends, prepend=0)
    size_of, last_of = np.repeat(sizes, sizes), np.repeat(ends, sizes)
    few = np.flatnonzero((size_of > 1) & (size_of <= _ALL_PAIRS))
    for distance in range(1, _ALL_PAIRS):  # neighbours first: mostly they join all
        few = few[few + distance < last_of[few]]
        if not len(few):
            break
        yield _verified(np.unique(np.stack([documents[few], documents[few + distance]], 1), axis=0), fetch, threshold, joined)
    for end, size in zip(ends[sizes > _ALL_PAIRS].tolist(), sizes[sizes > _ALL_PAIRS].tolist()):
        left = documents[end - size : end]
        for _ in range(_ALL_PAIRS):
            if len(left) < 2:
                break
            pairs = np.stack([np.broadcast_to(left[:1], len(left) - 1), left[1:]], 1)
            same = _agree(pairs, fetch) >= threshold
            yield pairs[same]
            left = left[1:][~same]


def _verified(pairs: np.ndarray, fetch: Callable, threshold: float, joined: Callable | None) -> np.ndarray:
    found = pairs[:0]
    if joined is not None and len(pairs):
        pairs = pairs[~joined(pairs)]
    if len(pairs):
        found = pairs[_agree(pairs, fetch) >= threshold]
    return found


def _agree(pairs: np.ndarray, fetch: Callable) -> np.ndarray:
    """float64 [n]: the share of values in which the signatures of two documents agree."""
    shares = np.empty(len(pairs))
    for first in range(0, len(pairs), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        known, places = np.unique(pairs[part], return_inverse=True)
        rows = fetch(known)
        left, right = places.reshape(-1, 2).T
        shares[part] = (rows[left] == rows[right]).mean(1)
    return shares


class Clusters:
    """Which of the documents 0 to count - 1 belong together, by the pairs that do. A cluster is known by its first document."""

    def __init__(self, count: int, path: str = ''):
        """`path`: a file to hold 8 bytes a document, instead of memory."""
        self._parents = np.memmap(path, np.int64, 'w+', shape=(count,)) if path and count else np.empty(count, np.int64)
        for first in range(0, count, _CHUNK):
            self._parents[first : first + _CHUNK] = np.arange(first, min(first + _CHUNK, count))

    def joined(self, pairs: np.ndarray) -> np.ndarray:
        """bool [n]: whether both of a pair are in one cluster."""
        return self.firsts(pairs[:, 0]) == self.firsts(pairs[:, 1])

    def join(self, pairs: np.ndarray) -> None:
        for start in range(0, len(pairs), _AT_ONCE):
            for pair in pairs[start : start + _AT_ONCE].tolist():
                first, second = map(self._first, pair)
                self._parents[max(first, second)] = min(first, second)

    def firsts(self, documents: np.ndarray) -> np.ndarray:
        """int64 [n]: the first document of the cluster of each."""
        found = self._parents[documents]
        while (above := self._parents[found]).tobytes() != found.tobytes():
            found = above
        return np.asarray(found)

    def others(self) -> Iterator[np.ndarray]:
        """int64 arrays: the documents that are not the first of their cluster, rising."""
        for first in range(0, len(self._parents), _CHUNK):
            documents = np.arange(first, min(first + _CHUNK, len(self._parents)))
            yield documents[self._parents[first : first + len(documents)] != documents]

    def _first(self, document: int) -> int:
        parents = self._parents
        while (above := int(parents[document])) != document:
            parents[document] = parents[above]
            document = above
        return document


_CHUNK = 1 << 18


def duplicates_on_disk(chunks: Iterable[np.ndarray], total: int, fetch: Callable[[np.ndarray], np.ndarray], job: MinHash, folder: str) -> Clusters:
    """The clusters of documents of which `chunks` holds the signatures, in their order, `total` rows together.

    Args:
      fetch: as of `matches`, by row.
      folder: for intermediate files.
    """
    clusters = Clusters(total, f'{folder}/clusters.i8')
    count = buckets.enough(total * job.bands)
    with buckets.Buckets(f'{folder}/bands', count, ENTRY) as by_hash:
        row = 0
        for chunk in chunks:
            found = np.empty((len(chunk), job.bands), ENTRY)
            found['hash'] = band_hashes(chunk, job.bands)
            found['document'] = (row + np.arange(len(chunk)))[:, None]
            row += len(chunk)
            by_hash.add(buckets.by_hash(found['hash'].ravel(), count), found.ravel())
        for entries in by_hash:
            for pairs in matches(entries, fetch, job.threshold, clusters.joined):
                clusters.join(pairs)
    return clusters


_ROOT = random.key('t5x_lite.data.near_duplicates')


@functools.lru_cache(1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode('utf-8', 'surrogatepass'), digest_size=8).digest(), 'little')
