"""Classes, numbers, sets of labels and choices from labelled examples: the losses, and the scores of a whole held-out set."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import class_weights
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics, metrics_classes
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.training.losses import Batch, Metrics, class_cross_entropy, cross_entropy, example_weights, target_weights, weighted_accuracy


class LabelledLoss:
    """Cross-entropy for integer labels [B]; squared error for float ones [B], whose logits are one number; for sets of labels, float [B, C] of 0 and 1, the
    binary cross-entropy of each label, summed over an example's labels and divided by their number.

    Where T texts share a row (config.data.pack), labels and example_weights are [B, T], and those of all rows are read end to end, as the logits come.

    With config.data.class_weights and config.label_smoothing, torch's cross_entropy(weight, label_smoothing): the mean divides by the weights of the targets
    of the global batch. Of sets of labels the weights are torch's pos_weight, and the mean stays one over examples.

    Raises:
      UserError: one of those fields, and labels that it is not of.
    """

    def __init__(self, config: Config):
        self._class_weights, self._smoothing, self._names = class_weights.numbers(config), config.label_smoothing, config.data.labels
        self._cut = math.log(config.data.label_threshold / (1 - config.data.label_threshold))  # of logits
        for name, given in (('data.class_weights', self._class_weights), ('label_smoothing', self._smoothing)):
            if given and (config.data.regression or (config.data.label_separator and name == 'label_smoothing')):
                kind = 'numbers (config.data.regression)' if config.data.regression else 'sets of labels (config.data.label_separator)'
                raise UserError(f'config.{name} is of classes, and this run learns {kind}; leave it out')

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        labels, weights = _labels(batch)
        if self._class_weights and labels.ndim == 1 and not jnp.issubdtype(labels.dtype, jnp.floating):
            weights = weights * target_weights(labels, self._class_weights)
        return {'loss': jnp.sum(weights)}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        logits, (labels, weights) = outputs['logits'], _labels(batch)
        count = jnp.sum(weights)
        if labels.ndim == 2:
            # log(1 + exp(x)) - x y, without overflow; log(1 + exp(-x)) is what a label that is there costs.
            each = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
            plain = total = jnp.sum(jnp.mean(each, axis=1) * weights)
            if self._class_weights:
                positive = jnp.asarray(self._class_weights, jnp.float32)[None]
                total = jnp.sum(jnp.mean(each * jnp.where(labels > 0, positive, jnp.float32(1)), axis=1) * weights)
            right = jnp.all((logits > self._cut) == (labels > 0), axis=1).astype(jnp.float32)
            return {'loss': total}, {'binary_cross_entropy': (plain, count), 'subset_accuracy': (jnp.sum(right * weights), count)}
        if jnp.issubdtype(labels.dtype, jnp.floating):
            total = jnp.sum(jnp.square(logits[:, 0] - labels) * weights)
            return {'loss': total}, {'mean_squared_error': (total, count)}
        plain = jnp.sum(cross_entropy(logits, labels) * weights)
        total = plain
        if self._class_weights or self._smoothing:
            total = jnp.sum(class_cross_entropy(logits, labels, self._class_weights, self._smoothing) * weights)
        return {'loss': total}, {'cross_entropy': (plain, count), 'accuracy': weighted_accuracy(logits, labels, weights)}

    def collect(self, outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """What `summarize` needs of each example."""
        labels, weights = _labels(batch)
        return {'logits': outputs['logits'], 'labels': labels, 'weights': weights}

    def summarize(self, collected: dict[str, np.ndarray]) -> dict[str, float]:
        """Scores of the whole set: see `evaluation.metrics.classification` and `.regression`, and `metrics_classes.multi_label`."""
        return self.judged(collected).scores()

    def judged(self, collected: dict[str, np.ndarray]) -> Judged:
        """The same, answer by answer."""
        real = collected['weights'] > 0
        labels, logits = collected['labels'][real], collected['logits'][real]
        if np.issubdtype(labels.dtype, np.floating) and labels.ndim == 1:
            return Judged(len(labels), 'rows', lambda rows: metrics.regression(labels[rows], logits[rows, 0]))
        classes = logits.shape[-1]
        names = self._names if len(self._names) == classes else tuple(map(str, range(classes)))
        if labels.ndim == 2:
            found = (logits > self._cut).astype(np.int64)
            by_class = metrics_classes.multi_label_by_class(labels, found, names)
            return Judged(len(labels), 'rows', lambda rows: metrics_classes.multi_label(labels[rows], found[rows]), by_class)
        found = logits.argmax(axis=-1)
        by_class = metrics_classes.by_class(labels, found, names)
        return Judged(len(labels), 'rows', lambda rows: metrics.classification(labels[rows], found[rows], classes), by_class, (labels, found, names))


def _labels(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(labels, their weights), one a text."""
    labels, weights = batch['labels'], example_weights(batch)
    return (labels.reshape(-1, *labels.shape[2:]), weights.reshape(-1)) if 'spans' in batch else (labels, weights)


class ChoiceLoss:
    """Cross-entropy over the choices of a question, of which `ChoiceHead` gives absent ones no probability; config.label_smoothing spreads over those there."""

    def __init__(self, config: Config):
        self._smoothing = config.label_smoothing
        if config.data.class_weights:
            raise UserError('config.data.class_weights is of classes, and choices have no names that questions share; leave it out')

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        logits, labels, weights = outputs['logits'], batch['labels'], example_weights(batch)
        plain = each = cross_entropy(logits, labels)
        if self._smoothing:
            there = jnp.any(batch['sequence_ids'] > 0, axis=2)
            every = jnp.sum(jnp.where(there, jax.nn.logsumexp(logits, axis=1, keepdims=True) - logits, jnp.float32(0)), axis=1)
            share = self._smoothing / jnp.maximum(jnp.sum(there.astype(jnp.float32), axis=1), 1)
            each = (1 - self._smoothing) * plain + share * every
        accuracy = weighted_accuracy(logits, labels, weights)
        return {'loss': jnp.sum(each * weights)}, {'cross_entropy': (jnp.sum(plain * weights), jnp.sum(weights)), 'accuracy': accuracy}

    def collect(self, outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """What `summarize` needs of each question."""
        return {'right': jnp.argmax(outputs['logits'], axis=-1) == batch['labels'], 'weights': example_weights(batch)}

    def summarize(self, collected: dict[str, np.ndarray]) -> dict[str, float]:
        """Accuracy of the whole set."""
        return self.judged(collected).scores()

    def judged(self, collected: dict[str, np.ndarray]) -> Judged:
        """The same, question by question."""
        right = collected['right'][collected['weights'] > 0].astype(np.float64)
        return Judged(len(right), 'questions', lambda rows: {'accuracy': float(right[rows].mean()) if len(rows) else float('nan')})
