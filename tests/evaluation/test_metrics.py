"""Scores against scikit-learn and scipy, and at their edges."""

import math
import warnings

import numpy as np
import pytest

from t5x_lite.evaluation import metrics


def _labels(seed, n, classes, noise=0.5):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    return targets, np.where(rng.random(n) < noise, rng.integers(0, classes, n), targets)


EDGES = [
    ([0, 1, 0, 1], [1, 1, 1, 1]),  # constant predictions
    ([0, 1, 0, 1], [0, 0, 0, 0]),  # class 1 never predicted
    ([0, 0, 0, 0], [0, 1, 0, 1]),  # class 1 never true
    ([0, 0, 0], [0, 0, 0]),  # one class in both
    ([1, 1], [0, 0]),  # all wrong
    ([2, 0], [2, 2]),  # class 1 in neither
    ([1], [1]),
]


@pytest.mark.parametrize('case', [*range(8), *(f'edge{i}' for i in range(len(EDGES)))])
def test_classification_equals_sklearn(case):
    sklearn = pytest.importorskip('sklearn.metrics')
    targets, predictions = EDGES[int(case[4:])] if isinstance(case, str) else _labels(case, 7 + 40 * case, 2 + case % 5)
    classes = int(max(np.max(targets), np.max(predictions), 1)) + 1
    names = range(classes)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # sklearn warns of one class only
        assert metrics.accuracy(targets, predictions) == pytest.approx(sklearn.accuracy_score(targets, predictions), abs=1e-12)
        assert metrics.matthews(targets, predictions) == pytest.approx(sklearn.matthews_corrcoef(targets, predictions), abs=1e-12)
        np.testing.assert_array_equal(
            metrics.confusion_matrix(targets, predictions, classes), sklearn.confusion_matrix(targets, predictions, labels=list(names))
        )
        for average in ('none', 'micro', 'macro', 'weighted'):
            ours = metrics.precision_recall_f1(targets, predictions, average, classes)
            theirs = sklearn.precision_recall_fscore_support(
                targets, predictions, labels=list(names), average=None if average == 'none' else average, zero_division=0
            )
            for one, other in zip(ours, theirs[:3], strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
        if classes == 2:
            ours = metrics.precision_recall_f1(targets, predictions, 'binary')
            theirs = sklearn.precision_recall_fscore_support(targets, predictions, average='binary', zero_division=0)
            np.testing.assert_allclose(ours, theirs[:3], rtol=0, atol=1e-12)


@pytest.mark.parametrize('kind', ['normal', 'ties', 'huge', 'tiny', 'offset', 'float32'])
def test_correlations_equal_scipy(kind):
    stats = pytest.importorskip('scipy.stats')
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal(57), rng.standard_normal(57)
    y = y + x
    if kind == 'ties':
        x, y = np.round(x), np.round(y)
    elif kind == 'huge':
        x, y = x * 1e200, y * 1e180
    elif kind == 'tiny':
        x, y = x * 1e-200, y * 1e-180
    elif kind == 'offset':
        x = x + 1e3
    elif kind == 'float32':
        x, y = x.astype(np.float32), y.astype(np.float32)
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x.astype(np.float64), y.astype(np.float64)).statistic, abs=1e-12)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_mean_squared_error_equals_sklearn():
    sklearn = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal(33), rng.standard_normal(33)
    assert metrics.mean_squared_error(x, y) == pytest.approx(sklearn.mean_squared_error(x, y), abs=1e-12)


def test_undefined_correlations_are_nan():
    assert math.isnan(metrics.pearson([1, 2, 3], [2, 2, 2]))
    assert math.isnan(metrics.spearman([5, 5, 5], [1, 2, 3]))
    assert math.isnan(metrics.pearson([1], [1]))
    assert math.isnan(metrics.spearman([1.0, float('nan'), 3.0], [1.0, 2.0, 3.0]))


def test_prediction_outside_the_classes_is_missed_and_nothing_else():
    precision, recall, _ = metrics.precision_recall_f1([0, 0, 1], [0, 7, 1], num_classes=2)
    np.testing.assert_array_equal(precision, [1.0, 1.0])
    np.testing.assert_array_equal(recall, [0.5, 1.0])
    np.testing.assert_array_equal(metrics.confusion_matrix([0, 0, 1], [0, -1, 1], 2), [[1, 0], [0, 1]])


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match='one length'):
        metrics.accuracy([1, 2], [1])


def test_summaries():
    assert metrics.classification([0, 1, 1], [0, 1, 0], 2) == pytest.approx({'accuracy': 2 / 3, 'f1': 2 / 3, 'matthews': 0.5})
    assert set(metrics.classification([0, 1, 2], [0, 1, 0], 3)) == {'accuracy', 'macro_f1', 'matthews'}
    assert metrics.regression([1, 2, 3], [2, 3, 4]) == pytest.approx({'pearson': 1, 'spearman': 1, 'mean_squared_error': 1})
