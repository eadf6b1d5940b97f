"""Texts that wait for answers, in batches of like length. (numpy only)"""

from collections.abc import Iterable, Iterator

import numpy as np

from t5x_lite.data.squad_files import Question
from t5x_lite.data.tagged_files import Sentence

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of batches, so that few shapes are compiled
TOGETHER = 32  # batches' worth of texts that are looked over together

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
    """(rows, the same filled up to a usual number by repeating one, columns) of each batch; the longest first: if memory does not suffice, it shows at once.

    Lengths 3, 20, 4 in batches of 2 -> ([1, 2], [1, 2], 24), ([0], [0, 0], 16).

    Args:
      lengths: [n], tokens of each row.
      size: rows of a batch; of one row alone it has one.
      limit: columns that there are at most.
    """
    size = size if len(lengths) > 1 else 1
    order = np.argsort(-np.asarray(lengths), kind='stable')
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        longest = lengths[rows[0]]
        yield rows, np.pad(rows, (0, size - len(rows)), mode='edge'), min(next((width for width in WIDTHS if width >= longest), limit), limit)
