"""Mixing sources in exact shares by arithmetic on the index. (numpy only)"""

from collections.abc import Sequence

import numpy as np

_LONGEST_EXACT = 1000
PERIOD = 10_000  # of a pattern at most: in so many examples in a row each source has one


class Mixture:
    """Sends example i of a mixture to (source, example of that source), with nothing to remember.

    A pattern of sources repeats for ever. Its length is the shortest, to 1,000, that holds the weights exactly (3, 1 -> 4); for others it
    is 10,000, each share rounded to a ten-thousandth and at least that. Sources are spread evenly in it.

        Mixture([3, 1])(np.arange(8))  ->  [0 0 1 0 0 0 1 0], [0 1 0 2 3 4 1 5]

    Attributes:
      shares: float64[sources], the exact ones.
    """

    def __init__(self, weights: Sequence[float]):
        """`weights`: above 0, in any unit."""
        weights = np.asarray(weights, np.float64) / np.sum(weights)
        counts = _counts(weights)
        self.shares = counts / counts.sum()
        place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        source = np.repeat(np.arange(len(counts)), counts)
        self._pattern = source[np.argsort(place, kind='stable')]
        self._rank = np.empty_like(self._pattern)
        for number, count in enumerate(counts):
            self._rank[self._pattern == number] = np.arange(count)
        self._counts = counts

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64[n] -> source int64[n], example int64[n]. Each source's examples are used in order, none left out."""
        period, place = np.divmod(np.asarray(indices, np.int64), len(self._pattern))
        source = self._pattern[place]
        return source, period * self._counts[source] + self._rank[place]


def _counts(weights):
    for period in range(len(weights), _LONGEST_EXACT + 1):
        counts = np.rint(weights * period)
        if np.abs(weights * period - counts).max() < 1e-6 and counts.min() > 0:
            return counts.astype(np.int64)
    counts = np.maximum(1, np.floor(weights * PERIOD))
    short = max(0, int(PERIOD - counts.sum()))
    counts[np.argsort(counts - weights * PERIOD, kind='stable')[:short]] += 1
    return counts.astype(np.int64)
