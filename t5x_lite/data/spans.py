"""Three sentences in a row that stood in the corpus before: all but the first are removed, as from C4 (Raffel et al., 2020, section 2.2). (numpy only)

The paper removes all but one of any span of three sentences; its public code compares lines instead. Here: sentences of what the other rules left, compared
by a 64-bit hash without regard to case and white space; the first span in the order of the corpus stays. Worked example, a document of sentences a b c d,
then others:

    x a b c y    ->  x y         (a b c) stood there before
    b c d e      ->  e           (b c d) too; (c d e) did not, and e is nowhere else
    a b x        ->  a b x       two sentences are no span
    h h h h h    ->  h h h       all but one

No sentence is lost altogether: what is removed repeats what stood earlier. (A document that goes afterwards as a near duplicate of another takes with it what
it had of its own, this too.) Documents of several blocks are compared within their parts, without the spans that cross from one to the next. Of n spans some
n^2 / 2^65 are taken for others by chance: of 10^9 one in forty.

A sentence is known by its position, int64: the block above, and below a number that counts through it: `base` of its document (characters of the documents
before in the block) plus its number in the document. So positions rise through the corpus, and following sentences have following ones.
"""

from collections.abc import Iterable, Iterator, Sequence
import hashlib

import numpy as np

from t5x_lite.data import buckets, random

SPAN = 3  # sentences
BLOCK_SHIFT = 32  # bits of a position below its block
ENTRY = np.dtype([('hash', '<u8'), ('position', '<i8')])
_ROOT = random.key('t5x_lite.data.spans')


def entries(sentences: Sequence[str], block: int, base: int) -> np.ndarray:
    """ENTRY [max(sentences - 2, 0)]: the spans of a document, each at the position of its first sentence."""
    hashes = np.array([_hash(sentence) for sentence in sentences], np.uint64)
    found = np.empty(max(len(hashes) - SPAN + 1, 0), ENTRY)
    found['hash'] = random.bits(_ROOT, *(hashes[number : number + len(found)] for number in range(SPAN))) if len(found) else 0
    found['position'] = (block << BLOCK_SHIFT) + base + np.arange(len(found))
    return found


def repeated(found: np.ndarray) -> np.ndarray:
    """int64 [n], sorted: positions of the sentences to remove, from ENTRY [m] with all spans of some hashes, in any order."""
    found = found[np.argsort(found['position'], kind='stable')]
    found = found[np.argsort(found['hash'], kind='stable')]
    new = np.ones(len(found), bool)
    new[1:] = found['hash'][1:] != found['hash'][:-1]
    first = found['position'][np.flatnonzero(new)[np.cumsum(new) - 1]] if len(found) else found['position']
    again = found['position'][~new][:, None] + np.arange(SPAN)
    return np.unique(again[again >= first[~new][:, None] + SPAN])  # the first span itself stays, whatever overlaps it


def repeated_on_disk(chunks: Iterable[np.ndarray], total: int, num_blocks: int, folder: str) -> Iterator[np.ndarray]:
    """int64 arrays, rising from one to the next: `repeated` for more spans than memory holds.

    Args:
      chunks: ENTRY arrays, `total` entries together.
      num_blocks: that positions count through.
      folder: for intermediate files; it is gone at the end.
    """
    count = buckets.enough(total)
    places = buckets.enough(SPAN * total)
    with buckets.Buckets(f'{folder}/positions', places, np.dtype('<i8')) as by_place:
        with buckets.Buckets(f'{folder}/hashes', count, ENTRY) as by_hash:
            for chunk in chunks:
                by_hash.add(buckets.by_hash(chunk['hash'], count), chunk)
            for group in by_hash:
                positions = repeated(group)
                by_place.add((positions >> BLOCK_SHIFT) * places // max(num_blocks, 1), positions)
        for positions in by_place:
            yield np.unique(positions)


def without(sentences: Sequence[str], gone: np.ndarray) -> list[str]:
    """The sentences of a document but for those with the numbers in `gone`, int [n]."""
    numbers = set(gone.tolist())
    return [sentence for number, sentence in enumerate(sentences) if number not in numbers]


def _hash(sentence: str) -> int:
    return int.from_bytes(hashlib.blake2b(' '.join(sentence.split()).lower().encode('utf-8', 'surrogatepass'), digest_size=8).digest(), 'little')
