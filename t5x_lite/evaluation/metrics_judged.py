"""Held-out answers, judged one by one: what scores of a whole set do not say. (numpy only)"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

from t5x_lite.evaluation.metrics_classes import Scores


@dataclasses.dataclass(frozen=True)
class Judged:
    """Of a whole held-out set.

    Attributes:
      count: examples (rows, sentences, questions) that may be drawn anew.
      unit: what they are, 'sentences'.
      score: numbers of examples, int64, some perhaps twice -> {name: score}, quickly: for intervals.
      by_class: {class, or type of entity: {'precision', 'recall', 'f1', 'count'}}; {} where there are none.
      taken_for: (targets, predictions, names of classes): two int64 arrays of what a confusion matrix counts; None where there is none.
    """

    count: int
    unit: str
    score: Callable[[np.ndarray], dict[str, float]]
    by_class: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    taken_for: tuple[np.ndarray, np.ndarray, Sequence[str]] | None = None

    def scores(self) -> dict[str, float]:
        """Of the set as it is."""
        return self.score(np.arange(self.count))
