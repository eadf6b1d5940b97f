"""Linear-chain conditional random field over tags (Lafferty et al., 2001), on the scores of a network (Lample et al., 2016, 'Neural architectures for NER').

The score of tags y of a sentence is what the network gives each tag at its word, and what each tag gives the next:

    s(y) = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_(t-1), y_t] + end[y_n]        p(y) = exp(s(y)) / sum over all y' of exp(s(y'))

A chain runs over the positions where `mask` is set, and over nothing between them: with labels on the first pieces of words, from word to word. Where
`segments` change, one chain ends and another begins, so rows may be packed. All in float32 and in log space. With all of `Scores` 0 it is a softmax.

Shape letters: B batch, L length, T tags. `mask` is bool [B, L]; `segments` int [B, L], None: each row is one sentence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.nn import logsumexp
import jax.numpy as jnp

from t5x_lite.models.layers import partitioned

# Of what is illegal: below any sum of real scores, and finite, so that gradients are.
NEVER = -1e9


class Scores(NamedTuple):
    """float32; transitions[a, b] is of tag b after tag a."""

    transitions_TT: jax.Array
    start_T: jax.Array
    end_T: jax.Array


class Crf(nn.Module):
    """The learnt scores, which begin at 0."""

    tags: int

    @nn.compact
    def __call__(self) -> Scores:
        zeros, tags = nn.initializers.zeros, self.tags
        return Scores(
            partitioned(self, 'transitions', zeros, (tags, tags), ('labels', 'labels')),
            partitioned(self, 'start', zeros, (tags,), ('labels',)),
            partitioned(self, 'end', zeros, (tags,), ('labels',)),
        )


def constrained(scores: Scores, legal: jax.Array) -> Scores:
    """Scores under which no illegal sequence is ever decoded, nor has any probability.

    Args:
      legal: bool [T + 2, T + 2] as `t5x_lite.data.tags.TagSet.transitions`: the column's tag may follow the row's; the last two are start and end.
    """
    legal, tags = jnp.asarray(legal), len(scores.start_T)
    if legal.shape != (tags + 2, tags + 2):
        raise ValueError(f'legal is {legal.shape}; expected ({tags + 2}, {tags + 2}): {tags} tags, start and end')
    allowed = Scores(legal[:tags, :tags], legal[tags, :tags], legal[:tags, tags + 1])
    return Scores(*(jnp.where(ok, score, jnp.float32(NEVER)) for ok, score in zip(allowed, scores, strict=True)))


def loss(emissions_BLT: jax.Array, tags_BL: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """(sum, weight): -log p of the tags, in nats, and how many sentences they are; as all losses here, to be divided over the global batch.

    Tags that `constrained` scores forbid cost 1e9 each: check data first.
    """
    likelihood_B = log_likelihood(emissions_BLT, tags_BL, mask_BL, scores, segments_BL)
    return -jnp.sum(likelihood_B), sentences(mask_BL, segments_BL)


def sentences(mask_BL: jax.Array, segments_BL: jax.Array | None = None) -> jax.Array:
    """float32: how many have a word that counts; the weight of `loss`, from the batch alone."""
    return jnp.sum(_chains(mask_BL, segments_BL)[1].astype(jnp.float32))


def log_likelihood(
    emissions_BLT: jax.Array, tags_BL: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None = None
) -> jax.Array:
    """log p of the tags, float32 [B], summed over the sentences of a row; tags where `mask` is not set may be any number."""
    return score(emissions_BLT, tags_BL, mask_BL, scores, segments_BL) - log_partition(emissions_BLT, mask_BL, scores, segments_BL)


def score(
    emissions_BLT: jax.Array, tags_BL: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None = None
) -> jax.Array:
    """s(tags), float32 [B], summed over the sentences of a row."""
    before_BL, first_BL = _chains(mask_BL, segments_BL)
    tags_BL = jnp.where(mask_BL, tags_BL, 0)
    before_tags_BL = jnp.take_along_axis(tags_BL, jnp.maximum(before_BL, 0), axis=1)
    zero = jnp.float32(0)
    classes = jax.lax.broadcasted_iota(tags_BL.dtype, emissions_BLT.shape, 2)
    picked_BL = jnp.sum(jnp.where(classes == tags_BL[..., None], emissions_BLT.astype(jnp.float32), zero), axis=-1)
    linked_BL = jnp.where(first_BL, scores.start_T[tags_BL], scores.transitions_TT[before_tags_BL, tags_BL])
    ended_BL = jnp.where(first_BL & (before_BL >= 0), scores.end_T[before_tags_BL], zero)  # of the sentence before
    last_B = jnp.max(jnp.where(mask_BL, _places(mask_BL), -1), axis=1)
    last_tags_B = jnp.take_along_axis(tags_BL, jnp.maximum(last_B, 0)[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(mask_BL, picked_BL + linked_BL + ended_BL, zero), axis=1) + jnp.where(last_B >= 0, scores.end_T[last_tags_B], zero)


def log_partition(emissions_BLT: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None = None) -> jax.Array:
    """log of the sum of exp(s(y)) over all tags y, float32 [B], summed over the sentences of a row; 0 without any."""
    return _forward(emissions_BLT, mask_BL, scores, segments_BL, lambda x, axis: (logsumexp(x, axis=axis), None))[0]


def marginals(emissions_BLT: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None = None) -> jax.Array:
    """p(y_t = tag) at each position, float32 [B, L, T]; 0 where `mask` is not set.

    The gradient of the log partition by the emissions; its backward pass is the backward algorithm (Eisner, 2016, 'Inside-outside and forward-backward
    algorithms are just backprop').
    """
    return jax.grad(lambda emissions: jnp.sum(log_partition(emissions, mask_BL, scores, segments_BL)))(emissions_BLT.astype(jnp.float32))


def viterbi(
    emissions_BLT: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The best tags, int32 [B, L], 0 where `mask` is not set; and their s, float32 [B], summed over the sentences of a row. The lower tag wins a tie."""
    best_B, (alphas_LBT, pointers_LBT) = _forward(
        emissions_BLT, mask_BL, scores, segments_BL, lambda x, axis: (jnp.max(x, axis=axis), jnp.argmax(x, axis=axis).astype(jnp.int32))
    )
    first_BL = _chains(mask_BL, segments_BL)[1]
    ends_LB = jnp.argmax(alphas_LBT + scores.end_T[None, None], axis=-1).astype(jnp.int32)

    def back(carry: tuple, step: tuple) -> tuple:
        wanted_B, ended_B = carry  # by the next word; whether that is of another sentence
        end_B, pointers_BT, mask_B, first_B = step
        tag_B = jnp.where(ended_B, end_B, wanted_B)
        before_B = jnp.take_along_axis(pointers_BT, tag_B[:, None], axis=1)[:, 0]
        return (jnp.where(mask_B, before_B, wanted_B), jnp.where(mask_B, first_B, ended_B)), jnp.where(mask_B, tag_B, 0)

    start = jnp.zeros(best_B.shape, jnp.int32), jnp.ones(best_B.shape, bool)
    tags_LB = jax.lax.scan(back, start, (ends_LB, pointers_LBT, mask_BL.T, first_BL.T), reverse=True)[1]
    return tags_LB.T, best_B


def _forward(
    emissions_BLT: jax.Array, mask_BL: jax.Array, scores: Scores, segments_BL: jax.Array | None, gather: Callable[..., tuple[jax.Array, Any]]
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """The forward algorithm over the semiring of `gather`, which reduces an axis: all sentences of a row together [B]; at each position the sum or best of
    the paths that end in each tag [L, B, T], and what else gather says of it."""
    before_BL, first_BL = _chains(mask_BL, segments_BL)

    def step(carry: tuple, inputs: tuple) -> tuple:
        total_B, alpha_BT = carry
        emission_BT, mask_B, first_B, later_B = inputs
        closed_B = gather(alpha_BT + scores.end_T[None], -1)[0]
        total_B = jnp.where(first_B & later_B, total_B + closed_B, total_B)
        linked_BT, extra = gather(alpha_BT[:, :, None] + scores.transitions_TT[None], 1)
        new_BT = jnp.where(first_B[:, None], scores.start_T[None], linked_BT) + emission_BT
        alpha_BT = jnp.where(mask_B[:, None], new_BT, alpha_BT)
        return (total_B, alpha_BT), (alpha_BT, extra)

    emissions_LBT = jnp.moveaxis(emissions_BLT.astype(jnp.float32), 1, 0)
    start = jnp.zeros(mask_BL.shape[:1], jnp.float32), jnp.zeros(emissions_LBT.shape[1:], jnp.float32)
    (total_B, alpha_BT), steps = jax.lax.scan(step, start, (emissions_LBT, mask_BL.T, first_BL.T, (before_BL >= 0).T))
    closed_B = gather(alpha_BT + scores.end_T[None], -1)[0]
    return total_B + jnp.where(jnp.any(mask_BL, axis=1), closed_B, jnp.float32(0)), steps


def _chains(mask_BL: jax.Array, segments_BL: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """At each position the last one before where `mask` is set, or -1 (int32 [B, L]), and whether a chain begins there (bool [B, L])."""
    last_BL = jax.lax.cummax(jnp.where(mask_BL, _places(mask_BL), -1), axis=1)
    before_BL = jnp.pad(last_BL[:, :-1], [(0, 0), (1, 0)], constant_values=-1)
    first_BL = before_BL < 0
    if segments_BL is not None:
        first_BL |= jnp.take_along_axis(segments_BL, jnp.maximum(before_BL, 0), axis=1) != segments_BL
    return before_BL, mask_BL & first_BL


def _places(mask_BL: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, mask_BL.shape, 1)
