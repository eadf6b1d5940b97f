"""From logits to the next token: penalties, filters, and a draw that is a function of (key, step)."""

import jax
import jax.numpy as jnp

from t5x_lite.config import DecodeConfig, Decoding

NEVER = -1e9  # logit of what must not be chosen


def penalised(logits_BV: jax.Array, seen_BV: jax.Array | None, penalty: float) -> jax.Array:
    """Logits with those of tokens that occurred divided, or if negative multiplied, by `penalty` (Keskar et al., 2019, section 4.1)."""
    if seen_BV is None or penalty == 1.0:
        return logits_BV
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def keep_top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """Hides all but the k largest; what equals the k-th stays too."""
    smallest = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0][:, -1:]
    return jnp.where(logits_BV >= smallest, logits_BV, NEVER)


def keep_top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Hides all but the fewest likeliest tokens that together reach probability p (Holtzman et al., 2020); equals of the last stay too."""
    ordered = jnp.flip(jnp.sort(logits_BV, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    smallest = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV >= smallest, logits_BV, NEVER)


def keep_min_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Hides tokens less likely than p times the likeliest (Nguyen et al., 2024)."""
    return jnp.where(logits_BV >= jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(p), logits_BV, NEVER)


def filtered(logits_BV: jax.Array, decode: DecodeConfig) -> jax.Array:
    """The logits that are sampled from: temperature first, then the filters, each over what the one before left, in the order of transformers."""
    logits_BV = logits_BV / decode.temperature
    if decode.top_k:
        logits_BV = keep_top_k(logits_BV, decode.top_k)
    if decode.top_p < 1:
        logits_BV = keep_top_p(logits_BV, decode.top_p)
    if decode.min_p > 0:
        logits_BV = keep_min_p(logits_BV, decode.min_p)
    return logits_BV


def choose(logits_BV: jax.Array, decode: DecodeConfig, keys_B: jax.Array, step: jax.Array) -> jax.Array:
    """int32 [B]: the next token of each row. A row's draw depends on its own key and step alone, not on the rows beside it."""
    if decode.method == Decoding.greedy or decode.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
    return jax.vmap(jax.random.categorical)(keys_B, filtered(logits_BV, decode)).astype(jnp.int32)
