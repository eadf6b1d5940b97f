"""Decoding over models that are tables of logits: against enumeration, and against the reference implementations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import BeamScore, DecodeConfig, Decoding
from t5x_lite.evaluation import sampling, search

PAD, EOS = 0, 1


def markov(table):
    """A model whose next logits depend on the token before."""
    table = jnp.asarray(table, jnp.float32)
    return (lambda state, tokens: (table[tokens], state)), (lambda state, rows: state), table


def beams(table, steps, *, starts=(0,), **fields):
    step, reorder, logits = markov(table)
    decode = DecodeConfig(method=Decoding.beam, **fields)
    found = jax.jit(lambda first: search.beam_search(step, reorder, first, 0, decode, (EOS,), steps, PAD))(logits[jnp.asarray(starts)])
    return [np.asarray(part) for part in found]


def tables(vocabulary, count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        table = rng.normal(size=(vocabulary, vocabulary)) * 2
        table[:, PAD] = -1e7
        yield table


def enumerated(table, steps, alpha):
    """Every answer that ends within `steps`, best first: (score, sum of log-probabilities, tokens)."""
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(table, jnp.float32)), np.float64)
    found = []
    for length in range(1, steps + 1):
        for body in itertools.product(range(2, len(table)), repeat=length - 1):
            path = (*body, EOS)
            total = sum(log_p[a, b] for a, b in zip((0, *path), path))
            found.append((total / ((5 + length) / 6) ** alpha, total, [*path, *[PAD] * (steps - length)]))
    return sorted(found, reverse=True)


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.5])
def test_many_beams_find_what_enumeration_finds(alpha):
    """With a beam for every prefix nothing is pruned, so the best K are exact."""
    steps = 4
    for table in tables(4, 3):
        tokens, scores, sums = beams(table, steps, beams=16, length_penalty=alpha)
        for place, (score, total, path) in enumerate(enumerated(table, steps, alpha)[:10]):
            np.testing.assert_allclose(scores[0, place], score, atol=1e-4)
            np.testing.assert_allclose(sums[0, place], total, atol=1e-4)
            np.testing.assert_array_equal(tokens[0, place], path)


def test_one_beam_without_penalty_follows_the_likeliest_token():
    for table in tables(6, 5):
        step, _, logits = markov(table)
        answers = search.begin(logits[jnp.array([0])], 0, 5, PAD)
        greedy = search.extend(step, answers, DecodeConfig(), jax.random.split(jax.random.key(0), 1), (EOS,), 5)
        tokens, _, sums = beams(table, 5, beams=1, length_penalty=0.0)
        if (np.asarray(greedy.tokens_BT) == EOS).any() and (tokens[0, 0] == np.asarray(greedy.tokens_BT)[0]).all():
            np.testing.assert_allclose(sums[0, 0], np.asarray(greedy.log_probs_BT).sum(), atol=1e-5)
        assert greedy.tokens_BT[0, 0] == np.argmax(table[0])


def test_prompts_of_a_batch_do_not_meet():
    table = next(tables(5, 1))
    together = beams(table, 5, starts=(2, 3, 4), beams=3)
    for row, start in enumerate((2, 3, 4)):
        for whole, single in zip(together, beams(table, 5, starts=(start,), beams=3)):
            np.testing.assert_allclose(whole[row], single[0], atol=1e-5)


def test_where_nothing_ends_what_grows_is_given():
    table = np.full((4, 4), -1.0)
    table[:, [PAD, EOS]] = -2e9
    tokens, scores, sums = beams(table, 3, beams=2, length_penalty=1.0)
    assert (tokens >= 2).all()
    np.testing.assert_allclose(scores, sums)


def test_transformers_rules_end_every_answer_at_the_last_step():
    table = np.full((4, 4), -1.0)
    table[:, [PAD, EOS]] = -2e9
    _, scores, sums = beams(table, 3, beams=2, length_penalty=2.0, beam_score=BeamScore.transformers)
    np.testing.assert_allclose(scores, sums / 9, rtol=1e-6)


def draw(table, decode, rows=4000, steps=1, start=0):
    step, _, logits = markov(table)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(rows))
    answers = search.begin(jnp.repeat(logits[start][None], rows, axis=0), 0, steps, PAD)
    return jax.jit(lambda answers: search.extend(step, answers, decode, keys, (EOS,), steps))(answers)


@pytest.mark.parametrize(
    'fields', [{}, {'temperature': 0.5}, {'top_k': 2}, {'top_p': 0.7}, {'min_p': 0.3}, {'temperature': 2.0, 'top_k': 4, 'top_p': 0.9}], ids=str
)
def test_frequencies_of_samples_are_the_distribution(fields):
    table = np.array([[-1.0, 0.3, 1.2, 0.1, -0.5, 0.9]])
    decode = DecodeConfig(method=Decoding.sample, **fields)
    tokens = np.asarray(draw(table, decode).tokens_BT)[:, 0]
    wanted = np.asarray(jax.nn.softmax(sampling.filtered(jnp.asarray(table, jnp.float32), decode)))[0]
    assert 1 <= (wanted > 1e-6).sum() <= 6
    found = np.bincount(tokens, minlength=6) / len(tokens)
    # Four standard errors.
    assert (np.abs(found - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / len(tokens)) + 1e-6).all(), (found, wanted)


def test_filters_as_literal_rows():
    row = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1]]))
    kept = [np.flatnonzero(np.asarray(x)[0] > -1e8).tolist() for x in (
        sampling.keep_top_k(row, 2), sampling.keep_top_p(row, 0.5), sampling.keep_top_p(row, 0.51), sampling.keep_top_p(row, 0.95),
        sampling.keep_min_p(row, 0.31), sampling.keep_min_p(row, 0.19), sampling.keep_top_k(row, 99),
    )]  # fmt: skip
    assert kept == [[0, 1], [0], [0, 1], [0, 1, 2, 3], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_repetition_penalty_is_its_formula():
    logits, seen = jnp.array([[2.0, -2.0, 1.0]]), jnp.array([[True, True, False]])
    np.testing.assert_allclose(sampling.penalised(logits, seen, 2.0), [[1.0, -4.0, 1.0]])
    table = np.array([[0.0, -9.0, 1.0, 0.8]] * 4)
    answers = search.begin(jnp.asarray(table[:1], jnp.float32), 0, 2, PAD, jnp.zeros((1, 4), bool))
    step, _, _ = markov(table)
    found = search.extend(step, answers, DecodeConfig(repetition_penalty=1.5), jax.random.split(jax.random.key(0), 1), (EOS,), 2)
    np.testing.assert_array_equal(found.tokens_BT, [[2, 3]])


def test_an_answer_ends_with_its_end_token_and_padding_follows():
    table = np.full((5, 5), -9.0)
    table[2, 3], table[3, EOS], table[4, 4] = 9, 9, 9
    step, _, logits = markov(table)
    answers = search.begin(logits[jnp.array([2, 4])], 0, 6, PAD)
    found = search.extend(step, answers, DecodeConfig(), jax.random.split(jax.random.key(0), 2), (EOS,), 6)
    np.testing.assert_array_equal(found.tokens_BT, [[3, EOS, PAD, PAD, PAD, PAD], [4] * 6])
    assert (np.asarray(found.log_probs_BT)[0, 2:] == 0).all()
    np.testing.assert_array_equal(found.done_B, [True, False])


def test_in_parts_as_in_one():
    table = next(tables(8, 1))
    decode = DecodeConfig(method=Decoding.sample)
    step, _, logits = markov(table)
    keys = jax.random.split(jax.random.key(3), 5)
    begun = search.begin(logits[jnp.array([2, 3, 4, 5, 6])], 0, 12, PAD)
    whole = search.extend(step, begun, decode, keys, (EOS,), 12)
    parts = begun
    for until in (1, 4, 12):
        parts = search.extend(step, parts, decode, keys, (EOS,), until)
    np.testing.assert_array_equal(whole.tokens_BT, parts.tokens_BT)
    np.testing.assert_array_equal(whole.log_probs_BT, parts.log_probs_BT)
