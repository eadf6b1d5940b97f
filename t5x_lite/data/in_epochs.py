"""Examples that lie in memory as an endless sequence. (numpy only)"""

import numpy as np

from t5x_lite.data import random
from t5x_lite.errors import UserError


class InEpochs:
    """Train: index i is position i % n of epoch i // n, and every epoch has its own order by (seed, epoch). Validation: the order of the file, again and
    again. Both are pure functions of the index.

    A class of examples sets `split`, `seq_len`, `_seed`, `_buckets`, and has `row_lengths()`, int [n]: tokens of each.
    """

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
            rows[here] = random.permute(positions[here], len(self), random.key(self._seed, 'tables.order', epoch))
        return rows

    def _width(self, rows: np.ndarray) -> int:
        return self._bucket(int(self.row_lengths()[rows].max(initial=0)))

    def _bucket(self, longest: int) -> int:
        return next((bucket for bucket in self._buckets if bucket >= longest), self.seq_len)


def checked_buckets(buckets: tuple[int, ...], seq_len: int) -> list[int]:
    if any(bucket < 1 for bucket in buckets):
        raise UserError(f'config.data.length_buckets={buckets} must be above 0')
    return sorted(bucket for bucket in buckets if bucket <= seq_len)


def subset(rows: np.ndarray, most: int, seed: int, name: str) -> np.ndarray:
    """`most` of these rows, drawn by seed, in their order; UserError where there are fewer."""
    if most > len(rows) or most < 0:
        raise UserError(f'--config.data.max_examples={most}, and {name} has {len(rows):,} training rows; lower it')
    return np.sort(rows[random.permute(np.arange(most), len(rows), random.key(seed, 'tables.subset'))])
