"""Losses return sums and weights; the division happens once, over the whole global batch.

A loss is a class, made with the config of the run, whose objects have

    weights(batch) -> {term: scalar}              what each term is divided by; from the batch alone, so that it is known before any microbatch is run
    __call__(outputs, batch) -> {term: sum}, {metric: (sum, weight)}

and the run minimises the sum over terms of sum / weight. So k microbatches, shards or packed rows give the numbers of one batch.

Runs of one process that differ only in the numbers of training/sharing.py share what is compiled with one loss. A loss that computes with one of those
(the number of steps, say) names it, `reads = ('steps',)`, and is then compiled anew for each value.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from t5x_lite.config import Config

Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Loss(Protocol):
    def __init__(self, config: Config): ...

    def weights(self, batch: Batch) -> dict[str, jax.Array]: ...

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]: ...


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-log softmax(logits)[target] in nats, float32; logits [..., C], targets [...]."""
    logits = logits.astype(jnp.float32)
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    # Compared and summed, not gathered: the transpose of a gather along a sharded vocabulary is a scatter that XLA's partitioner lays out wrongly on some
    # meshes (data 2, fsdp 2, tensor 2), and the comparison fuses with the rest.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    picked = jnp.sum(jnp.where(classes == targets[..., None], shifted, jnp.float32(0)), axis=-1)
    return jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - picked


def class_cross_entropy(logits: jax.Array, targets: jax.Array, class_weights: Sequence[float] = (), smoothing: float = 0.0) -> jax.Array:
    """What each target costs, float32 [...]; its sum over that of `target_weights` is torch's cross_entropy(weight=class_weights, label_smoothing=smoothing).

    With smoothing s over C classes and weights w, a target y costs (1 - s) w[y] (-log p[y]) + s / C x the sum over c of w[c] (-log p[c]) (Szegedy et al., 2016,
    section 7).

    Args:
      logits: [..., C]; targets: int [...], one that is no class costs nothing.
      class_weights: w; (): all 1.
    """
    weights = tuple(class_weights) or (1.0,) * logits.shape[-1]
    found = (targets >= 0) & (targets < logits.shape[-1])
    total = cross_entropy(logits, jnp.where(found, targets, 0)) * target_weights(targets, weights)
    if not smoothing:
        return total
    logits = logits.astype(jnp.float32)
    each = jax.nn.logsumexp(logits, axis=-1, keepdims=True) - logits
    every = jnp.sum(each * jnp.expand_dims(jnp.asarray(weights, jnp.float32), tuple(range(logits.ndim - 1))), axis=-1)
    return (1 - smoothing) * total + smoothing / logits.shape[-1] * jnp.where(found, every, jnp.float32(0))


def target_weights(targets: jax.Array, class_weights: Sequence[float]) -> jax.Array:
    """float32, what each of `targets` [...] weighs: 0 for one that is no class."""
    found = (targets >= 0) & (targets < len(class_weights))
    return jnp.where(found, jnp.asarray(class_weights, jnp.float32)[jnp.where(found, targets, 0)], jnp.float32(0))


def over_vocabulary(
    function: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Metrics]], outputs: dict[str, Any], targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, Metrics]:
    """function(logits, targets, weights) of a language model's outputs, where it gives sums over positions: (what is minimised, metrics).

    At once over `lm_logits` (or `mlm_logits`); or in chunks, where the module gave its `output_layer` (models/vocabulary.py).
    """
    if 'output_layer' in outputs:
        return outputs['output_layer'].sums(function, targets, weights)
    return function(outputs['lm_logits'] if 'lm_logits' in outputs else outputs['mlm_logits'], targets, weights)


class LmLoss:
    """Mean over the target tokens of the global batch: causal and prefix language models, and the targets of encoder-decoders.

    cross-entropy + z_loss x log(Z)^2 (t5x's losses.py: cross_entropy_with_logits). With label smoothing s, a target counts 1 - s and each other piece
    s / (V - 1), and the entropy of that distribution is subtracted, so that a perfect model reaches 0. Reads outputs `lm_logits` (or an encoder's
    `mlm_logits` at all positions) and batch `targets`, `target_weights`. Metrics: lm_loss, cross-entropy alone in nats a token; lm_accuracy; z_loss.
    """

    def __init__(self, config: Config):
        self._z_loss, self._smoothing, self._pieces = config.z_loss, config.label_smoothing, config.model.vocab_size

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'lm_loss': jnp.sum(_target_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        total, metrics = over_vocabulary(self._sums, outputs, batch['targets'], _target_weights(batch))
        return {'lm_loss': total}, metrics

    def _sums(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Metrics]:
        plain = cross_entropy(logits, targets)
        count, total = jnp.sum(weights), jnp.sum(plain * weights)
        metrics = {'lm_loss': (total, count), 'lm_accuracy': weighted_accuracy(logits, targets, weights)}
        if self._smoothing:
            total = jnp.sum((plain + self._smoothed(logits, plain)) * weights)
        if self._z_loss:
            extra = self._z_loss * jnp.sum(jnp.square(jax.nn.logsumexp(logits, axis=-1)) * weights)
            total, metrics['z_loss'] = total + extra, (extra, count)
        return total, metrics

    def _smoothed(self, logits: jax.Array, plain: jax.Array) -> jax.Array:
        """What smoothing adds to the cross-entropy of each position."""
        others = self._pieces - 1
        low = self._smoothing / others
        entropy = -(1 - self._smoothing) * math.log(1 - self._smoothing) - self._smoothing * math.log(low)
        real = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < self._pieces  # the rest pads the vocabulary
        every = self._pieces * jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(real, logits, 0), axis=-1)
        return low * (every - plain) - self._smoothing * plain - entropy


def _target_weights(batch: Batch) -> jax.Array:
    weights = batch['target_weights']
    return weights * batch['example_weights'][:, None] if 'example_weights' in batch else weights


def weighted_accuracy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, weight) of the share of `targets` at the largest logit."""
    # The first of the largest, as argmax finds it; XLA:CPU takes argmax one element at a time, and these two reductions in vectors.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(logits == largest, classes, jnp.asarray(logits.shape[-1], targets.dtype)), axis=-1)
    hits = (first == targets).astype(jnp.float32)
    return jnp.sum(hits * weights), jnp.sum(weights)


def example_weights(batch: Batch) -> jax.Array:
    """float32 [B]: 0 for rows that only fill up a batch."""
    if 'example_weights' in batch:
        return batch['example_weights']
    return jnp.ones(next(iter(batch.values())).shape[:1], jnp.float32)


def divide(total: Any, weight: Any) -> Any:
    """total / weight, and 0 where nothing was counted."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), 0)
