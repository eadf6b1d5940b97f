"""What can be had without a transformer: the most frequent class, and a linear model over a bag of words. To be read before fine-tuning.

A text is its words and pairs of neighbouring words, weighted by tf-idf (Salton & Buckley, 1988; logarithmic counts, length 1); classes are told apart by
logistic regression, numbers predicted by ridge regression, both scikit-learn's. Of a pair of texts both count, and what they share and do not: without
that a linear model cannot see whether they agree. Nothing is drawn at random: the same tables give the same numbers.
"""

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics, metrics_classes

MAJORITY, BAG_OF_WORDS = 'majority', 'bag of words'
_FEATURES = 200_000  # words and pairs of words, the most frequent ones: bounds time and memory on large tables
# Words in lower case, single marks, and single characters of Chinese and Japanese, which set no spaces.
_TOKEN = r'[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]'

Texts = Sequence[str | Sequence[str]]  # single texts, or pairs
Scores = dict[str, float]


class BagOfWords:
    """A linear model of texts, learnt at once.

    Attributes:
      note: why it predicts the same for every text ('there is one class only'); '' where it does not.
    """

    def __init__(self, texts: Texts, labels, num_classes: int):
        """
        Args:
          labels: class ids, int [n]; numbers, float [n], for num_classes = 0; several labels, [n, num_classes] of 0 and 1.

        Raises:
          UserError: no examples, some texts single and some pairs, or texts and labels that are not as many.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer  # Seconds to import, and needed here only.

        self._labels, self.num_classes, self.note = np.asarray(labels), num_classes, ''
        columns = _columns(texts)
        if not len(texts) or len(self._labels) != len(texts):
            raise UserError(f'{len(texts):,} texts and {len(self._labels):,} labels; a bag of words needs as many of each, and some')
        self._vectors = TfidfVectorizer(token_pattern=_TOKEN, ngram_range=(1, 2), sublinear_tf=True, max_features=_FEATURES)
        self._models, self._group = None, len(columns)
        try:
            self._vectors.fit([text for column in columns for text in column])
        except ValueError:  # all that it raises of texts: an empty vocabulary
            self.note = 'the texts hold no words'
            return
        several = self._labels.ndim == 2
        targets = self._labels.T if several else [self._labels]
        if not several and len(np.unique(self._labels)) < 2:
            self.note = 'there is one class only' if num_classes else 'all numbers are the same'
            return
        features = self._features(texts)
        self._models = [_fitted(features, target, num_classes == 0) for target in targets]

    def predict(self, texts: Texts) -> np.ndarray:
        """Class ids, int64 [n]; numbers, float64 [n]; or 0 and 1, int64 [n, num_classes]: as the labels were."""
        if self._models is None or not len(texts):
            return majority(self._labels, self.num_classes, len(texts))
        features = self._features(texts)
        found = [model if isinstance(model, int) else model.predict(features) for model in self._models]
        if self._labels.ndim == 2:
            return np.stack([np.broadcast_to(part, len(texts)) for part in found], axis=1).astype(np.int64)
        return found[0].astype(np.int64 if self.num_classes else np.float64)

    def scores(self, texts: Texts) -> np.ndarray:
        """float64 [n]: of two classes, the log-odds of class 1; 0 where there was nothing to learn."""
        if self._models is None or not len(texts):
            return np.zeros(len(texts))
        return self._models[0].decision_function(self._features(texts))

    def _features(self, texts: Texts) -> Any:
        from scipy import sparse

        columns = [self._vectors.transform(column) for column in _columns(texts)]
        if len(columns) != self._group:
            raise UserError(f'texts come in groups of {len(columns)}, and the bag of words has learnt from groups of {self._group}')
        if len(columns) == 1:
            return columns[0]
        first, second = columns
        shared = first.multiply(second)
        return sparse.hstack([first, second, shared, abs(first - second), shared.sum(axis=1)]).tocsr()


def majority(labels, num_classes: int, count: int) -> np.ndarray:
    """The same for `count` texts: the most frequent class (the first of equals), the mean of numbers, or the labels that most examples have."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return np.tile((2 * labels.sum(axis=0) > len(labels)).astype(np.int64), (count, 1))
    if not num_classes:
        return np.full(count, labels.mean(dtype=np.float64))
    return np.full(count, np.argmax(np.bincount(labels.astype(np.int64), minlength=num_classes)))


def measure(texts: Texts, labels, held_out: Texts, held_out_labels, num_classes: int) -> dict[str, Scores]:
    """{'majority': scores, 'bag of words': scores} of held-out texts, learnt from the others; labels as `BagOfWords` has them.

    The scores are those of `metrics.classification`, `metrics.regression` or `metrics_classes.multi_label`.

    Raises:
      UserError: as `BagOfWords`.
    """
    targets = np.asarray(held_out_labels)
    model = BagOfWords(texts, labels, num_classes)
    predictions = {MAJORITY: majority(labels, num_classes, len(targets)), BAG_OF_WORDS: model.predict(held_out)}
    return {name: _score(targets, found, num_classes) for name, found in predictions.items()}


def say(found: dict[str, Scores], best: str = '') -> str:
    """A line for each baseline.

    Args:
      best: the score to be named first; '': as they come.
    """
    lines = []
    for name, scores in found.items():
        names = sorted(scores, key=lambda score: score != best)
        # A correlation with what is the same for all is undefined.
        shown = (f'{score} undefined' if math.isnan(scores[score]) else f'{score} {scores[score]:.4f}' for score in names)
        lines.append(f'baseline, {name}: ' + ', '.join(shown))
    return '\n'.join(lines)


def _score(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> Scores:
    if targets.ndim == 2:
        return metrics_classes.multi_label(targets, predictions)
    return metrics.classification(targets, predictions, num_classes) if num_classes else metrics.regression(targets, predictions)


def _columns(texts: Texts) -> list[list[str]]:
    """The texts, or the first texts and the second ones."""
    rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    sizes = {len(row) for row in rows}
    if len(sizes) > 1 or sizes - {1, 2}:
        raise UserError(f'texts come in groups of {", ".join(map(str, sorted(sizes)))}; expected single texts, or pairs throughout')
    return [list(column) for column in zip(*rows, strict=True)] or [[]]


def _fitted(features: Any, target: np.ndarray, regression: bool) -> Any:
    """A model, or the only class of the target."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if regression:
        return Ridge(alpha=1.0, solver='lsqr').fit(features, target.astype(np.float64))
    classes = np.unique(target)
    if len(classes) == 1:
        return int(classes[0])
    # Vectors of length 1 want less than the library's regularisation: 1 to 3 points on SST-2 and TREC.
    return LogisticRegression(C=10.0, max_iter=1000).fit(features, target)
