"""Decoding against what t5x records, and against enumeration. Theirs puts prompts inside the rows that are decoded, and the best last; ours does neither."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import BeamScore, DecodeConfig, Decoding
from t5x_lite.evaluation import sampling, search
from tests import golden
from tests.evaluation.test_search import EOS, PAD, markov


def keys(rows):
    return jax.random.split(jax.random.key(0), rows)


def prompts(case):
    """Prompts of inputs that begin with a start token and end in padding; the tokens of a whole row."""
    rows = case['input']['inputs']
    return [[token for token in row[1:] if token] for row in rows], len(rows[0])


def limits(case):
    given = case['input']
    most = min(given.get('max_decode_steps') or 10**6, given.get('max_decode_steps_hard_limit') or 10**6)
    found, width = prompts(case)
    return [min(most, width - len(prompt)) for prompt in found]


def whole(case, answers):
    """Prompt and answer in a row, as theirs."""
    found, width = prompts(case)
    rows = [[*prompt, *np.asarray(answer).tolist()][:width] for prompt, answer in zip(found, answers)]
    return [[*row, *[PAD] * (width - len(row))] for row in rows]


def sampled(case, first, step, state):
    """Rows decoded each to its limit, by the settings of the case; one at a time where each has a temperature of its own."""
    given = case['input']
    given_temperature = given.get('temperature', 1.0)
    options = {'top_k': given.get('topk', 0), 'top_p': given.get('topp', 1.0)}
    size = jnp.array(limits(case))
    if isinstance(given_temperature, list):
        parts = []
        for row, temperature in enumerate(given_temperature):
            begun = search.begin(first[row][None], jax.tree.map(lambda x, row=row: x[row][None], state), int(size[row]), PAD)
            decode = DecodeConfig(method=Decoding.sample, temperature=temperature, **options)
            parts.append(search.extend(step, begun, decode, keys(1), (EOS,), int(size[row])).tokens_BT[0])
        return parts, None
    decode, steps = DecodeConfig(method=Decoding.sample, temperature=given_temperature, **options), int(size.max())
    found = search.extend(step, search.begin(first, state, steps, PAD), decode, keys(len(first)), (EOS,), steps, size)
    return found.tokens_BT, np.asarray(found.log_probs_BT).sum(1)


def check_sample(case):
    logits = jnp.asarray(case['input']['logits_per_step'], jnp.float32)
    answers, log_probs = sampled(case, logits, lambda state, tokens: (state, state), logits)
    expected = case['expected']
    if isinstance(expected, dict):
        if 'log_probs' in expected and not case['input'].get('rescale_log_probs'):
            np.testing.assert_allclose(log_probs, expected['log_probs'], atol=1e-5)
        expected = expected['sequences']
    assert whole(case, answers) == expected
    return RESCALED if case['input'].get('rescale_log_probs') else None


def check_given_samples(case):
    """A model that wants what theirs drew; what their steps draw inside a prompt is thrown away."""
    drawn, (found, _) = jnp.asarray(case['input']['sampled_token_at_loop_step']), prompts(case)
    rows = jnp.arange(drawn.shape[1])

    def wanted(place):
        return jax.nn.one_hot(drawn[jnp.minimum(place, len(drawn) - 1), rows], 4) * 1e4

    begun = jnp.array([len(prompt) for prompt in found])
    answers, _ = sampled(case, wanted(begun), lambda place, tokens: (wanted(place + 1), place + 1), begun)
    assert whole(case, answers) == case['expected']


def check_beams(case):
    """Each prompt to the end of its row. What no end token closes keeps its place by its sum; logits are the same at each step, so that the tokens of an
    answer may change places."""
    given, expected = case['input'], case['expected']
    found, width = prompts(case)
    for row, prompt in enumerate(found):
        logits, steps = jnp.asarray(given['logits_per_step'][row], jnp.float32)[None], min(given.get('max_decode_step', width), width - len(prompt))
        decode = DecodeConfig(method=Decoding.beam, beams=given['num_decodes'], length_penalty=float(given['alpha']))
        tokens, scores, _ = search.beam_search(lambda state, tokens: (state, state), lambda state, rows: state[rows], logits, logits, decode, (EOS,), steps, PAD)
        ours = [[*prompt, *answer, *[PAD] * (width - len(prompt) - steps)] for answer in np.asarray(tokens[0]).tolist()]
        assert [sorted(answer) for answer in ours[::-1]] == [sorted(answer) for answer in expected['sequences'][row]]
        assert all(EOS not in answer or not any(answer[answer.index(EOS) + 1 :]) for answer in ours)
        if 'scores' in expected:
            np.testing.assert_allclose(scores[0][::-1], expected['scores'][row], atol=1e-4)


def check_markov(case):
    given = case['input']
    table = jnp.asarray(given['logits[step][previous][next]'], jnp.float32)
    wanted = case['expected']['sequences_any_order_tie']
    first = jnp.asarray(given['initial_logits'], jnp.float32)[None]

    def step(place, tokens):
        return table[jnp.minimum(place[0], len(table) - 1), tokens], place + 1

    decode = DecodeConfig(method=Decoding.beam, beams=2)
    found = search.beam_search(step, lambda state, rows: state[rows], first, jnp.zeros(1, jnp.int32), decode, (4,), len(wanted[0]), PAD)[0]
    assert sorted(np.asarray(found[0]).tolist()) == sorted(wanted)


@functools.partial(jax.jit, static_argnames=('steps', 'count', 'alpha'))
def searched(table, start, steps, count, alpha):
    """`beams` of one prompt, compiled once a shape."""
    decode = DecodeConfig(method=Decoding.beam, beams=count, length_penalty=alpha)
    return search.beam_search(
        lambda state, tokens: (table[tokens], state), lambda state, rows: state, table[start][None], 0, decode, (EOS,), steps, PAD
    )  # fmt: skip


def answers_of(given, count):
    table = jnp.asarray(given['logits[previous][next]'], jnp.float32)
    return [np.asarray(part) for part in searched(table, given['start_token'], given['max_len'], count, given['alpha'])]


def check_beam_search(case):
    """What never ends is not compared where several tie at no score."""
    given, expected = case['input'], case['expected']
    tokens, scores, _ = answers_of(given, given['num_decodes'])
    theirs = np.array(expected['scores'])[::-1]
    real = theirs > -1e6
    np.testing.assert_allclose(scores[0][real], theirs[real], atol=case['tolerance'])
    np.testing.assert_array_equal(tokens[0][real], np.array(expected['sequences'])[::-1][real])


def check_exhaustive(case):
    given, top = case['input'], case['expected']['top5']
    tokens, scores, sums = answers_of(given, 64)
    for place, best in enumerate(top):
        np.testing.assert_allclose([scores[0, place], sums[0, place]], [best['score'], best['log_prob']], atol=case['tolerance'])
        np.testing.assert_array_equal(tokens[0, place], best['sequence'])


def check_greedy(case):
    given, expected = case['input'], case['expected']
    step, _, logits = markov(given['logits[previous][next]'])
    begun = search.begin(logits[jnp.array([given['start_token']])], 0, given['max_len'], PAD)
    found = search.extend(step, begun, DecodeConfig(), keys(1), (EOS,), given['max_len'])
    np.testing.assert_array_equal(found.tokens_BT[0], expected['sequence'])
    np.testing.assert_allclose(np.asarray(found.log_probs_BT).sum(), expected['log_prob'], atol=case['tolerance'])


def check_top_k(case):
    given = case['input']
    x = jnp.asarray(given['x'], jnp.float32)
    kept = np.asarray(sampling.keep_top_k(x, given['k'])) == np.asarray(x)
    np.testing.assert_array_equal(kept, np.asarray(case['expected'], np.float64) == np.asarray(given['x'], np.float64))


def check_top_p(case):
    x = jnp.log(jnp.asarray(case['input']['probs'], jnp.float32))
    kept = np.asarray(sampling.keep_top_p(x, case['input']['p'])) > -1e8
    assert [np.flatnonzero(row).tolist() for row in kept] == case['expected']


def check_filtered(case):
    given = case['input']
    logits = jnp.asarray([[-1e7 if value == 'NEG_INF' else value for value in row] for row in given['logits']], jnp.float32)
    found = np.asarray(sampling.filtered(logits, DecodeConfig(temperature=given['temperature'], top_p=given['topp'])))[0]
    for ours, theirs in zip(found, case['expected'][0], strict=True):
        assert (ours < -1e6) if theirs == 'NEG_INF' else abs(ours - theirs) < 1e-6


def check_penalty(case):
    found = search.length_penalty(int(case['input']['length']), float(case['input']['alpha']), BeamScore.gnmt)
    assert float(found) == pytest.approx(case['expected'], abs=1e-5)


RESCALED = 'log-probabilities of the distribution after filters: ours are the model\'s own (the tokens are compared)'
SHAPES = 'shapes of theirs inside the search (beam dimensions, alignment of prompts): prompts here are one row each'
CHECKS = {
    'sample after a forced prefix': check_sample,
    'sample, no prefix': check_sample,
    'temperature 0 = greedy, large close logits': check_sample,
    'prefix containing EOS does not stop decoding': check_sample,
    'topk 1, log probs of the rescaled distribution': check_sample,
    'topk 1, log probs of the unscaled distribution': check_sample,
    'at most 4 steps after the prompt': check_sample,
    'hard step limit wins': check_sample,
    'steps limit with ragged prompts': check_sample,
    'two steps each': check_sample,
    'top-p below the largest probability is greedy': check_sample,
    'temperature applied before top-p': check_sample,
    'per-item temperature, top-p 0.63: greedy; EOS ends the last item': check_sample,
    'top-p and 10 steps': check_sample,
    'given the sampled token of every step, outputs stop at EOS and pad with 0': check_given_samples,
    'logits after temperature then top-p (masked = NEG_INF -1e7)': check_filtered,
    'beam search over a Markov chain (states PAD A B START END; EOS = 4)': check_markov,
    'beam search with forced prefix, alpha 0': check_beams,
    'beam search from the end of the prompt, alpha 0': check_beams,
    'as above, 2 steps': check_beams,
    'beam search, default alpha 0.6': check_beams,
    'beam search, 2 steps': check_beams,
    'brevity penalty ((5+length)/6)^alpha': check_penalty,
    'top-k mask (ties at the threshold are all kept)': check_top_k,
    'top-p mask: kept positions per row (ties kept; logits = log probabilities)': check_top_p,
    'greedy path (argmax each step, stop at EOS, pad 0)': check_greedy,
    'best finished sequences by log_prob / ((5+length)/6)^alpha, length counts EOS': check_exhaustive,
    'beam search output, ascending score': check_beam_search,
}
NOT_OURS = {
    'several decodes per input: sorted by ascending log prob per batch item': 'ours come best first: sorted and tested in t5x_lite.evaluation.generation',
    'beam search, min_log_prob -0.05': 'a least log-probability of an answer: there is no such field',
    'add beam dimension of 3': SHAPES,
    'flat batch x beam (2)': SHAPES,
    'right-align prompts, then left-align the result': SHAPES,
}


def test_the_reference_implementations():
    golden.hold('decoding', CHECKS, NOT_OURS, {RESCALED: 1})
