"""BERT's pre-training losses."""

import jax
import jax.numpy as jnp

from t5x_lite.config import Config
from t5x_lite.training.losses import Batch, Metrics, cross_entropy, example_weights, over_vocabulary, weighted_accuracy


class MlmLoss:
    """Mean cross-entropy over the masked positions of the global batch (Devlin et al., 2018)."""

    def __init__(self, config: Config):
        del config  # nothing in it changes this loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'mlm_loss': jnp.sum(_mask_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        shape, targets, weights = outputs['mlm_logits'].shape[:2], batch['masked_targets'], _mask_weights(batch)
        if shape != targets.shape:  # all positions were projected
            targets, weights = (_to_positions(part, batch, shape) for part in (targets, weights))
        total, metrics = over_vocabulary(_sums, outputs, targets, weights)
        return {'mlm_loss': total}, metrics


def _sums(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Metrics]:
    total = jnp.sum(cross_entropy(logits, targets) * weights)
    return total, {'mlm_loss': (total, jnp.sum(weights)), 'mlm_accuracy': weighted_accuracy(logits, targets, weights)}


class MlmNspLoss(MlmLoss):
    """The masked-LM mean plus the next-sentence mean over the examples of the global batch."""

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return super().weights(batch) | {'nsp_loss': jnp.sum(example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        terms, metrics = super().__call__(outputs, batch)
        logits, labels, weights = outputs['nsp_logits'], batch['next_sentence_labels'], example_weights(batch)
        total = jnp.sum(cross_entropy(logits, labels) * weights)
        return terms | {'nsp_loss': total}, metrics | {
            'nsp_loss': (total, jnp.sum(weights)),
            'nsp_accuracy': weighted_accuracy(logits, labels, weights),
        }


def _mask_weights(batch: Batch) -> jax.Array:
    weights = batch['masked_weights']
    return weights * batch['example_weights'][:, None] if 'example_weights' in batch else weights


def _to_positions(values: jax.Array, batch: Batch, shape: tuple[int, int]) -> jax.Array:
    """[B, P] values moved to their positions in [B, L]; unused slots are 0 and add nothing."""
    rows = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
    used = batch['masked_weights'].astype(values.dtype)
    return jnp.zeros(shape, values.dtype).at[rows, batch['masked_positions']].add(values * used)
