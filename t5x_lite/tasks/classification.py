"""Classes, numbers, sets of labels and choices from labelled examples: the losses, and the scores of a whole held-out set."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config
from t5x_lite.evaluation import metrics, metrics_classes
from t5x_lite.training.losses import Batch, Metrics, cross_entropy, example_weights, weighted_accuracy


class LabelledLoss:
    """Cross-entropy for integer labels [B]; squared error for float ones [B], whose logits are one number; for sets of labels, float [B, C] of 0 and 1, the
    binary cross-entropy of each label, summed over an example's labels and divided by their number."""

    def __init__(self, config: Config):
        del config  # nothing in it changes this loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        logits, labels, weights = outputs['logits'], batch['labels'], example_weights(batch)
        if labels.ndim == 2:
            # log(1 + exp(x)) - x y, without overflow.
            each = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
            total, count = jnp.sum(jnp.mean(each, axis=1) * weights), jnp.sum(weights)
            right = jnp.all((logits > 0) == (labels > 0), axis=1).astype(jnp.float32)
            return {'loss': total}, {'binary_cross_entropy': (total, count), 'subset_accuracy': (jnp.sum(right * weights), count)}
        if jnp.issubdtype(labels.dtype, jnp.floating):
            total = jnp.sum(jnp.square(logits[:, 0] - labels) * weights)
            return {'loss': total}, {'mean_squared_error': (total, jnp.sum(weights))}
        total = jnp.sum(cross_entropy(logits, labels) * weights)
        return {'loss': total}, {'cross_entropy': (total, jnp.sum(weights)), 'accuracy': weighted_accuracy(logits, labels, weights)}

    def collect(self, outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """What `summarize` needs of each example."""
        return {'logits': outputs['logits'], 'labels': batch['labels'], 'weights': example_weights(batch)}

    def summarize(self, collected: dict[str, np.ndarray]) -> dict[str, float]:
        """Scores of the whole set: see `evaluation.metrics.classification` and `.regression`, and `metrics_classes.multi_label`."""
        real = collected['weights'] > 0
        labels, logits = collected['labels'][real], collected['logits'][real]
        if labels.ndim == 2:
            return metrics_classes.multi_label(labels, (logits > 0).astype(np.int64))
        if np.issubdtype(labels.dtype, np.floating):
            return metrics.regression(labels, logits[:, 0])
        return metrics.classification(labels, logits.argmax(axis=-1), logits.shape[-1])


class ChoiceLoss:
    """Cross-entropy over the choices of a question, of which `ChoiceHead` gives absent ones no probability."""

    def __init__(self, config: Config):
        del config  # nothing in it changes this loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        logits, labels, weights = outputs['logits'], batch['labels'], example_weights(batch)
        total = jnp.sum(cross_entropy(logits, labels) * weights)
        return {'loss': total}, {'cross_entropy': (total, jnp.sum(weights)), 'accuracy': weighted_accuracy(logits, labels, weights)}
