"""Counts against brute force, mixtures that are distributions, and a known source whose best cross-entropy is known too."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from t5x_lite.data import preparation, tokenizers
from t5x_lite.evaluation import baselines
from tests.data.fake_corpus import CLS, MASK, PAD, SEP, FakeCorpus

UNIFORM = 5  # first id that is not special


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    rng = np.random.default_rng(0)
    documents = [[rng.integers(5, 14, rng.integers(1, 6)).tolist() for _ in range(rng.integers(1, 5))] for _ in range(40)]
    corpus = FakeCorpus(tmp_path_factory.mktemp('small'), documents, vocab_size=14)
    corpus.unigram_counts = np.bincount(corpus.tokens(0, corpus.num_tokens), minlength=14)
    return corpus, documents


def _chain(words, seed=0):
    """A Markov chain with few likely successors of each word."""
    rng = np.random.default_rng(seed)
    step = rng.dirichlet(np.full(words, 0.15), words) * 0.95 + 0.05 / words
    start = np.full(words, 1 / words)
    for _ in range(200):
        start = start @ step
    return step, start


def test_contexts_are_unmasked_neighbours(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[5]]], vocab_size=14)
    tokenizer = tokenizers.load(corpus.tokenizer_path)
    batch = {
        'tokens': np.array([[CLS, MASK, 6, MASK, MASK, SEP, 7, 12, SEP, PAD]]),
        'sequence_ids': np.array([[1] * 9 + [0]]),
        'masked_positions': np.array([[1, 3, 4, 7, 0]]),
        'masked_targets': np.array([[5, 8, 9, 10, 0]]),
        'masked_weights': np.array([[1, 1, 1, 1, 0]], np.float32),
    }
    found = baselines.contexts_of([batch], tokenizer)
    assert found.left.tolist() == [14, 6, 8, 7]
    assert found.right.tolist() == [6, 9, 14, 14]
    assert found.targets.tolist() == [5, 8, 9, 10]
    assert len(baselines.contexts_of([batch] * 9, tokenizer, 6)) == 6


def test_unigram():
    score = baselines.unigram(np.array([3, 0, 5]), np.array([2, 2, 0, 1]))
    assert score.accuracy == 0.5
    assert score.cross_entropy == pytest.approx(-(2 * np.log(6 / 11) + np.log(4 / 11) + np.log(1 / 11)) / 4, abs=1e-12)


def test_counts_equal_brute_force(small):
    corpus, documents = small
    counts = baselines._Counts(baselines._Stream(corpus), 14)
    left, right, both = np.zeros((15, 14)), np.zeros((15, 14)), np.zeros((15, 15, 14))
    for document in documents:
        flat = [14, *(token for sentence in document for token in sentence), 14]
        for a, w, b in zip(flat, flat[1:], flat[2:], strict=False):
            left[a, w] += 1
            right[b, w] += 1
            both[a, b, w] += 1
        for before, after in zip(document, document[1:], strict=False):  # an end of a sentence is seen as a boundary too
            left[14, after[0]] += 1
            right[14, before[-1]] += 1
        place = 0
        for number, sentence in enumerate(document):
            padded = [14, *(token for sentence in document for token in sentence), 14]
            begin, end = place + 1, place + len(sentence)
            if number:
                both[14, padded[begin + 1], padded[begin]] += 1
            if number + 1 < len(document):
                both[padded[end - 1], 14, padded[end]] += 1
            place += len(sentence)
    for table, expected in ((counts.left, left), (counts.right, right)):
        np.testing.assert_array_equal(table.totals_of(np.arange(15)), expected.sum(1))
        dense, lower, discount = table.rows(np.arange(15), np.full(14, 1 / 14)), 1 / 14, table.discount
        total = expected.sum(1, keepdims=True)
        left_over = np.divide(discount * (expected > 0).sum(1, keepdims=True), total, out=np.ones_like(total), where=total > 0)
        held = np.divide(np.maximum(expected - discount, 0), total, out=np.zeros_like(expected), where=total > 0)
        np.testing.assert_allclose(dense, held + left_over * lower, rtol=1e-12)
    a, b = (part.ravel() for part in np.meshgrid(np.arange(15), np.arange(15), indexing='ij'))
    np.testing.assert_array_equal(counts.both.totals_of(counts.pair_id(a, b)), both.sum(2).ravel())


def test_every_part_and_model_is_a_distribution(small):
    corpus, _ = small
    two_sided = baselines.TwoSided(corpus)
    a, b = (part.ravel() for part in np.meshgrid(np.arange(15), np.arange(15), indexing='ij'))
    contexts = baselines.Contexts(a, b, np.full(len(a), 5))
    for part in two_sided._parts(contexts):
        np.testing.assert_allclose(part.sum(1), 1, rtol=1e-12)
        assert part.min() > 0
    for part, models in two_sided.distributions(contexts):
        assert set(models) == set(two_sided.MODELS) == {'linear', 'product'}
        for probabilities in models.values():
            assert probabilities.shape == (len(part), 14)
            np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)


def test_reaches_the_entropy_of_a_known_source(tmp_path):
    """Text from a Markov chain: p(w | left, right) ~ step[left, w] step[w, right] is the best that anything can do from all of the text."""
    words = 20
    step, start = _chain(words)
    rng = np.random.default_rng(1)
    draws = rng.random(60_000)
    token, stream = 0, []
    cumulative = step.cumsum(1)
    for draw in draws:
        token = min(int(np.searchsorted(cumulative[token], draw)), words - 1)
        stream.append(token + UNIFORM)
    documents = [[stream[i : i + 300]] for i in range(0, len(stream), 300)]
    train, held_out = documents[:180], documents[180:]
    corpus = FakeCorpus(tmp_path, train, vocab_size=words + UNIFORM)
    corpus.unigram_counts = np.bincount(corpus.tokens(0, corpus.num_tokens), minlength=words + UNIFORM)
    flat = np.array([token for document in held_out for token in document[0]])
    places = np.arange(1, len(flat) - 1)
    places = places[(places % 300 > 0) & (places % 300 < 299)]
    contexts = baselines.Contexts(flat[places - 1], flat[places + 1], flat[places])
    exact = step[contexts.left - UNIFORM] * step[:, contexts.right - UNIFORM].T
    exact /= exact.sum(1, keepdims=True)
    best = -np.log(exact[np.arange(len(contexts)), contexts.targets - UNIFORM]).mean()
    bayes = np.mean(exact.argmax(1) == contexts.targets - UNIFORM)
    scores = baselines.evaluate(corpus, contexts)
    assert list(scores)[0] == 'most frequent token, unigram' and len(scores) == 3
    strongest = list(scores.values())[-1]
    assert strongest.cross_entropy < best + 0.02
    assert strongest.accuracy > bayes - 0.02
    entropy = -(start * np.log(start)).sum()
    assert scores['most frequent token, unigram'].cross_entropy == pytest.approx(entropy, abs=0.05)
    assert best < entropy - 0.5


def test_weights_find_the_part_that_is_right():
    rng = np.random.default_rng(2)
    parts = np.stack([np.full(4000, 0.1), rng.uniform(0.3, 0.6, 4000), np.full(4000, 0.02)], 1)
    buckets = rng.integers(0, 3, 4000)
    parts[buckets == 1, 1] = 0.01
    weights = baselines._tune_weights(parts, buckets)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    assert weights[0, 1] > 0.9 and weights[2, 1] > 0.9 and weights[1, 0] > 0.9


def test_slices_are_whole_documents(small):
    corpus, documents = small
    stream = baselines._Stream(corpus)
    held_out = stream.slice(0.1, seed=3)
    kept, rest = stream.without(held_out), stream.tokens[held_out]
    assert 0.1 <= held_out.mean() < 0.2 and rest[-1] == 14
    ends = np.flatnonzero(stream.tokens == 14)
    for first, last in zip(ends[:-1] + 1, ends[1:], strict=True):
        assert len(set(held_out[first : last + 1].tolist())) == 1
    assert len(kept.sentence_starts) < len(stream.sentence_starts)
    begins = {tuple(sentence[:1]) for document in documents for sentence in document}
    assert all((token,) in begins for token in kept.tokens[kept.sentence_starts])


def test_command_prints_a_table(tmp_path):
    rng = np.random.default_rng(4)
    words = [f'{a}{b}' for a in ('ba', 'do', 'ki', 'lu') for b in ('m', 'n', 'r', 's')]
    (tmp_path / 'texts').mkdir()
    for number in range(8):
        lines = [' '.join(rng.choice(words, 6)) for _ in range(12)]
        (tmp_path / 'texts' / f'{number}.txt').write_text('\n'.join(lines))
    settings = preparation.Settings(
        input=(str(tmp_path / 'texts'),),
        output=str(tmp_path / 'prepared'),
        vocab_size=60,
        sentences='line',
        validation_fraction=0.25,
        workers=1,
    )
    preparation.prepare(settings, lambda line: None)
    command = [sys.executable, '-m', 'tests.benchmarks.mlm_baselines', f'--path={tmp_path}/prepared', '--seq_len=32']
    result = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).resolve().parents[2])
    assert result.returncode == 0, result.stderr
    for part in ('vocabulary', 'most frequent token, unigram', 'two-sided bigram, linear', 'two-sided bigram, product', 'strongest'):
        assert part in result.stdout
