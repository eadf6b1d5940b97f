"""Intervals: against theory, against each other, and at their edges."""

import math

import numpy as np
import pytest

from t5x_lite.evaluation import metrics, spread


def test_a_mean_has_its_standard_error():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = spread.of_mean(values, samples=4000)
    error = values.std() / 20
    assert found.value == values.mean() and found.deviation == pytest.approx(error, rel=0.05)
    assert (found.low, found.high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error)
    narrow = spread.of_mean(values, samples=4000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * error, rel=0.08)
    assert str(found).startswith(f'{found.value:.4g} (')


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = [(found.low <= 0.7 <= found.high) for found in (spread.of_mean(rng.random(100) < 0.7, 300, 0.9, seed) for seed in range(300))]
    assert 0.85 < np.mean(held) < 0.95


def test_any_metric_as_the_mean_and_whatever_fits_in_memory(monkeypatch):
    values = np.random.default_rng(2).random(50)
    fast = spread.of_mean(values, 200, seed=4)
    monkeypatch.setattr(spread, '_CELLS', 60)  # a row at a time
    assert spread.of_mean(values, 200, seed=4) == fast
    slow = spread.of_metric(lambda numbers: values[numbers].mean(), 50, 200, seed=4)
    assert (slow.low, slow.high, slow.deviation) == pytest.approx((fast.low, fast.high, fast.deviation))
    assert spread.of_mean(values, 200, seed=5) != fast


def test_scipy_agrees_on_a_correlation():
    stats = pytest.importorskip('scipy.stats')
    rng = np.random.default_rng(3)
    x = rng.normal(size=120)
    y = x + rng.normal(size=120)
    ours = spread.of_metric(lambda numbers: metrics.pearson(x[numbers], y[numbers]), 120, 2000)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: np.corrcoef(a, b)[0, 1], paired=True, vectorized=False, n_resamples=2000, method='percentile', rng=np.random.default_rng(0)
    )
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert ours.deviation == pytest.approx(theirs.standard_error, rel=0.08)


def test_two_systems_on_the_same_examples():
    rng = np.random.default_rng(4)
    hard = rng.random(500)
    first, second = (hard < 0.82).astype(float), (hard < 0.8).astype(float)  # never worse, on 2 % of the examples better
    paired = spread.difference_of_means(first, second)
    assert paired.value == pytest.approx(first.mean() - second.mean()) and paired.low > 0 and paired.above == 1
    alone = spread.of_mean(first)
    assert alone.low < second.mean()  # which the intervals of each alone cannot tell apart
    same = spread.difference(lambda numbers: first[numbers].mean(), lambda numbers: second[numbers].mean(), 500)
    assert (same.low, same.high) == pytest.approx((paired.low, paired.high))
    assert spread.difference_of_means(first, first).above == 0.5


def test_undefined_resamples_are_left_out_and_counted():
    x, y = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0])
    found = spread.of_metric(lambda numbers: metrics.pearson(x[numbers], y[numbers]), 3, 400)
    # All zeros (8 of 27 draws) or all ones (1 of 27): a constant.
    assert 0.2 < found.undefined / 400 < 0.46 and found.high <= 1 and not math.isnan(found.low)
    nothing = spread.of_metric(lambda numbers: float('nan'), 3, 10)
    assert nothing.undefined == 10 and math.isnan(nothing.low) and math.isnan(nothing.above)
    assert spread.of_mean([5.0], 10).deviation == 0


def test_seeds():
    assert spread.over_seeds([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert math.isnan(spread.over_seeds([1.0])[1])


def test_what_cannot_be_resampled():
    for call, said in (
        (lambda: spread.of_mean([]), 'there are no examples'),
        (lambda: spread.of_mean([1.0], samples=0), 'samples=0'),
        (lambda: spread.of_mean([1.0], level=1.0), 'level=1.0'),
        (lambda: spread.difference_of_means([1.0], [1.0, 2.0]), 'not of the same examples'),
        (lambda: spread.over_seeds([]), 'no runs'),
    ):
        with pytest.raises(ValueError, match=said):
            call()
