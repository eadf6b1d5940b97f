"""What a long pass over a corpus finds, kept on disk as it goes, so that an interrupted pass goes on where it was. (numpy only)"""

import collections
from collections.abc import Iterator, Mapping
import json
import os

import numpy as np

from t5x_lite.data import shards

_CHUNK = 1 << 20  # bytes read at a time


class Pass:
    """Growing files of numbers, FOLDER/NAME.KIND, and counts. What was added since the last `commit` does not survive an interruption.

    Attributes:
      end: blocks before this one are in the files; as it was committed last.
      counts: Counter of what was counted so far.
    """

    def __init__(self, folder: str, name: str, kinds: Mapping[str, np.dtype]):
        self._path, self._kinds = os.path.join(folder, name), {kind: np.dtype(dtype) for kind, dtype in kinds.items()}
        record = {'end': 0, 'sizes': dict.fromkeys(kinds, 0), 'counts': {}}
        if os.path.exists(f'{self._path}.json'):
            with open(f'{self._path}.json', encoding='utf-8') as file:
                record = json.load(file)
        self.end, self.counts = record['end'], collections.Counter(record['counts'])
        self._files = {}
        for kind, size in record['sizes'].items():
            self._files[kind] = file = open(f'{self._path}.{kind}', 'ab')
            file.truncate(size)
        self._waiting = 0

    def add(self, arrays: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> None:
        for kind, array in arrays.items():
            data = np.ascontiguousarray(array, self._kinds[kind].base)
            self._files[kind].write(data.data if data.size else b'')
            self._waiting += data.nbytes
        self.counts.update(counts)

    def commit(self, end: int, after_blocks: int = 1, after_bytes: int = 0) -> None:
        """Makes it last up to block `end`, where so many blocks or bytes came since the last time."""
        if end - self.end < after_blocks and self._waiting < (after_bytes or 1):
            return
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {kind: file.tell() for kind, file in self._files.items()}
        shards.write_json(f'{self._path}.json', {'end': end, 'sizes': sizes, 'counts': dict(self.counts)})
        self.end, self._waiting = end, 0

    def total(self, kind: str) -> int:
        """Numbers (or entries, or rows) of a kind."""
        self._files[kind].flush()
        return os.path.getsize(f'{self._path}.{kind}') // self._kinds[kind].itemsize

    def read(self, kind: str) -> Iterator[np.ndarray]:
        """All of a kind, some at a time."""
        self._files[kind].flush()
        return read(f'{self._path}.{kind}', self._kinds[kind])

    def fetch(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """Those with these numbers, int64 [n]."""
        self._files[kind].flush()
        size, base = self._kinds[kind].itemsize, self._kinds[kind].base
        with open(f'{self._path}.{kind}', 'rb') as file:
            data = b''.join(os.pread(file.fileno(), size, row * size) for row in rows.tolist())
        return np.frombuffer(data, base).reshape(len(rows), *self._kinds[kind].shape)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """Deletes its files."""
        self.close()
        for kind in [*self._files, 'json']:
            if os.path.exists(f'{self._path}.{kind}'):
                os.remove(f'{self._path}.{kind}')


def read(path: str, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The entries of a file, some at a time; of dtypes with a shape, [n, *shape]."""
    dtype = np.dtype(dtype)
    with open(path, 'rb') as file:
        while data := file.read(max(_CHUNK // dtype.itemsize, 1) * dtype.itemsize):
            yield np.frombuffer(data, dtype.base).reshape(-1, *dtype.shape)
