"""Sorting and joining more than memory holds: entries are spread over files, each small enough to be sorted by itself. (numpy only)"""

from collections.abc import Iterator
import os
import shutil

import numpy as np

ENTRIES = 1 << 18  # that a file should hold
_MOST = 1 << 12  # files: beyond so many times ENTRIES they grow instead
_HELD = 1 << 18  # entries held until they are written


def enough(entries: int) -> int:
    """How many buckets so many entries should have: a power of two."""
    return min(1 << max((entries - 1) // ENTRIES, 0).bit_length(), _MOST)


def by_hash(hashes: np.ndarray, count: int) -> np.ndarray:
    """int64 [n]: the bucket of each uint64 hash among `count`, a power of two: its upper bits."""
    return (hashes >> np.uint64(32)).astype(np.int64) * count >> 32


class Buckets:
    """Files of entries of one type. Within a bucket entries keep the order in which they were added.

        with Buckets(folder, 4, dtype) as buckets:
            buckets.add(np.array([3, 0]), entries)
            for entries in buckets: ...              # of bucket 0, then 1, ...
    """

    def __init__(self, folder: str, count: int, dtype: np.dtype):
        """`folder` is made, or emptied, and is gone at the end."""
        self.count, self._folder, self._dtype = count, folder, np.dtype(dtype)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_waiting = 0

    def __enter__(self):
        shutil.rmtree(self._folder, ignore_errors=True)
        os.makedirs(self._folder)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, numbers: np.ndarray, entries: np.ndarray) -> None:
        """`numbers`: int64 [n], the bucket of each of `entries` [n]."""
        self._waiting.append((numbers, entries))
        self._num_waiting += len(entries)
        if self._num_waiting >= _HELD:
            self._write()

    def __iter__(self) -> Iterator[np.ndarray]:
        self._write()
        for number in range(self.count):
            if os.path.exists(self._path(number)):
                yield np.fromfile(self._path(number), self._dtype)

    def _write(self) -> None:
        if not self._waiting:
            return
        numbers, entries = (np.concatenate(parts) for parts in zip(*self._waiting))
        self._waiting, self._num_waiting = [], 0
        order = np.argsort(numbers, kind='stable')
        numbers, entries = numbers[order], entries[order]
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for first, last in zip(bounds[:-1], bounds[1:], strict=True):
            if first < last:
                with open(self._path(int(numbers[first])), 'ab') as file:
                    file.write(np.ascontiguousarray(entries[first:last]).data)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f'{number:04d}')
