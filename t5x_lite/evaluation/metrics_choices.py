"""Scores of choices ranked by how likely a model finds them: percentages. (numpy only)

A choice's score is the sum of the log-probabilities of its tokens (GPT-3, Brown et al., 2020, section 2.4; T5's rank classification); the best of an example is
the prediction, and nothing has to be parsed.
"""

from collections.abc import Sequence

import numpy as np


def rank_classification(
    examples: Sequence[int],
    choices: Sequence[int],
    right: Sequence[bool],
    scores: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    lengths: Sequence[int] | None = None,
    num_classes: int = 0,
) -> dict[str, float]:
    """Scores over n (example, choice) pairs in any order.

    Args:
      examples, choices: numbers of each pair; `right`: whether the choice is a right one of its example, of which there may be several.
      scores: log-probabilities. lengths: tokens of each choice, by which its score is divided; None: as they are.
      weights: of each pair's example; None: 1.
      num_classes: where the choices mean the same in every example; F1 follows (and for two, areas under curves) if each has one right choice.

    Returns:
      accuracy; f1, auc_roc and auc_pr of choice 1 of two; macro_f1 of more.

    Raises:
      ValueError: arrays of different lengths, an example with a choice twice or without a right one.
    """
    examples, choices, right = np.asarray(examples), np.asarray(choices), np.asarray(right, bool)
    scores = np.asarray(scores, np.float64) / (1 if lengths is None else np.asarray(lengths, np.float64))
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    if len({len(part) for part in (examples, choices, right, scores, weights)}) != 1 or not len(scores):
        sizes = f'{len(examples)} pairs, {len(right)} answers, {len(scores)} scores, {len(weights)} weights'
        raise ValueError(f'{sizes}; expected as many of each, and some')
    order = np.lexsort((choices, examples))
    examples, choices, right, scores, weights = (part[order] for part in (examples, choices, right, scores, weights))
    if ((np.diff(examples) == 0) & (np.diff(choices) == 0)).any():
        raise ValueError('an example has the same choice twice')
    starts = np.flatnonzero(np.concatenate([[True], np.diff(examples) != 0]))
    sizes = np.diff(np.concatenate([starts, [len(examples)]]))
    parts = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    for part in parts:
        if not right[part].any():
            raise ValueError(f'example {examples[part.start]} has no right choice')
    best = np.array([part.start + int(np.argmax(scores[part])) for part in parts])
    weight = weights[starts]
    found = {'accuracy': 100 * float(np.average(right[best], weights=weight))}
    if num_classes < 2 or any(right[part].sum() != 1 for part in parts):
        return found
    targets, predictions = np.array([choices[part][right[part]][0] for part in parts]), choices[best]
    f1 = [_f1(targets == label, predictions == label, weight) for label in range(num_classes)]
    if num_classes > 2:
        return found | {'macro_f1': 100 * float(np.mean(f1))}
    found['f1'] = 100 * f1[1]
    if (sizes == 2).all() and 0 < (targets == 1).sum() < len(targets):
        margin = scores[starts + 1] - scores[starts]  # the order of the probabilities of choice 1
        found |= {'auc_roc': 100 * auc_roc(targets, margin, weight), 'auc_pr': 100 * auc_pr(targets, margin, weight)}
    return found


def auc_roc(targets, scores, weights=None) -> float:
    """0..1: the chance that a positive is scored above a negative, ties half."""
    hits, falls = _curve(targets, scores, weights)
    return float(np.trapezoid(hits / hits[-1], falls / falls[-1]))


def auc_pr(targets, scores, weights=None) -> float:
    """0..1: average precision, the mean of precision over the positives in the order of their scores."""
    hits, falls = _curve(targets, scores, weights)
    return float(np.sum(np.diff(hits) / hits[-1] * hits[1:] / (hits[1:] + falls[1:])))


def _curve(targets, scores, weights) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positives and of negatives at or above each distinct score, falling, from 0."""
    targets, scores = np.asarray(targets, bool), np.asarray(scores, np.float64)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-scores, kind='stable')
    last = np.flatnonzero(np.concatenate([np.diff(scores[order]) != 0, [True]]))
    hits, falls = np.cumsum((weights * targets)[order])[last], np.cumsum((weights * ~targets)[order])[last]
    return np.concatenate([[0.0], hits]), np.concatenate([[0.0], falls])


def _f1(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> float:
    hits, both = (weights * (targets & predictions)).sum(), (weights * targets).sum() + (weights * predictions).sum()
    return float(2 * hits / both) if both else 0.0
