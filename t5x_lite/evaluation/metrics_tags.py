"""Scores of tagged words (numpy only): entities found and right, by type and averaged, and the share of right tags.

Entities are spans, (type, start, stop), a list for each sentence; one is right where type, start and stop all are. How they are read off tags decides what
illegal tags count, and with it the score (`t5x_lite.data.tags.spans`):

    conlleval, seqeval's default mode    CONLL: every tag is part of some entity; lenient about 'I-X' without a 'B-X' before it
    seqeval's strict mode                with a scheme: only what is written as the scheme says is an entity

Papers on CoNLL-2003 report the micro average of the first. A ratio whose denominator is zero is 0, as in both (seqeval says nan for 'macro' without a type).
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

Span = tuple[str, Hashable, Hashable]  # a type, and what tells entities of it apart: first word and the one after the last
AVERAGES = ('micro', 'macro', 'weighted')


class Found(NamedTuple):
    """Numbers of entities: right, predicted, and there."""

    right: int
    predicted: int
    actual: int


class Scores(NamedTuple):
    """Fractions, and how many entities there are in the targets."""

    precision: float
    recall: float
    f1: float
    support: int


def count(targets: Sequence[Sequence[Span]], predictions: Sequence[Sequence[Span]]) -> dict[str, Found]:
    """By type, in alphabetical order: all types that are in either; lists of entities of one sentence are at one place."""
    if len(targets) != len(predictions):
        raise ValueError(f'{len(targets)} sentences in targets and {len(predictions)} in predictions')
    right: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    actual: Counter[str] = Counter()
    for wanted, given in zip(targets, predictions, strict=True):
        wanted, given = set(wanted), set(given)
        for counter, entities in ((right, wanted & given), (predicted, given), (actual, wanted)):
            counter.update(kind for kind, _, _ in entities)
    return {kind: Found(right[kind], predicted[kind], actual[kind]) for kind in sorted({*predicted, *actual})}


def by_type(found: dict[str, Found]) -> dict[str, Scores]:
    return {kind: _scores(some) for kind, some in found.items()}


def average(found: dict[str, Found], how: str) -> Scores:
    """One score of all types.

    Args:
      how: 'micro': of the entities of all types together; 'macro': the mean over types, also those that are only predicted; 'weighted': the mean over
        types by their number in the targets.
    """
    if how not in AVERAGES:
        raise ValueError(f'average is {how!r}; expected {", ".join(AVERAGES)}')
    support = sum(some.actual for some in found.values())
    if how == 'micro':
        return _scores(Found(*(sum(parts) for parts in zip(*found.values(), strict=True)))) if found else Scores(0.0, 0.0, 0.0, 0)
    weights = np.array([some.actual if how == 'weighted' else 1 for some in found.values()], np.float64)
    if not weights.sum():
        return Scores(0.0, 0.0, 0.0, support)
    means = np.average(np.array([scores[:3] for scores in by_type(found).values()]), axis=0, weights=weights)
    return Scores(*means.tolist(), support)


def entities(targets: Sequence[Sequence[Span]], predictions: Sequence[Sequence[Span]]) -> dict[str, float]:
    """What an evaluation of entities reports: the micro average, F1 of the other two, and of each type as 'f1_PER'."""
    return reported(count(targets, predictions))


def reported(found: dict[str, Found]) -> dict[str, float]:
    """Those of counted entities."""
    micro = average(found, 'micro')
    scores = {'precision': micro.precision, 'recall': micro.recall, 'f1': micro.f1}
    scores |= {f'{how}_f1': average(found, how).f1 for how in AVERAGES[1:]}
    return scores | {f'f1_{kind}': of_type.f1 for kind, of_type in by_type(found).items()}


def accuracy(targets: Sequence[Sequence], predictions: Sequence[Sequence]) -> float:
    """Share of words whose tag, or its id, is right, 'O' among them, as conlleval's; nan without words."""
    if [len(sentence) for sentence in targets] != [len(sentence) for sentence in predictions]:
        raise ValueError('targets and predictions must have as many sentences, and tags in each')
    right = sum(int(a == b) for wanted, given in zip(targets, predictions, strict=True) for a, b in zip(wanted, given, strict=True))
    words = sum(map(len, targets))
    return right / words if words else float('nan')


def _scores(found: Found) -> Scores:
    right, predicted, actual = found
    # F1 from counts: the harmonic mean of precision and recall, without their roundings.
    ratios = ((right, predicted), (right, actual), (2 * right, predicted + actual))
    return Scores(*(part / whole if whole else 0.0 for part, whole in ratios), actual)
