"""Scores by class and of several labels, against scikit-learn and by hand."""

import math
import warnings

import numpy as np
import pytest

from t5x_lite.evaluation import metrics, metrics_classes

# Rows are examples, columns classes.
EDGES = [
    ([[0, 0]], [[0, 0]]),
    ([[1, 0], [0, 0]], [[0, 0], [0, 1]]),
    ([[1, 1], [1, 1]], [[1, 1], [1, 1]]),
    ([[0, 1, 0]], [[1, 0, 1]]),
    ([[1], [0], [1]], [[1], [1], [0]]),
]


def _made(seed):
    rng = np.random.default_rng(seed)
    n, classes = 3 + 31 * seed, 1 + seed
    targets = rng.random((n, classes)) < 0.3
    return targets.astype(int), np.where(rng.random((n, classes)) < 0.3, ~targets, targets).astype(int)


@pytest.mark.parametrize('case', [*range(7), *(f'edge{index}' for index in range(len(EDGES)))])
def test_several_labels_equal_sklearn(case):
    sklearn = pytest.importorskip('sklearn.metrics')
    targets, predictions = map(np.array, EDGES[int(case[4:])]) if isinstance(case, str) else _made(case)
    names = [f'c{index}' for index in range(targets.shape[1])]
    found = metrics_classes.multi_label(targets, predictions)
    assert found['subset_accuracy'] == pytest.approx((targets == predictions).all(1).mean(), abs=1e-12)
    assert found['hamming_loss'] == pytest.approx((targets != predictions).mean(), abs=1e-12)
    if targets.shape[1] > 1:  # sklearn takes one column for one label an example
        assert found['subset_accuracy'] == pytest.approx(sklearn.accuracy_score(targets, predictions), abs=1e-12)
        assert found['hamming_loss'] == pytest.approx(sklearn.hamming_loss(targets, predictions), abs=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for average in metrics_classes.AVERAGES:
                theirs = sklearn.precision_recall_fscore_support(targets, predictions, average=average, zero_division=0)
                np.testing.assert_allclose([found[f'{average}_{name}'] for name in ('precision', 'recall', 'f1')], theirs[:3], rtol=0, atol=1e-12)
            theirs = np.array(sklearn.precision_recall_fscore_support(targets, predictions, average=None, zero_division=0)).T
        table = metrics_classes.multi_label_by_class(targets, predictions, names)
        assert list(table) == names
        np.testing.assert_allclose([list(row.values()) for row in table.values()], theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize('seed', range(4))
def test_classes_equal_sklearn(seed):
    sklearn = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(seed)
    targets, predictions = rng.integers(0, 4, 50), rng.integers(0, 5 - seed % 2, 50)
    labels = list(range(5))  # the last is never true, and in some cases never predicted
    found = metrics_classes.means(metrics_classes.by_class(targets, predictions, list('abcde')))
    for average in ('macro', 'weighted'):
        theirs = sklearn.precision_recall_fscore_support(targets, predictions, labels=labels, average=average, zero_division=0)
        np.testing.assert_allclose([found[average][name] for name in ('precision', 'recall', 'f1')], theirs[:3], rtol=0, atol=1e-12)
    theirs = sklearn.precision_recall_fscore_support(targets, predictions, labels=labels, average='micro', zero_division=0)
    assert theirs[:3] == pytest.approx((metrics.accuracy(targets, predictions),) * 3, abs=1e-12)
    theirs = sklearn.classification_report(targets, predictions, labels=labels, target_names=list('abcde'), output_dict=True, zero_division=0)
    for name, row in metrics_classes.by_class(targets, predictions, list('abcde')).items():
        assert [*row.values()] == pytest.approx([theirs[name][key] for key in ('precision', 'recall', 'f1-score', 'support')], abs=1e-12)


def test_worked_example():
    targets, predictions = [[1, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0]]
    found = metrics_classes.multi_label(targets, predictions)
    assert (found['subset_accuracy'], found['hamming_loss']) == pytest.approx((0.5, 2 / 6))
    assert (found['micro_f1'], found['macro_f1'], found['weighted_f1'], found['samples_f1']) == pytest.approx((0.5, 1 / 3, 0.5, 0.25))
    table = metrics_classes.by_class([0, 0, 1, 2], [0, 1, 1, -1], ['a', 'b', 'c'])
    assert table['a'] == {'precision': 1.0, 'recall': 0.5, 'f1': pytest.approx(2 / 3), 'count': 2}
    assert table['c'] == {'precision': 0.0, 'recall': 0.0, 'f1': 0.0, 'count': 1}  # -1 is no class: a target missed, nothing falsely found


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match='two .n, classes. arrays'):
        metrics_classes.multi_label([[1]], [[1, 0]])
    with pytest.raises(ValueError, match='must be 0 or 1'):
        metrics_classes.multi_label([[0.5]], [[1]])
    with pytest.raises(ValueError, match='2 names for 1 classes'):
        metrics_classes.multi_label_by_class([[1]], [[1]], ['a', 'b'])
    assert all(map(math.isnan, metrics_classes.multi_label(np.zeros((0, 3)), np.zeros((0, 3))).values()))
