"""States of a body, computed before training, as rows of a file that runs may share. (numpy only)

    FOLDER/rows.bin       float32, or the upper halves of it (bfloat16): [rows, S layers, D], the vectors of example after example
    FOLDER/about.json     shapes, and what the states are of

An example has one vector of each layer, or one for each of its tokens; padding is not kept. A folder has its name once it is whole, so that one of a command
that was stopped is never read.
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import json
import os
import shutil
from typing import Any

import numpy as np

from t5x_lite.errors import UserError

_ROWS, _ABOUT = 'rows.bin', 'about.json'
_TYPES = {'float32': np.dtype('<f4'), 'bfloat16': np.dtype('<u2')}


class FeatureFile:
    """A whole one, mapped into memory.

    Args:
      lengths: int [n], of each example; None where each has one vector.

    Raises:
      UserError: what lies there is no such folder, or was damaged.
    """

    def __init__(self, folder: str, lengths: np.ndarray | None):
        self.folder = folder
        try:
            with open(os.path.join(folder, _ABOUT), encoding='utf-8') as file:
                about = json.load(file)
            self._halves = about['dtype'] == 'bfloat16'
            shape, dtype = tuple(about['shape']), _TYPES[about['dtype']]
            if os.path.getsize(os.path.join(folder, _ROWS)) != np.prod(shape) * dtype.itemsize:
                raise ValueError('its size is wrong')
            self._rows = np.memmap(os.path.join(folder, _ROWS), dtype, 'r', shape=shape)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f'{folder}: these features cannot be read ({error}); remove that folder, and they are computed again') from error
        self._starts, self.by_token = _starts(lengths), lengths is not None

    def get(self, examples: np.ndarray, width: int) -> np.ndarray:
        """float32 [n, S, D] of int [n] examples, or [n, width, S, D], with zeros in padding."""
        if self._starts is None:
            return self._floats(self._rows[examples])
        found = np.zeros((len(examples), width, *self._rows.shape[1:]), np.float32)
        for place, example in enumerate(examples):
            first, last = self._starts[example : example + 2]
            found[place, : last - first] = self._floats(self._rows[first:last])
        return found

    def _floats(self, rows: np.ndarray) -> np.ndarray:
        return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32) if self._halves else np.asarray(rows)


def _starts(lengths: np.ndarray | None) -> np.ndarray | None:
    return None if lengths is None else np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class WithFeatures:
    """Examples of another source, with `features` of them; the source says the rest. It has `rows(indices)`: which of its examples these are."""

    def __init__(self, source: Any, features: FeatureFile):
        self._source, self._features = source, features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def width(self, indices) -> int:
        """Where an example has one vector, nothing computes on its tokens, and batches of one width are one compiled step."""
        return self._source.width(indices) if self._features.by_token else self._source.seq_len

    def get(self, indices, width: int = 0) -> dict[str, np.ndarray]:
        found = self._source.get(indices, width)
        return found | {'features': self._features.get(self._source.rows(indices), found['tokens'].shape[1])}


@contextlib.contextmanager
def making(folder: str) -> Iterator[bool]:
    """Whether the features that are to lie in `folder` must still be made: one process at a time asks, and others wait for it."""
    os.makedirs(os.path.dirname(folder) or '.', exist_ok=True)
    with open(f'{folder}.lock', 'a', encoding='utf-8') as lock:
        with contextlib.suppress(OSError):  # a file system without locks: each makes its own, and one of them stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield not os.path.exists(os.path.join(folder, _ABOUT))


def write(
    folder: str,
    dtype: str,
    shape: tuple[int, int],
    examples: int,
    lengths: np.ndarray | None,
    about: dict[str, Any],
    fill: Callable[[Callable[[np.ndarray, np.ndarray], None]], None],
) -> int:
    """Makes a folder; called while `making` says so.

    Args:
      dtype: float32 or bfloat16.
      shape: (S, D) of a vector of each layer.
      lengths: as FeatureFile has them.
      about: what the features are of, for people.
      fill: called with `put(examples int [n], values [n, S, D] or [n, L, S, D])`, which it calls for all of them; values are float32, or uint16 halves.

    Returns:
      the bytes of the file.

    Raises:
      UserError: no room, or a place that cannot be written; nothing is left there.
    """
    starts, dtype_of = _starts(lengths), _TYPES[dtype]
    whole = (examples if starts is None else int(starts[-1]), *shape)
    size, partial = int(np.prod(whole, dtype=np.int64)) * dtype_of.itemsize, f'{folder}.partial-{os.getpid()}'
    above, name = os.path.split(folder)
    for old in os.listdir(above or '.'):  # of a command that was killed: the lock is ours
        if old.startswith(f'{name}.partial-'):
            shutil.rmtree(os.path.join(above, old), ignore_errors=True)
    try:
        os.makedirs(partial)
        with open(os.path.join(partial, _ROWS), 'wb') as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full would end the process where memory is mapped
        rows = np.memmap(os.path.join(partial, _ROWS), dtype_of, 'r+', shape=whole)

        def put(chosen: np.ndarray, values: np.ndarray) -> None:
            if starts is None:
                rows[chosen] = values
                return
            for example, value in zip(chosen, values, strict=True):
                first, last = starts[example : example + 2]
                rows[first:last] = value[: last - first]

        fill(put)
        rows.flush()
        with open(os.path.join(partial, _ABOUT), 'w', encoding='utf-8') as file:
            json.dump({'dtype': dtype, 'shape': whole, 'of': about}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        if not os.path.exists(folder):
            os.replace(partial, folder)
    except OSError as error:
        mend = 'free some room, name a roomier place with --config.tune.feature_cache=DIR, or halve them with --config.tune.feature_dtype=bfloat16'
        raise UserError(f'{folder}: {size:,} bytes of features cannot be written ({error.strerror or error}); {mend}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size
