"""Scores of predictions (numpy only). Fractions, not percentages; every result is a Python float or a float64 / int64 array.

Conventions are those of scikit-learn with zero_division=0 and of scipy: a ratio whose denominator is zero is 0, Matthews of a constant is
0, a correlation with a constant is nan. A prediction outside range(num_classes) belongs to no class: its target counts as missed, nothing
as falsely found.
"""

import numpy as np


def accuracy(targets, predictions) -> float:
    """Share of equal entries of two [n] arrays; nan for n = 0."""
    targets, predictions = _pair(targets, predictions)
    return float(np.mean(targets == predictions)) if len(targets) else float('nan')


def confusion_matrix(targets, predictions, num_classes: int = 0) -> np.ndarray:
    """int64 [num_classes, num_classes], rows are targets, columns predictions; pairs with a prediction outside the classes are left out."""
    targets, predictions = _pair(targets, predictions)
    num_classes = num_classes or _num_classes(targets, predictions)
    kept = _inside(targets, num_classes) & _inside(predictions, num_classes)
    cells = targets[kept].astype(np.int64) * num_classes + predictions[kept].astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_recall_f1(targets, predictions, average: str = 'none', num_classes: int = 0, positive: int = 1):
    """(precision, recall, F1) of two [n] arrays of class ids.

    Args:
      average: 'none': a float64 [num_classes] array each; 'binary': of the class `positive` alone; 'micro': of the counts of all classes
        together; 'macro': unweighted mean over classes; 'weighted': the mean weighted by how often each class is a target (0 where none is).
      num_classes: 0: up to the largest id seen. Classes never seen count in 'macro' as zeros when num_classes says that they exist.
    """
    targets, predictions = _pair(targets, predictions)
    num_classes = num_classes or max(_num_classes(targets, predictions), positive + 1 if average == 'binary' else 0)
    hits = np.bincount(targets[(targets == predictions) & _inside(targets, num_classes)].astype(np.int64), minlength=num_classes)
    found = np.bincount(predictions[_inside(predictions, num_classes)].astype(np.int64), minlength=num_classes)
    actual = np.bincount(targets[_inside(targets, num_classes)].astype(np.int64), minlength=num_classes)
    if average == 'binary':
        hits, found, actual = hits[positive], found[positive], actual[positive]
    elif average == 'micro':
        hits, found, actual = hits.sum(), found.sum(), actual.sum()
    elif average not in ('none', 'macro', 'weighted'):
        raise ValueError(f'average is {average!r}; expected none, binary, micro, macro or weighted')
    # F1 from counts: the harmonic mean of precision and recall, without their roundings.
    scores = ratio(hits, found), ratio(hits, actual), ratio(2 * hits, found + actual)
    if average == 'none':
        return scores
    if average == 'weighted':
        return tuple(float(ratio(score @ actual, actual.sum())) for score in scores)
    return tuple(float(np.mean(score)) for score in scores)


def matthews(targets, predictions) -> float:
    """Matthews correlation for any number of classes.

    covariance(t, p) / sqrt(covariance(t, t) covariance(p, p)) of the one-hot matrices; 0 when targets or predictions are constant
    (Gorodkin, 2004, 'Comparing two K-category assignments by a K-category correlation coefficient').
    """
    targets, predictions = _pair(targets, predictions)
    classes = np.unique(np.concatenate([targets, predictions]))
    counts = confusion_matrix(np.searchsorted(classes, targets), np.searchsorted(classes, predictions), len(classes)).astype(np.float64)
    actual, found, n = counts.sum(1), counts.sum(0), counts.sum()
    shared = np.trace(counts) * n - actual @ found
    spread = (n**2 - actual @ actual) * (n**2 - found @ found)
    return float(shared / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(targets, predictions) -> float:
    """Linear correlation of two [n] arrays in float64; nan when one is constant or n < 2."""
    targets, predictions = _pair(targets, predictions)
    if len(targets) < 2 or np.ptp(targets) == 0 or np.ptp(predictions) == 0:
        return float('nan')
    x, y = (part - part.mean() for part in (targets.astype(np.float64), predictions.astype(np.float64)))
    # Scaled to unit size first: squares of large or small values overflow or vanish where the correlation does not.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def spearman(targets, predictions) -> float:
    """Pearson correlation of ranks, ties sharing their mean rank; nan where `pearson` is."""
    targets, predictions = _pair(targets, predictions)
    if np.isnan(targets.astype(np.float64)).any() or np.isnan(predictions.astype(np.float64)).any():
        return float('nan')
    return pearson(_ranks(targets), _ranks(predictions))


def mean_squared_error(targets, predictions) -> float:
    targets, predictions = _pair(targets, predictions)
    return float(np.mean((targets.astype(np.float64) - predictions.astype(np.float64)) ** 2)) if len(targets) else float('nan')


def classification(targets, predictions, num_classes: int) -> dict[str, float]:
    """What an evaluation of class ids reports: accuracy, matthews, and F1 (of class 1 where there are two, else the macro average)."""
    average = 'binary' if num_classes == 2 else 'macro'
    name = 'f1' if num_classes == 2 else 'macro_f1'
    return {
        'accuracy': accuracy(targets, predictions),
        name: precision_recall_f1(targets, predictions, average, num_classes)[2],
        'matthews': matthews(targets, predictions),
    }


def regression(targets, predictions) -> dict[str, float]:
    """What an evaluation of numbers reports."""
    return {
        'pearson': pearson(targets, predictions),
        'spearman': spearman(targets, predictions),
        'mean_squared_error': mean_squared_error(targets, predictions),
    }


def _pair(targets, predictions) -> tuple[np.ndarray, np.ndarray]:
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.shape != predictions.shape or targets.ndim != 1:
        raise ValueError(f'targets {targets.shape} and predictions {predictions.shape} must be two [n] arrays of one length')
    return targets, predictions


def _num_classes(targets: np.ndarray, predictions: np.ndarray) -> int:
    return int(max(targets.max(initial=0), predictions.max(initial=0))) + 1


def _inside(ids: np.ndarray, num_classes: int) -> np.ndarray:
    return (ids >= 0) & (ids < num_classes)


def ratio(part, whole) -> np.ndarray:
    """part / whole in float64; 0 where whole is."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
