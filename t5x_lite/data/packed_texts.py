"""Texts that share rows (config.data.pack), so that next to nothing of a batch is padding and one shape is compiled. (numpy only)

A batch has config.batch_size rows of config.data.seq_len tokens, and each row as many texts as fit, which neither see each other nor each other's places. Two rows
of 8 tokens, of texts of 3, 4 and 7:

    sequence_ids      1 1 1 2 2 2 2 0 | 1 1 1 1 1 1 1 0
    positions         0 1 2 0 1 2 3 0 | 0 1 2 3 4 5 6 0
    spans             (0, 3) (3, 7) | (0, 7) (0, 0)
    labels            5 1 | 2 0
    example_weights   1 1 | 1 0

The loss is a mean over the texts of a batch, so that how they lie does not matter; how many there are differs from batch to batch.
"""

from typing import Any

import numpy as np

from t5x_lite.config import AugmentConfig, Config
from t5x_lite.data import packing, random, text_rows
from t5x_lite.errors import UserError


class PackedTexts:
    """The rows of a source of labelled texts as an endless sequence: index i is row i % n of epoch i // n, and an epoch has each text once. While training every
    epoch packs anew, into as many rows, in an order of its own; held-out rows are always the same. The source says the rest.

    Args:
      source: has `lengths`, int [n] of its texts, and `packed(rows, width)`.
    """

    def __init__(self, source: Any, seed: int, width: int):
        self._source, self._seed, self._width = source, seed, width
        self._epoch: tuple[int, packing.Rows] = (0, self._packed(0))  # the one that was last asked for

    def __getattr__(self, name: str) -> Any:
        if name == 'width':  # of a batch that depends on what is in it
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._epoch[1])

    def _packed(self, epoch: int) -> packing.Rows:
        return text_rows.shared(self._source.lengths, self._width, random.key(self._seed, 'tables.packing', epoch))

    def _of_epoch(self, epoch: int) -> packing.Rows:
        kept, rows = self._epoch
        if kept != epoch:
            rows = self._packed(epoch)
            self._epoch = (epoch, rows)  # at once, for other threads
        return rows

    def get(self, indices) -> dict[str, np.ndarray]:
        """Features of rows int64 [n]: those of `TextRows.packed`, labels [n, T, ...] and example_weights [n, T]."""
        members, counts = [np.zeros(0, np.int64)], [0]
        for epoch, place in zip(*(part.tolist() for part in np.divmod(np.asarray(indices, np.int64), len(self)))):
            if self._source.split == 'train':
                place = random.permute(np.array([place]), len(self), random.key(self._seed, 'tables.order', epoch))
            row = self._of_epoch(epoch if self._source.split == 'train' else 0).take(np.atleast_1d(place))
            members.append(row.members)
            counts.append(len(row.members))
        return self._source.packed(packing.Rows(np.concatenate(members), np.cumsum(counts)), self._width)

    def describe(self) -> str:
        texts, rows, tokens = len(self._source.lengths), len(self), int(self._source.lengths.sum())
        return (
            f'{self._source.describe()}\ntexts share rows of {self._width} tokens: {texts / rows:.1f} a row, {1 - tokens / (rows * self._width):.1%} of the tokens '
            'are padding; config.batch_size counts rows'
        )


def check(config: Config, source: Any) -> None:
    """
    Args:
      source: the class that config.data.source names.

    Raises:
      UserError: config.data.pack is not for such data, or not beside other fields.
    """
    data = config.data
    if not hasattr(source, 'packed'):
        raise UserError(
            f'config.data.pack is for labelled tables, not for {data.source}; leave it out (text-to-text tasks share rows by config.data.tasks.pack, which is on)'
        )
    if data.group_by_length:
        raise UserError('config.data.group_by_length sorts texts that have rows of their own, and with config.data.pack they share rows; leave one of them out')
    if data.augment != AugmentConfig():
        raise UserError(
            'config.data.augment changes the length of texts, and config.data.pack lays them out once an epoch; leave one of them out '
            '(--config.data.group_by_length pads less too)'
        )
