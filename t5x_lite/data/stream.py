"""A corpus as one stream of tokens: documents follow each other, an end-of-text token after each. (numpy only)"""

from typing import Any

import numpy as np


class Stream:
    """Reads a corpus with an end token after each document; behind the last document the first follows again.

    Worked example, the documents (11 12), (13) and (14 15) with end token 3:

        stream                              11 12  3 13  3 14 15  3
        Stream(corpus, 3).read([1, 6], 3)   12  3 13 | 15  3 11
    """

    def __init__(self, corpus: Any, end_id: int):
        """`corpus`: a `t5x_lite.data.corpus.Corpus` or anything with its attributes."""
        self._corpus, self._end_id = corpus, end_id
        self._documents = np.unique(np.asarray(corpus.sentence_starts)[np.asarray(corpus.document_starts)])  # places in the corpus, without empty ones
        self._starts = self._documents + np.arange(len(self._documents))  # places in the stream

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: np.ndarray, length) -> np.ndarray:
        """int32[sum(length)]: the spans from `start` (int64[n], below len(self)) on, of `length` (int64[n] or int) at most len(self), joined."""
        start = np.asarray(start, np.int64)
        length = np.broadcast_to(np.asarray(length, np.int64), start.shape)
        result = np.full(length.sum(), self._end_id, np.int32)
        column = np.cumsum(length) - length
        over = np.maximum(start + length - len(self), 0)
        if (start - over < 0).any() and (length > len(self)).any():
            raise ValueError(f'spans of {length.max()} tokens in a stream of {len(self)}')
        self._read(result, column, start, length - over)
        self._read(result, column + length - over, np.zeros_like(start), over)
        return result

    def _read(self, result, column, start, length):
        """Copies spans that do not reach beyond the stream to result[column:column + length]; ends of documents are there already."""
        column, start, length = (part[length > 0] for part in (column, start, length))
        first = np.searchsorted(self._starts, start, side='right') - 1
        last = np.searchsorted(self._starts, start + length - 1, side='right') - 1
        counts = last - first + 1
        span = np.repeat(np.arange(len(start)), counts)
        document = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts, counts) + first[span]
        begin = np.maximum(start[span], self._starts[document])
        stop = np.minimum((start + length)[span], self._starts[document + 1] - 1)
        place = column[span] + begin - start[span]
        read = self._corpus.tokens
        for here, source, size in zip(place.tolist(), (begin - document).tolist(), (stop - begin).tolist()):
            if size > 0:
                result[here : here + size] = read(source, source + size)
