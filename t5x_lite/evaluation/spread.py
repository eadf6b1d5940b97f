"""How far a score may be trusted: bootstrap intervals over examples (Efron, 1979; the percentile interval), and over runs with several seeds. (numpy only)

A resample draws as many examples as there are, with repeats; the interval holds the middle 95 % of the scores of 1,000 of them. It says what another set
of examples might have given, not what another training run might. Two systems are compared on the same resamples (Koehn, 2004): what makes an example
hard for both does not count as a difference. Draws are functions of (seed, resample, place), the same everywhere.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from t5x_lite.data import random

SAMPLES, LEVEL = 1000, 0.95
_CELLS = 1 << 22  # draws in memory at once


@dataclasses.dataclass(frozen=True)
class Spread:
    """Attributes:
    value: the score of the examples themselves.
    low, high: ends of the interval; nan where every resample's score is.
    deviation: standard deviation of the resamples' scores, an estimate of the standard error.
    level: share of the resamples inside.
    undefined: resamples whose score is nan (a correlation of constants, say), which are left out.
    above: share of the resamples with a score above 0, those at 0 half; of a difference, how often the first system is better.
    """

    value: float
    low: float
    high: float
    deviation: float
    level: float
    undefined: int
    above: float

    def __str__(self) -> str:
        return f'{self.value:.4g} ({self.low:.4g} to {self.high:.4g})'


def of_mean(values, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0) -> Spread:
    """Of the mean of values [n], one an example (1 and 0 for right and wrong, F1, losses): fast."""
    values = np.asarray(values, np.float64)
    _check(len(values), samples, level)
    found = [values[numbers].mean(axis=1) for numbers in _resamples(len(values), samples, seed)]
    return _spread(float(values.mean()), np.concatenate(found), level)


def of_metric(metric: Callable[[np.ndarray], float], count: int, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0) -> Spread:
    """Of any metric of `count` examples.

    Args:
      metric: from the numbers of examples, int64 [count] with repeats, to a score: lambda numbers: pearson(targets[numbers], predictions[numbers]).

    Raises:
      ValueError: no examples, no resamples, or a level that is no share.
    """
    _check(count, samples, level)
    found = [float(metric(row)) for numbers in _resamples(count, samples, seed) for row in numbers]
    return _spread(float(metric(np.arange(count))), np.array(found), level)


def of_scores(
    score: Callable[[np.ndarray], dict[str, float]], count: int, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Spread]:
    """{name: spread} of several scores that are computed together, as `of_metric`."""
    _check(count, samples, level)
    found = [score(row) for numbers in _resamples(count, samples, seed) for row in numbers]
    return {name: _spread(value, np.array([each[name] for each in found]), level) for name, value in score(np.arange(count)).items()}


def difference_of_means(first, second, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0) -> Spread:
    """Of mean(first) - mean(second), values [n] of two systems on the same examples in the same order."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f'{first.shape} and {second.shape} values are not of the same examples')
    return of_mean(first - second, samples, level, seed)


def difference(
    first: Callable[[np.ndarray], float], second: Callable[[np.ndarray], float], count: int,
    samples: int = SAMPLES, level: float = LEVEL, seed: int = 0,
) -> Spread:  # fmt: skip
    """Of first - second, the metrics of two systems on the same `count` examples, as `of_metric`."""
    return of_metric(lambda numbers: first(numbers) - second(numbers), count, samples, level, seed)


def over_seeds(scores: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation) of the scores of runs that differ in their seeds; the deviation is that of a sample, nan for one run."""
    if not len(scores):
        raise ValueError('there are no runs')
    return float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else float('nan')


def _resamples(count: int, samples: int, seed: int):
    """int64 [some, count] arrays of the numbers of examples, `samples` rows together."""
    root, step = random.key(seed, 'spread'), max(1, _CELLS // count)
    for first in range(0, samples, step):
        rows = random.bits(root, np.arange(first, min(first + step, samples)))
        yield random.below(random.bits(rows[:, None], np.arange(count)), count)


def _spread(value: float, scores: np.ndarray, level: float) -> Spread:
    defined = scores[~np.isnan(scores)]
    if not len(defined):
        return Spread(value, *[float('nan')] * 3, level, len(scores), float('nan'))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    above = np.mean(defined > 0) + np.mean(defined == 0) / 2
    return Spread(value, float(low), float(high), float(defined.std()), level, len(scores) - len(defined), float(above))


def _check(count: int, samples: int, level: float) -> None:
    if count < 1:
        raise ValueError('nothing to resample: there are no examples')
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f'samples={samples} must be above 0, and level={level} between 0 and 1')
