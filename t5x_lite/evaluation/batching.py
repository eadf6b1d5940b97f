"""Texts that wait for answers, in batches of like length. (numpy only)"""

from collections.abc import Iterable, Iterator

import numpy as np

from t5x_lite.data import packing, text_rows
from t5x_lite.data.squad_files import Question
from t5x_lite.data.tagged_files import Sentence

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of batches, so that few shapes are compiled
TOGETHER = 32  # batches' worth of texts that are looked over together
SHARED = 64  # columns of a row that texts share: attention across them costs little, and few texts are longer
_TEXTS = 2  # that such a row counts as in the size of a batch

Asked = tuple[str, ...] | Question | Sentence  # texts; a question with an id about a text; a text in words already, whose tags are not looked at
Texts = Iterable[Asked | None]  # None: nothing more has arrived, what is there should be answered


def chunks(texts: Texts, size: int) -> Iterator[list[Asked]]:
    """Texts to be answered together: `size` of them, or as many as have arrived."""
    chunk: list[Asked] = []
    for text in texts:
        if text is not None:
            chunk.append(text)
        if chunk and (text is None or len(chunk) == size):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def of_like_length(lengths: np.ndarray, size: int, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(rows, the same filled up to a usual number by repeating one, columns) of each batch, the longest first. A batch is of rows with the same columns, so
    that little is padding; the last of those has 1, 2, 4, ... rows.

    Lengths 3, 20, 4, 5, 6 in batches of 3 -> ([1], [1], 24), ([4, 3, 2], [4, 3, 2], 16), ([0], [0], 16).

    Args:
      lengths: [n], tokens of each row.
      size: rows of a batch at most.
      limit: columns that there are at most.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind='stable')
    columns = np.array([min(next((width for width in WIDTHS if width >= length), limit), limit) for length in lengths[order]])
    for width in sorted(set(columns.tolist()), reverse=True):
        alike = order[columns == width]
        for first in range(0, len(alike), size):
            rows = alike[first : first + size]
            yield rows, np.pad(rows, (0, _usual(len(rows), size) - len(rows)), mode='edge'), width


def sharing_rows(lengths: np.ndarray, size: int) -> Iterator[tuple[packing.Rows, int]]:
    """(rows, columns) of batches in which several texts share a row, so that next to nothing is padding. A row has SHARED columns, or
    fewer where all texts together are shorter; of the last batch there are 1, 2, 4, ... rows, some of them empty. Each text is in one batch.

    Args:
      lengths: [n], tokens of each text; at most SHARED.
      size: texts of a batch, about.
    """
    width = next(width for width in WIDTHS if width >= min(np.sum(lengths), SHARED))
    rows, together = text_rows.shared(lengths, width, 0), max(1, size // _TEXTS)
    for first in range(0, len(rows), together):
        some = rows.take(np.arange(first, min(first + together, len(rows))))
        count = _usual(len(some), together)
        starts = np.pad(some.starts, (0, count - len(some)), mode='edge')
        yield packing.Rows(some.members, starts), width


def _usual(count: int, most: int) -> int:
    """At least `count`, and one of few numbers."""
    return min(most, 1 << (count - 1).bit_length())
