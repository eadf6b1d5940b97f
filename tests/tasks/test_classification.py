"""Losses and scores of classes, numbers and sets of labels, by hand."""

import numpy as np

from t5x_lite.config import Config
from t5x_lite.tasks.classification import LabelledLoss


def test_sets_of_labels_by_hand():
    loss = LabelledLoss(Config())
    logits = np.array([[2.0, -1.0], [0.0, 3.0], [500.0, -500.0]], np.float32)
    labels = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    batch = {'labels': labels, 'example_weights': np.array([1, 1, 0], np.float32)}
    terms, metrics = loss({'logits': logits}, batch)

    def each(x, y):
        return -np.log(1 / (1 + np.exp(-x))) if y else -np.log(1 - 1 / (1 + np.exp(-x)))

    wanted = (each(2, 1) + each(-1, 0)) / 2 + (each(0, 1) + each(3, 0)) / 2
    np.testing.assert_allclose(terms['loss'], wanted, rtol=1e-6)
    assert loss.weights(batch)['loss'] == 2
    assert metrics['subset_accuracy'][0] == 1 and metrics['subset_accuracy'][1] == 2
    extreme, _ = loss({'logits': logits}, batch | {'example_weights': np.ones(3, np.float32)})
    np.testing.assert_allclose(extreme['loss'], wanted, rtol=1e-6)  # as right as can be costs nothing, and no overflow
    scores = loss.summarize({'logits': logits, 'labels': labels, 'weights': np.array([1, 1, 0])})
    # Found: {0}, {1} of {0}, {0}: one hit of two found and of two there.
    assert (scores['micro_precision'], scores['micro_recall'], scores['subset_accuracy']) == (0.5, 0.5, 0.5)
