"""The conditional random field against the enumeration of all tags, and what masks, packing and constraints must not change."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.data import tokenizers
from t5x_lite.data.tags import SCHEMES, START, STOP, TagSet, spans
from t5x_lite.data.word_pieces import IGNORED, WordCutter, labels, word_tags
from t5x_lite.evaluation import metrics_tags
from t5x_lite.models import crf
from t5x_lite.models.crf import Scores

TAGS = 3


def random_scores(seed=0, tags=TAGS) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((tags, tags), (tags,), (tags,))))


def random_emissions(length, batch=1, seed=1, tags=TAGS):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, length, tags)) * 2, jnp.float32)


def score_by_hand(emissions_LT, tags, scores):
    """s(tags) of one whole sentence, from the formula."""
    total = scores.start_T[tags[0]] + scores.end_T[tags[-1]]
    for place, tag in enumerate(tags):
        total += emissions_LT[place, tag]
    for before, tag in itertools.pairwise(tags):
        total += scores.transitions_TT[before, tag]
    return total


def enumerated(emissions_LT, scores):
    """All tags of one sentence and their scores, float64."""
    emissions, scores = np.asarray(emissions_LT, np.float64), Scores(*(np.asarray(part, np.float64) for part in scores))
    every = list(itertools.product(range(emissions.shape[1]), repeat=len(emissions)))
    return np.array(every), np.array([score_by_hand(emissions, tags, scores) for tags in every])


def log_sum(values):
    return np.log(np.sum(np.exp(values - values.max()))) + values.max()


@jax.jit
def everything(emissions, tags, mask, scores, segments=None):
    decoded, best = crf.viterbi(emissions, mask, scores, segments)
    return {
        'partition': crf.log_partition(emissions, mask, scores, segments),
        'score': crf.score(emissions, tags, mask, scores, segments),
        'likelihood': crf.log_likelihood(emissions, tags, mask, scores, segments),
        'best': best,
        'decoded': decoded,
        'marginals': crf.marginals(emissions, mask, scores, segments),
    }


@pytest.mark.parametrize('length', [1, 2, 5])
def test_equals_enumeration(length):
    scores, emissions = random_scores(), random_emissions(length)
    mask = jnp.ones((1, length), bool)
    every, values = enumerated(emissions[0], scores)
    for place in (0, len(every) // 2, len(every) - 1):
        found = everything(emissions, jnp.asarray(every[place], jnp.int32)[None], mask, scores)
        np.testing.assert_allclose(found['score'][0], values[place], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found['likelihood'][0], values[place] - log_sum(values), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found['partition'][0], log_sum(values), rtol=1e-5)
    np.testing.assert_array_equal(found['decoded'][0], every[values.argmax()])
    np.testing.assert_allclose(found['best'][0], values.max(), rtol=1e-5)
    share = np.exp(values - log_sum(values))
    wanted = np.array([[share[every[:, place] == tag].sum() for tag in range(TAGS)] for place in range(length)])
    np.testing.assert_allclose(found['marginals'][0], wanted, atol=1e-6)


def test_many_random_sentences_decode_as_enumeration_says():
    scores, emissions = random_scores(5), random_emissions(4, batch=40)
    tags, best = jax.jit(crf.viterbi)(emissions, jnp.ones((40, 4), bool), scores)
    for row in range(40):
        every, values = enumerated(emissions[row], scores)
        np.testing.assert_array_equal(tags[row], every[values.argmax()])
        np.testing.assert_allclose(best[row], values.max(), rtol=1e-5)


def test_gradients_are_those_of_the_formula():
    emissions, tags, mask = random_emissions(3), jnp.asarray([[2, 0, 1]], jnp.int32), jnp.ones((1, 3), bool)

    def by_enumeration(emissions, scores):
        values = jnp.stack([score_by_hand(emissions[0], some, scores) for some in itertools.product(range(TAGS), repeat=3)])
        return jax.nn.logsumexp(values) - score_by_hand(emissions[0], (2, 0, 1), scores)

    ours = jax.jit(jax.grad(lambda *args: crf.loss(args[0], tags, mask, args[1])[0], argnums=(0, 1)))(emissions, random_scores())
    theirs = jax.jit(jax.grad(by_enumeration, argnums=(0, 1)))(emissions, random_scores())
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def ragged(lengths=(4, 1, 3)):
    """Sentences alone: (emissions [1, n, T], tags [1, n])."""
    rng = np.random.default_rng(3)
    return [(random_emissions(n, seed=n + 10), jnp.asarray(rng.integers(0, TAGS, (1, n)), jnp.int32)) for n in lengths]


def test_positions_between_words_padding_and_empty_rows_change_nothing():
    scores, parts = random_scores(), ragged()
    places = ([1, 2, 5, 7], [6], [0, 3, 4])  # of words in rows of 9; a fourth row has none
    emissions, tags, mask = np.full((4, 9, TAGS), 77.0, np.float32), np.full((4, 9), -1, np.int32), np.zeros((4, 9), bool)
    for row, (at, (some, given)) in enumerate(zip(places, parts, strict=True)):
        emissions[row, at], tags[row, at], mask[row, at] = some[0], given[0], True
    found = everything(*map(jnp.asarray, (emissions, tags, mask)), scores)
    for row, (at, (some, given)) in enumerate(zip(places, parts, strict=True)):
        alone = everything(some, given, jnp.ones(given.shape, bool), scores)
        for name in ('likelihood', 'best'):
            np.testing.assert_allclose(found[name][row], alone[name][0], rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(found['decoded'][row, np.array(at)], alone['decoded'][0])
        np.testing.assert_allclose(found['marginals'][row, np.array(at)], alone['marginals'][0], atol=1e-6)
    assert not np.asarray(found['decoded'])[~mask].any() and not np.asarray(found['marginals'])[~mask].any()
    assert found['likelihood'][3] == found['best'][3] == 0
    total, weight = jax.jit(crf.loss)(*map(jnp.asarray, (emissions, tags, mask)), scores)
    np.testing.assert_allclose(total, -found['likelihood'].sum(), rtol=1e-6)
    assert weight == 3


def test_packed_sentences_are_those_alone():
    scores, parts = random_scores(), ragged()
    mask = jnp.asarray([[True] * 4 + [False] + [True] * 4 + [False]])
    segments = jnp.asarray([[1, 1, 1, 1, 1, 2, 3, 3, 3, 0]], jnp.int32)
    gap = (jnp.full((1, 1, TAGS), 5, jnp.float32), jnp.full((1, 1), -1, jnp.int32))
    ordered = [parts[0], gap, parts[1], parts[2], gap]
    emissions, tags = (jnp.concatenate([part[side] for part in ordered], axis=1) for side in (0, 1))
    found = everything(emissions, tags, mask, scores, segments)
    alone = [everything(*part, jnp.ones(part[1].shape, bool), scores) for part in parts]
    for name in ('likelihood', 'best'):
        np.testing.assert_allclose(found[name][0], sum(one[name][0] for one in alone), rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found['decoded'][0][mask[0]], jnp.concatenate([one['decoded'][0] for one in alone]))
    np.testing.assert_allclose(found['marginals'][0][mask[0]], jnp.concatenate([one['marginals'][0] for one in alone]), atol=1e-6)
    assert crf.loss(emissions, tags, mask, scores, segments)[1] == crf.sentences(mask, segments) == 3


def test_a_packed_sentence_ends_as_if_nothing_followed():
    scores, emissions = random_scores(), random_emissions(4, batch=50)
    viterbi = jax.jit(crf.viterbi)
    packed, best = viterbi(emissions, jnp.ones((50, 4), bool), scores, jnp.tile(jnp.asarray([[0, 0, 1, 1]], jnp.int32), (50, 1)))
    alone, each = viterbi(emissions.reshape(100, 2, TAGS), jnp.ones((100, 2), bool), scores)
    np.testing.assert_array_equal(packed.reshape(100, 2), alone)
    np.testing.assert_allclose(best, each.reshape(50, 2).sum(axis=1), rtol=1e-5)
    assert (np.asarray(packed) != np.asarray(viterbi(emissions, jnp.ones((50, 4), bool), scores)[0])).any()


def test_without_scores_of_its_own_it_is_a_softmax():
    module = crf.Crf(TAGS)
    scores = module.apply(module.init(jax.random.key(0)))
    assert [part.shape for part in scores] == [(TAGS, TAGS), (TAGS,), (TAGS,)]
    emissions = random_emissions(4)
    tags = jnp.argmax(emissions, axis=-1).astype(jnp.int32)
    found = everything(emissions, tags, jnp.ones((1, 4), bool), scores)
    np.testing.assert_allclose(found['marginals'], jax.nn.softmax(emissions), atol=1e-6)
    np.testing.assert_array_equal(found['decoded'], tags)
    np.testing.assert_allclose(found['likelihood'][0], jnp.max(jax.nn.log_softmax(emissions), axis=-1).sum(), rtol=1e-5)


@pytest.mark.parametrize('scheme', ['IOB1', 'IOB2', 'BIOES'])
def test_constraints_leave_legal_sentences_alone(scheme):
    tag_set = TagSet.of([('', [f'B-{kind}' for kind in 'XY'[: 1 + (scheme != 'BIOES')]])], SCHEMES[scheme])
    tags, length = len(tag_set.names), 4
    scores, emissions = random_scores(tags=tags), random_emissions(length, tags=tags) * 5
    mask, bound = jnp.ones((1, length), bool), crf.constrained(scores, tag_set.transitions)
    every, values = enumerated(emissions[0], scores)
    legal = [all(itertools.starmap(tag_set.scheme.follows, itertools.pairwise([START, *tag_set.tags(some), STOP]))) for some in every]
    assert 0 < sum(legal) < len(legal)
    values = np.where(legal, values, -np.inf)
    gold = jnp.asarray(every[values.argmax()], jnp.int32)[None]
    found = everything(emissions, gold, mask, bound)
    np.testing.assert_allclose(found['partition'][0], log_sum(values), rtol=1e-5)
    np.testing.assert_array_equal(found['decoded'], gold)
    np.testing.assert_allclose(found['best'][0], values.max(), rtol=1e-5)
    share = np.exp(values - log_sum(values))
    wanted = np.array([[share[every[:, place] == tag].sum() for tag in range(tags)] for place in range(length)])
    np.testing.assert_allclose(found['marginals'][0], wanted, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda e, s: crf.loss(e, gold, mask, crf.constrained(s, tag_set.transitions))[0], argnums=(0, 1)))(emissions, scores)
    assert all(np.isfinite(part).all() for part in jax.tree.leaves(gradient))
    # What is illegal is not learnt either.
    assert not np.asarray(gradient[1].transitions_TT)[~tag_set.transitions[:tags, :tags]].any()


def test_gradients_are_finite_where_scores_are_large_or_nothing_counts():
    emissions, scores = random_emissions(300, batch=2) * 100, Scores(*(part * 50 for part in random_scores()))
    mask = jnp.asarray(np.array([[True] * 300, [False] * 300]))
    tags = jnp.zeros((2, 300), jnp.int32)
    value, gradient = jax.jit(jax.value_and_grad(lambda e, s: crf.loss(e, tags, mask, s)[0], argnums=(0, 1)))(emissions, scores)
    assert np.isfinite(value) and all(np.isfinite(part).all() for part in jax.tree.leaves(gradient))
    assert not np.asarray(gradient[0][1]).any()
    half = everything(emissions[:, :4].astype(jnp.bfloat16), tags[:, :4], mask[:, :4], scores)
    assert half['likelihood'].dtype == half['marginals'].dtype == jnp.float32


def test_a_wrong_matrix_is_said():
    with pytest.raises(ValueError, match=r'legal is \(3, 3\); expected \(5, 5\)'):
        crf.constrained(random_scores(), np.ones((3, 3), bool))


@pytest.mark.parametrize('every', [False, True])
def test_from_words_to_score(every):
    """Words, pieces, labels, loss, decoding, words, entities: the parts fit, and what a network is not sure of is decoded as the scheme allows."""
    tokenizer = tokenizers.wordpiece({piece: index for index, piece in enumerate(['[UNK]', '[CLS]', '[SEP]', 'ann', 'lee', '##hy', 'in'])}, lowercase=True)
    words = ['Ann', 'Leehy', '\x01', 'in', 'Leehy']
    gold = ['B-PER', 'E-PER', 'O', 'O', 'S-LOC']
    row = WordCutter(tokenizer, 16, [1], [2]).cut([('f:1', words)])[0]
    tag_set = TagSet.of([('f:1', gold)], SCHEMES['BIOES'])
    given = labels(row, gold, tag_set, every, 'f:1')
    mask = jnp.asarray(given != IGNORED)[None]
    emissions = jax.nn.one_hot(jnp.asarray(given), len(tag_set.names))[None] * 4
    # At 'Ann' a place is a little likelier than a person, which 'E-PER' after it does not allow.
    emissions = emissions.at[0, 1, tag_set.names.index('B-LOC')].set(4.1)
    scores = Scores(*map(jnp.zeros_like, random_scores(tags=len(tag_set.names))))
    bound = crf.constrained(scores, tag_set.transitions)
    loss = jax.jit(crf.loss)
    total, weight = loss(emissions, jnp.asarray(given)[None], mask, bound)
    assert 0 < total < loss(emissions * 0, jnp.asarray(given)[None], mask, bound)[0] and weight == 1
    viterbi = jax.jit(crf.viterbi)

    def decoded(scores):
        return word_tags(row, np.asarray(viterbi(emissions, mask, scores)[0][0]), tag_set, 'O', every)

    assert decoded(bound) == gold != decoded(scores)
    assert metrics_tags.entities([spans(gold)], [spans(decoded(bound))])['f1'] == 1
