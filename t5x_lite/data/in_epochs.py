"""Examples that lie in memory as an endless sequence. (numpy only)"""

import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import random
from t5x_lite.errors import UserError

# Batches among which texts are sorted by length, as the trainer of transformers has it: few enough that a batch's texts have only their length in common.
_SORTED_BATCHES = 50


class InEpochs:
    """Train: index i is position i % n of epoch i // n, and every epoch has its own order by (seed, epoch). Validation: the order of the file, again and
    again. Both are pure functions of the index.

    With config.data.group_by_length the texts of a training batch are of like length: the order of an epoch is cut into windows of 50 batches; each is sorted
    by length and its batches are shuffled. Every example still comes once an epoch.

    A class of examples calls `_begin`, and has `row_lengths()`, int [n]: tokens of each.
    """

    in_epochs = True  # config.data.folds and group_by_length are for it

    def _begin(self, config: Config, split: str, seed: int, seq_len: int) -> None:
        """
        Raises:
          UserError: config.data.length_buckets that are no lengths.
        """
        self.split, self.seq_len, self._seed = split, seq_len, seed
        buckets = config.data.length_buckets
        if any(bucket < 1 for bucket in buckets):
            raise UserError(f'config.data.length_buckets={buckets} must be above 0')
        self._buckets = sorted(bucket for bucket in buckets if bucket <= seq_len)
        self._batch = config.batch_size if config.data.group_by_length and split == 'train' else 0
        self._window: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.zeros(0, np.int64))  # the one that was last asked for

    def __len__(self) -> int:
        return len(self.row_lengths())

    def width(self, indices) -> int:
        """The smallest of config.data.length_buckets (up to seq_len) that holds the longest of these examples, else seq_len."""
        return self._width(self._positions(np.asarray(indices, np.int64)))

    def rows(self, indices) -> np.ndarray:
        """int64 [n]: which of the examples these are, counted in the order of the file."""
        return self._positions(np.asarray(indices, np.int64))

    def _positions(self, indices: np.ndarray) -> np.ndarray:
        epochs, positions = np.divmod(indices, len(self))
        if self.split != 'train':
            return positions
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._of_epoch(int(epoch), positions[here])
        return rows

    def _of_epoch(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        if not self._batch:
            return random.permute(positions, len(self), random.key(self._seed, 'tables.order', epoch))
        # Batches run across the ends of epochs: the first one of this epoch may have begun in the one before.
        first = -epoch * len(self) % self._batch
        windows = (positions - first) // (_SORTED_BATCHES * self._batch)
        rows = np.empty_like(positions)
        for window in np.unique(windows):
            here, start = windows == window, max(0, first + int(window) * _SORTED_BATCHES * self._batch)
            end = min(first + (int(window) + 1) * _SORTED_BATCHES * self._batch, len(self))
            rows[here] = self._in_window(epoch, start, end, sort=window >= 0)[positions[here] - start]
        return rows

    def _in_window(self, epoch: int, start: int, end: int, sort: bool) -> np.ndarray:
        """The rows of a window, in an order in which the texts of a batch are of like length; what does not fill a batch stays at the end."""
        kept, rows = self._window
        if kept == (epoch, start):
            return rows
        rows = random.permute(np.arange(start, end), len(self), random.key(self._seed, 'tables.order', epoch))
        if sort and (whole := len(rows) // self._batch):
            filling, rest = np.split(rows, [whole * self._batch])
            batches = filling[np.argsort(self.row_lengths()[filling], kind='stable')].reshape(whole, self._batch)
            shuffled = random.permute(np.arange(whole), whole, random.key(self._seed, 'tables.batches', epoch, start))
            rows = np.concatenate([batches[shuffled].reshape(-1), rest])
        self._window = ((epoch, start), rows)  # at once, for other threads
        return rows

    def _width(self, rows: np.ndarray) -> int:
        return self._bucket(int(self.row_lengths()[rows].max(initial=0)))

    def _bucket(self, longest: int) -> int:
        return next((bucket for bucket in self._buckets if bucket >= longest), self.seq_len)


def subset(rows: np.ndarray, most: int, seed: int, name: str) -> np.ndarray:
    """`most` of these rows, drawn by seed, in their order; UserError where there are fewer."""
    if most > len(rows) or most < 0:
        raise UserError(f'--config.data.max_examples={most}, and {name} has {len(rows):,} training rows; lower it')
    return np.sort(rows[random.permute(np.arange(most), len(rows), random.key(seed, 'tables.subset'))])
