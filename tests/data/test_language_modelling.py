"""Language models: causal and prefix."""

import numpy as np
import pytest

from t5x_lite.data import random
from t5x_lite.data.language_modelling import CausalLm, PrefixLm
from t5x_lite.errors import UserError
from tests.data.pair_material import configured, documented, epoch, make, place, segments, small_corpus, text_corpus


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp('corpus'), 200)


def test_worked_examples(tmp_path):
    corpus = small_corpus(tmp_path)
    documented(CausalLm.__doc__, make(CausalLm, corpus, 'decoder', 8, seed=0).get([0, 1]))
    documented(CausalLm.__doc__, make(CausalLm, corpus, 'decoder', 5, seed=0, concatenate=True).get([0, 1]))
    for layout in ('decoder', 'encoder_decoder'):
        documented(PrefixLm.__doc__, make(PrefixLm, corpus, layout, 8, seed=4).get([0, 1]))


def test_rows_of_a_stream_are_full(corpus):
    examples = make(CausalLm, corpus, 'decoder', 40, concatenate=True)
    starts = []
    for number in range(3):
        batch = epoch(examples, number)
        assert (batch['sequence_ids'] == 1).all() and (batch['target_weights'] == 1).all()
        assert (batch['positions'] == np.arange(40)).all()
        assert len(batch['tokens']) == -(-(corpus.num_tokens + corpus.num_documents) // 40) == len(examples)
        for row in place(batch['targets']):
            assert np.isin(np.diff(row[row >= 0]), [1, 1 - corpus.num_tokens]).all(), 'text in the order of the corpus'
        starts.append(examples._plan_of(number).start[0])
    assert len(set(starts)) == 3, 'each epoch begins elsewhere'


def test_one_document_is_enough(tmp_path):
    corpus = text_corpus(tmp_path, 1, seed=3, most_sentences=60)
    assert corpus.num_documents == 1
    examples = make(CausalLm, corpus, 'decoder', 16, concatenate=True)
    firsts = {tuple(examples.get([index])['targets'][0].tolist()) for index in range(20 * len(examples))}
    assert len(firsts) > 10 * len(examples), 'rows begin at other places in each epoch'


def test_rows_hold_as_much_as_they_can(corpus):
    batch = epoch(make(CausalLm, corpus, 'decoder', 64))
    assert (batch['sequence_ids'] > 0).mean() > 0.98
    batch = epoch(make(PrefixLm, corpus, 'encoder_decoder', 64))
    assert sum((batch[name] > 0).sum() for name in ('sequence_ids', 'decoder_sequence_ids')) / (2 * batch['tokens'].size) > 0.93  # of documents far shorter than rows


@pytest.mark.parametrize('layout', ['decoder', 'encoder_decoder'])
@pytest.mark.parametrize('fraction', [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5)])
def test_prefixes_are_drawn_from_their_range(corpus, layout, fraction):
    found = segments(epoch(make(PrefixLm, corpus, layout, 64, lm__prefix_fraction=fraction)))
    shares = []
    for inputs, targets in found:
        text = place(inputs + targets[:-1])
        assert len(inputs) >= 1 and targets[-1] == 3 and (np.diff(text) == 1).all()
        if len(text) > 1:
            assert len(targets) > 1 and (fraction[0] <= len(inputs) / len(text) <= fraction[1] or len(text) % 2)
        if len(text) >= 30:
            shares.append(len(inputs) / len(text))
    assert len(shares) > 100
    low, high = fraction
    assert abs(np.mean(shares) - (low + high) / 2) < 0.05
    counts, _ = np.histogram(shares, bins=4, range=(low, high + 1e-9))
    if low < high:
        assert counts.min() > 0.15 * len(shares), 'uniform'


def test_neighbours_read_what_the_other_predicts(corpus):
    """Which is what lets rows of an encoder-decoder be full on both sides."""
    examples = make(PrefixLm, corpus, 'encoder_decoder', 64)
    keys = examples._keys_of_plan(random.key(1), np.arange(7))
    assert (keys[1::2] == ~keys[0:6:2]).all()
    inputs, _ = examples._lengths(np.full(7, 1001), keys)
    assert np.abs(inputs[1::2] + inputs[0:6:2] - 1001).max() <= 1


def test_short_rows_of_targets_hold_what_they_are_given(corpus):
    batch = epoch(make(PrefixLm, corpus, 'encoder_decoder', 64, most=20))
    assert batch['targets'].shape[1] == 20 and len(segments(batch)) > 200


def test_predictions():
    for source in (CausalLm, PrefixLm):
        for layout in ('decoder', 'encoder', 'encoder_decoder'):
            if (source, layout) != (CausalLm, 'encoder_decoder'):
                assert source.predictions(configured(layout, 64), 64) == 64


@pytest.mark.parametrize('fraction', [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.5)])
def test_a_range_that_is_none_is_refused(corpus, fraction):
    with pytest.raises(UserError, match=r'config.data.lm.prefix_fraction is \(.*\); give \(lowest, highest\)'):
        make(PrefixLm, corpus, 'decoder', 64, lm__prefix_fraction=fraction)
