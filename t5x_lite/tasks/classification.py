"""Classes and numbers from labelled examples: the loss, and the scores of a whole held-out set."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config
from t5x_lite.evaluation import metrics
from t5x_lite.training.losses import Batch, Metrics, cross_entropy, example_weights, weighted_accuracy


class LabelledLoss:
    """Cross-entropy for integer labels; squared error for float ones, whose logits are one number."""

    def __init__(self, config: Config):
        del config  # nothing in it changes this loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        logits, labels, weights = outputs['logits'], batch['labels'], example_weights(batch)
        if jnp.issubdtype(labels.dtype, jnp.floating):
            total = jnp.sum(jnp.square(logits[:, 0] - labels) * weights)
            return {'loss': total}, {'mean_squared_error': (total, jnp.sum(weights))}
        total = jnp.sum(cross_entropy(logits, labels) * weights)
        return {'loss': total}, {'cross_entropy': (total, jnp.sum(weights)), 'accuracy': weighted_accuracy(logits, labels, weights)}

    def collect(self, outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """What `summarize` needs of each example."""
        return {'logits': outputs['logits'], 'labels': batch['labels'], 'weights': example_weights(batch)}

    def summarize(self, collected: dict[str, np.ndarray]) -> dict[str, float]:
        """Scores of the whole set: see `evaluation.metrics.classification` and `.regression`."""
        real = collected['weights'] > 0
        labels, logits = collected['labels'][real], collected['logits'][real]
        if np.issubdtype(labels.dtype, np.floating):
            return metrics.regression(labels, logits[:, 0])
        return metrics.classification(labels, logits.argmax(axis=-1), logits.shape[-1])
