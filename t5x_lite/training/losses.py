"""Losses return sums and weights; the division happens once, over the whole global batch.

A loss is an object with

    weights(batch) -> {term: scalar}              what each term is divided by; from the batch alone, so that it is known before any microbatch is run
    __call__(outputs, batch) -> {term: sum}, {metric: (sum, weight)}

and the run minimises the sum over terms of sum / weight. So k microbatches, shards or packed rows give the numbers of one batch.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Loss(Protocol):
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
