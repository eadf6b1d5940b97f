"""Scores class by class, and of examples with any number of labels. (numpy only)

Fractions, as in `metrics`. Conventions are scikit-learn's with zero_division=0: precision of a class never predicted, recall of one never true, and F1 of
one that is neither are 0, and so is the F1 of an example without labels that gets none; such classes and examples count in means.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from t5x_lite.evaluation import metrics

Scores = dict[str, float]
AVERAGES = ('micro', 'macro', 'weighted', 'samples')
_NAMES = ('precision', 'recall', 'f1')


def by_class(targets, predictions, names: Sequence[str]) -> dict[str, Scores]:
    """{name of a class: {'precision', 'recall', 'f1', 'count'}} of two [n] arrays of class ids; count: how often it is the target."""
    scores = metrics.precision_recall_f1(targets, predictions, 'none', len(names))
    targets = np.asarray(targets)
    counts = np.bincount(targets[(targets >= 0) & (targets < len(names))].astype(np.int64), minlength=len(names))
    return _table(names, *scores, counts)


def means(classes: Mapping[str, Scores]) -> dict[str, Scores]:
    """{'macro', 'weighted': {'precision', 'recall', 'f1'}} of what `by_class` gives: means over classes, all alike or by how often each is the target. (micro, of
    one class an example, is the accuracy.)"""
    scores = np.array([[found[name] for name in _NAMES] for found in classes.values()])
    counts = np.array([found['count'] for found in classes.values()], np.float64)
    averages = {'macro': scores.mean(0), 'weighted': metrics.ratio(counts @ scores, counts.sum())}
    return {average: dict(zip(_NAMES, row.tolist(), strict=True)) for average, row in averages.items()}


def multi_label(targets, predictions) -> Scores:
    """Scores of [n, classes] arrays of 0 and 1, what each example is and what it is said to be.

    Returns:
      subset_accuracy: share of examples with every label right; hamming_loss: share of wrong entries; precision, recall and f1 as micro_, of all entries
      together, macro_ and weighted_, means over classes, samples_, mean over examples. nan where there are no examples.

    Raises:
      ValueError: arrays of other shapes, or of other values.
    """
    targets, predictions = _indicators(targets, predictions)
    if not len(targets):
        return dict.fromkeys(('subset_accuracy', 'hamming_loss', *(f'{average}_{name}' for average in AVERAGES for name in _NAMES)), float('nan'))
    found = {'subset_accuracy': float((targets == predictions).all(axis=1).mean()), 'hamming_loss': float((targets != predictions).mean())}
    for average in AVERAGES:
        found |= {f'{average}_{name}': score for name, score in zip(_NAMES, _of_labels(targets, predictions, average), strict=True)}
    return found


def multi_label_by_class(targets, predictions, names: Sequence[str]) -> dict[str, Scores]:
    """{name of a class: {'precision', 'recall', 'f1', 'count'}} of [n, classes] arrays of 0 and 1."""
    targets, predictions = _indicators(targets, predictions)
    if targets.shape[1] != len(names):
        raise ValueError(f'{len(names)} names for {targets.shape[1]} classes')
    return _table(names, *_scores(targets, predictions, 0), targets.sum(0))


def _table(names: Sequence[str], precision, recall, f1, counts) -> dict[str, Scores]:
    columns = zip(names, precision, recall, f1, counts, strict=True)
    return {name: {'precision': float(p), 'recall': float(r), 'f1': float(f), 'count': int(count)} for name, p, r, f, count in columns}


def _indicators(targets, predictions) -> tuple[np.ndarray, np.ndarray]:
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.shape != predictions.shape or targets.ndim != 2:
        raise ValueError(f'targets {targets.shape} and predictions {predictions.shape} must be two [n, classes] arrays')
    if not (np.isin(targets, (0, 1)).all() and np.isin(predictions, (0, 1)).all()):
        raise ValueError('targets and predictions of several labels must be 0 or 1')
    return targets.astype(bool), predictions.astype(bool)


def _scores(targets: np.ndarray, predictions: np.ndarray, axis: int | None) -> list[np.ndarray]:
    """Precision, recall and F1 of the counts along an axis; of all for None."""
    hits, found, actual = (part.sum(axis) for part in (targets & predictions, predictions, targets))
    return [metrics.ratio(hits, found), metrics.ratio(hits, actual), metrics.ratio(2 * hits, found + actual)]


def _of_labels(targets: np.ndarray, predictions: np.ndarray, average: str) -> list[float]:
    scores = _scores(targets, predictions, {'micro': None, 'macro': 0, 'weighted': 0, 'samples': 1}[average])
    if average == 'weighted':
        return [float(metrics.ratio(score @ targets.sum(0), targets.sum())) for score in scores]
    return [float(np.mean(score)) for score in scores]
