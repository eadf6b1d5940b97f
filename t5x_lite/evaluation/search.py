"""Greedy decoding, sampling and beam search over any model that gives logits for one more token.

A model is a function step(state, tokens_B) -> (logits_BV, state), and its state any pytree with a function `reorder(state, rows)` that takes rows.
Columns of logits that pad the vocabulary are far below all others.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import BeamScore, DecodeConfig
from t5x_lite.evaluation.sampling import choose, penalised

Step = Callable[[Any, jax.Array], tuple[jax.Array, Any]]
Reorder = Callable[[Any, jax.Array], Any]
_FAR = -1e9  # score of a place that nothing has taken
TAKEN = _FAR / 2  # what has been taken scores more


@struct.dataclass
class Answers:
    """Rows that grow. An end token is part of its answer, and what follows is padding."""

    state: Any
    logits_BV: jax.Array  # of which the last token was chosen; of the first, where there is none yet
    tokens_BT: jax.Array
    log_probs_BT: jax.Array  # of each token in the model's own distribution, before penalties, temperature and filters
    steps: jax.Array  # int32 []
    done_B: jax.Array
    seen_BV: jax.Array | None  # tokens of prompt and answer, where there is a penalty on repeating them


def begin(logits_BV: jax.Array, state: Any, steps: int, pad_id: int, seen_BV: jax.Array | None = None) -> Answers:
    """Answers without a token, of at most `steps`, from the logits after the prompts."""
    rows = logits_BV.shape[0]
    tokens = jnp.full((rows, steps), pad_id, jnp.int32)
    return Answers(state, logits_BV, tokens, jnp.zeros((rows, steps), jnp.float32), jnp.int32(0), jnp.zeros(rows, bool), seen_BV)


def extend(
    step: Step, answers: Answers, decode: DecodeConfig, keys_B: jax.Array, end_ids: tuple[int, ...], until: int, limits_B: jax.Array | None = None
) -> Answers:
    """Answers with tokens up to `until`, and in a row to its limit, fewer where all rows are done. Rows that are done get padding."""

    def going(answers: Answers) -> jax.Array:
        return (answers.steps < until) & ~jnp.all(answers.done_B)

    def chosen(answers: Answers) -> Answers:
        """With the token that the logits say."""
        logits, done, place = answers.logits_BV, answers.done_B, answers.steps
        token = choose(penalised(logits, answers.seen_BV, decode.repetition_penalty), decode, keys_B, place)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        tokens_BT = answers.tokens_BT.at[:, place].set(jnp.where(done, answers.tokens_BT[:, place], token))
        log_probs_BT = answers.log_probs_BT.at[:, place].set(jnp.where(done, 0.0, log_probs))
        seen = answers.seen_BV if answers.seen_BV is None else _and_seen(answers.seen_BV, token)
        done = done | _among(token, end_ids)
        if limits_B is not None:
            done = done | (place + 1 >= limits_B)
        return answers.replace(tokens_BT=tokens_BT, log_probs_BT=log_probs_BT, steps=place + 1, done_B=done, seen_BV=seen)

    def one_more(answers: Answers) -> Answers:
        logits, state = step(answers.state, answers.tokens_BT[:, answers.steps - 1])
        return chosen(answers.replace(logits_BV=logits, state=state))

    # The model's step comes first in the loop, and under no condition: a step that may be left out copies all that it changes, caches too.
    answers, state = answers.replace(state=None), answers.state
    begun = jax.lax.cond((answers.steps == 0) & going(answers), chosen, lambda answers: answers, answers)
    return jax.lax.while_loop(going, one_more, begun.replace(state=state))


def _among(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    return functools.reduce(jnp.logical_or, [tokens == number for number in ids], jnp.zeros(tokens.shape, bool))


def _and_seen(seen_BV: jax.Array, tokens_B: jax.Array) -> jax.Array:
    return seen_BV.at[jnp.arange(len(tokens_B)), tokens_B].set(True)


def length_penalty(length: Any, alpha: float, rule: BeamScore) -> jax.Array:
    """What a sum of log-probabilities is divided by; lengths count the end token."""
    length = jnp.asarray(length, jnp.float32)
    return (length if rule == BeamScore.transformers else (5.0 + length) / 6.0) ** alpha


@struct.dataclass
class Beams:
    """K growing answers a prompt, best first, and the K best that have ended."""

    state: Any  # of B K rows
    logits: jax.Array  # [B K, V]
    alive_BKT: jax.Array
    alive_BK: jax.Array  # sums of log-probabilities
    ended_BKT: jax.Array
    ended_BK: jax.Array  # scores: sums over a penalty for length
    ended_sums_BK: jax.Array  # sums of log-probabilities
    open_B: jax.Array  # whether an answer that grows can still become one of the best
    steps: jax.Array
    seen: jax.Array | None


def beam_search(
    step: Step,
    reorder: Reorder,
    logits_BV: jax.Array,
    state: Any,
    decode: DecodeConfig,
    end_ids: tuple[int, ...],
    steps: int,
    pad_id: int,
    seen_BV: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best `decode.beams` answers of each prompt, by config.decode.beam_score:

    gnmt: sum of log-probabilities / ((5 + length) / 6) ** length_penalty (Wu et al., 2016), over all that end among the 2 K best continuations; a
    prompt is done when no growing answer can reach the worst of its K best (t5x's decoding.py). transformers: / length ** length_penalty, ends count only
    among the K best, at the last step every answer ends, and done is judged as if an answer ended now (early_stopping=False there). Lengths count the
    end token. With early_stopping a prompt is done once K answers have ended.

    Args:
      logits_BV, state: after the prompts, one row each.

    Returns:
      tokens [B, K, steps], the best first; scores [B, K]; sums of log-probabilities [B, K]. Where fewer than K have ended, the best of those that
      still grow follow, with their sums as scores; places that nothing has taken (a small vocabulary) have scores below -5e8.
    """
    rows, beams = logits_BV.shape[0], decode.beams
    like_transformers = decode.beam_score == BeamScore.transformers
    pad = jnp.full((rows, beams, steps), pad_id, jnp.int32)
    copies = jnp.repeat(jnp.arange(rows), beams)
    # One of K equal rows counts at first.
    alive = jnp.where(jnp.arange(beams) == 0, 0.0, _FAR)[None] + jnp.zeros((rows, 1))
    far = jnp.full((rows, beams), _FAR)
    seen = None if seen_BV is None else seen_BV[copies]
    start = Beams(reorder(state, copies), logits_BV[copies], pad, alive, pad, far, far, jnp.ones(rows, bool), jnp.int32(0), seen)

    def penalty(length: Any) -> jax.Array:
        return length_penalty(length, decode.length_penalty, decode.beam_score)

    def one_more(search: Beams) -> Beams:
        place, vocabulary = search.steps, search.logits.shape[-1]
        log_probs = penalised(jax.nn.log_softmax(search.logits), search.seen, decode.repetition_penalty)
        sums = (log_probs.reshape(rows, beams, vocabulary) + search.alive_BK[:, :, None]).reshape(rows, -1)
        sums, places = jax.lax.top_k(sums, 2 * beams)  # so that K are left if K of them end
        parents, tokens = places // vocabulary, (places % vocabulary).astype(jnp.int32)
        grown = jnp.take_along_axis(search.alive_BKT, parents[:, :, None], axis=1).at[:, :, place].set(tokens)
        ends = _among(tokens, end_ids)
        counted = ends
        if like_transformers:
            counted = (ends | (place + 1 == steps)) & (jnp.arange(2 * beams) < beams)[None]
        counted = counted & search.open_B[:, None]
        scores = jnp.concatenate([search.ended_BK, jnp.where(counted, sums / penalty(place + 1), _FAR)], axis=1)
        ended_BK, best = jax.lax.top_k(scores, beams)
        ended_BKT = jnp.take_along_axis(jnp.concatenate([search.ended_BKT, grown], axis=1), best[:, :, None], axis=1)
        ended_sums = jnp.take_along_axis(jnp.concatenate([search.ended_sums_BK, sums], axis=1), best, axis=1)

        alive_BK, kept = jax.lax.top_k(jnp.where(ends, _FAR, sums), beams)
        alive_BKT = jnp.take_along_axis(grown, kept[:, :, None], axis=1)
        source = (jnp.arange(rows)[:, None] * beams + jnp.take_along_axis(parents, kept, axis=1)).reshape(-1)
        chosen = jnp.take_along_axis(tokens, kept, axis=1).reshape(-1)
        reach = alive_BK[:, 0] / penalty(place + 1 if like_transformers else steps)
        open_B = search.open_B & (reach > ended_BK[:, -1])
        if decode.early_stopping:
            open_B = open_B & (ended_BK[:, -1] <= TAKEN)
        seen = search.seen if search.seen is None else _and_seen(search.seen[source], chosen)
        logits, state = jax.lax.cond(
            jnp.any(open_B) & (place + 1 < steps),
            lambda: step(reorder(search.state, source), chosen),
            lambda: (search.logits, search.state),
        )
        return Beams(state, logits, alive_BKT, alive_BK, ended_BKT, ended_BK, ended_sums, open_B, place + 1, seen)

    last = jax.lax.while_loop(lambda search: (search.steps < steps) & jnp.any(search.open_B), one_more, start)
    scores = jnp.concatenate([last.ended_BK, last.alive_BK], axis=1)
    grows = jnp.broadcast_to(jnp.arange(2 * beams) >= beams, scores.shape)
    order = jnp.lexsort((-scores, grows, scores <= TAKEN))[:, :beams]
    tokens = jnp.take_along_axis(jnp.concatenate([last.ended_BKT, last.alive_BKT], axis=1), order[:, :, None], axis=1)
    sums = jnp.take_along_axis(jnp.concatenate([last.ended_sums_BK, last.alive_BK], axis=1), order, axis=1)
    return tokens, jnp.take_along_axis(scores, order, axis=1), sums
