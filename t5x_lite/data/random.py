"""Random numbers that are a function of what they are for, not of when they are drawn.

Every draw is a hash of (seed, purpose, counters...), so that example 1,000,000 is made without making the 999,999 before it, in any process
and in any order, and stays the same across versions of NumPy: nothing here but 64-bit integer arithmetic. The hash is the finaliser of
SplitMix64 (Steele, Lea, Flood, 2014: "Fast splittable pseudorandom number generators") applied once for each counter.

    root = key(seed, 'targets', epoch)           # once, Python ints and names
    draws = bits(root, np.arange(5))             # uint64[5], one for each counter
    uniform(draws)                               # float64[5] in [0, 1)
    below(draws, 10)                             # int64[5] in 0..9
    permute(np.arange(5), 5, root)               # a permutation of 0..4, each element computed alone
    permute(indices, counts, roots)              # of several permutations, each index in its own
    choose(draws, sizes, counts)                 # bool[sum(sizes)], a random subset for each draw
"""

import functools
import hashlib

import numpy as np

_WORD = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: successive counters land far apart
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ROUNDS = 8


@functools.lru_cache(maxsize=1024)
def _name(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little')


def _mix_int(word: int) -> int:
    word = ((word ^ word >> 30) * _FIRST) & _WORD
    word = ((word ^ word >> 27) * _SECOND) & _WORD
    return word ^ word >> 31


def key(*parts: int | str) -> int:
    """A 64-bit key from integers (of any sign) and names; the order counts."""
    state = 0
    for part in parts:
        counter = _name(part) if isinstance(part, str) else int(part)
        state = _mix_int((state + _STEP * (counter + 1)) & _WORD)
    return state


def bits(root, *counters) -> np.ndarray:
    """uint64 of the broadcast shape of `root` (a key, or an array of `bits`) and integer `counters`. `bits(key(a), b) == key(a, b)`."""
    state = np.asarray(root, np.uint64)
    for counter in counters:
        # At least one dimension: NumPy wraps arrays silently but warns about scalars.
        counter = np.atleast_1d(np.asarray(counter)).astype(np.uint64)
        state = state + (counter + np.uint64(1)) * np.uint64(_STEP)
        state ^= state >> np.uint64(30)
        state *= np.uint64(_FIRST)
        state ^= state >> np.uint64(27)
        state *= np.uint64(_SECOND)
        state ^= state >> np.uint64(31)
    return state


def uniform(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from the upper 53 bits of each word."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(words: np.ndarray, count) -> np.ndarray:
    """int64 in [0, count) from the upper 32 bits of each word; `count` (int or array, 1 to 2^32) broadcasts. Bias: below count / 2^32."""
    count = np.asarray(count)
    if count.size and (count.min() < 1 or count.max() > 2**32):
        raise ValueError(f'count lies in {count.min()}..{count.max()}; expected 1..2^32')
    return ((words >> np.uint64(32)) * count.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def coin_flips(root: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Heads among `count` (int64[n] >= 0) fair flips for each key of `root` (uint64[n]): a binomial draw, by counting random bits."""
    heads, left, word = np.zeros(len(count), np.int64), count.astype(np.int64), 0
    rows = np.flatnonzero(left > 0)
    while len(rows):
        used = np.minimum(left[rows], 64)
        heads[rows] += np.bitwise_count(bits(root[rows], word) >> (64 - used).astype(np.uint64))
        left[rows] -= used
        rows, word = rows[left[rows] > 0], word + 1
    return heads


def permute(index, count, root) -> np.ndarray:
    """int64: where a random permutation of range(count), chosen by `root`, sends each `index`, in constant memory.

    A Feistel network over the next power of two, re-applied to what falls outside (cycle walking: Black and Rogaway, 2002, "Ciphers with
    arbitrary finite domains").

    Args:
      count: int, or int64 of the shape of `index`, each in a permutation of its own.
      root: a key, or uint64 of that shape.
    """
    index, several = np.asarray(index, np.int64), np.ndim(count) > 0 or np.ndim(root) > 0
    if several:
        count = np.broadcast_to(count, index.shape).reshape(-1)
        keys = bits(0, np.broadcast_to(np.asarray(root, np.uint64), index.shape).reshape(-1))  # key(root) of each
    if index.size and (index.min() < 0 or np.any(index.reshape(-1) >= count)):
        raise ValueError(f'indices lie in {index.min()}..{index.max()}; expected 0..{np.max(count) - 1}')
    width = np.maximum(2, np.frexp(np.asarray(count) - 1)[1])  # bits of the largest index
    low_bits, high_bits = (width // 2).astype(np.uint64), (width - width // 2).astype(np.uint64)
    low_mask, high_mask = ((np.uint64(1) << size) - np.uint64(1) for size in (low_bits, high_bits))
    result = index.reshape(-1).astype(np.uint64)
    outside = np.flatnonzero(np.broadcast_to(count, result.shape) > 1)
    while len(outside):
        pick = outside if several else ...
        shift, low_part, high_part = low_bits[pick], low_mask[pick], high_mask[pick]
        high, low = result[outside] >> shift, result[outside] & low_part
        for turn in range(0, _ROUNDS, 2):
            first, second = (bits(keys[outside], number) if several else key(root, number) for number in (turn, turn + 1))
            high ^= bits(first, low) & high_part
            low ^= bits(second, high) & low_part
        result[outside] = high << shift | low
        outside = outside[result[outside] >= (count[outside] if several else count)]
    return result.astype(np.int64).reshape(index.shape)


_BLOCK = 1 << 16  # groups, and items of a group, that `choose` numbers with 16 bits each


def choose(roots: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """bool[sum(sizes)]: for each key of `roots` (uint64[n]), which of its `sizes` items (int64[n] < 2^16) are its `counts` chosen ones.

    Every subset of that size is as likely. A group depends on its key, size and count alone. Those with the smallest draws are chosen; group,
    draw and item share a word that is sorted as a number, which is several times faster than argsort.

        choose(keys, sizes=[3, 4], counts=[1, 2])  ->  [0 1 0  1 0 0 1]
    """
    if len(sizes) > _BLOCK:
        parts = [slice(first, first + _BLOCK) for first in range(0, len(sizes), _BLOCK)]
        return np.concatenate([choose(roots[part], sizes[part], counts[part]) for part in parts])
    if sizes.size and (sizes.min() < 0 or sizes.max() >= _BLOCK):
        raise ValueError(f'sizes lie in {sizes.min()}..{sizes.max()}; expected 0..{_BLOCK - 1}')
    starts = np.cumsum(sizes) - sizes
    group = np.repeat(np.arange(len(sizes)), sizes)
    inside = np.arange(len(group)) - starts[group]
    words = bits(np.asarray(roots, np.uint64)[group], inside) >> np.uint64(32) << np.uint64(16)
    words |= group.astype(np.uint64) << np.uint64(48) | inside.astype(np.uint64)
    words.sort()
    # Sorting keeps groups where they were: the word at a group's k-th place holds its k-th smallest draw.
    chosen = inside < np.asarray(counts)[group]
    result = np.zeros(len(group), bool)
    result[starts[group[chosen]] + (words[chosen] & np.uint64(_BLOCK - 1)).astype(np.int64)] = True
    return result
