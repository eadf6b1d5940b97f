"""UL2's mixture of denoisers."""

import collections

import numpy as np
import pytest

from t5x_lite.config import Config
from t5x_lite.data import random
from t5x_lite.data.denoisers import MixtureOfDenoisers
from t5x_lite.errors import UserError
from tests.data.pair_material import FIRST_SENTINEL, MODES, SENTINELS, configured, documented, epoch, make, place, segments, small_corpus, text_corpus

NLU, NLG, S2S = MODES
TWO = (('[NLU]', 2.0, 0.4, 1.0), ('[S2S]', 0.0, 0.5, 1.0))


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp('corpus'), 300, most_sentences=30)


def test_worked_example(tmp_path):
    examples = make(MixtureOfDenoisers, small_corpus(tmp_path), 'encoder_decoder', 10, most=8, seed=1, span__denoisers=TWO)
    documented(MixtureOfDenoisers.__doc__, examples.get([0, 1]))


def is_sentinel(token):
    return FIRST_SENTINEL - SENTINELS < token <= FIRST_SENTINEL


@pytest.mark.parametrize('layout', ['encoder_decoder', 'decoder'])
def test_every_denoiser_does_its_own(corpus, layout):
    """Drawn by rate; the text can be put together again; each with its density and spans."""
    found = segments(epoch(make(MixtureOfDenoisers, corpus, layout, 128)))
    counts, densities = collections.Counter(), collections.defaultdict(list)
    for inputs, targets in found:
        assert inputs[-1] == targets[-1] == 3
        mode, inputs, targets = inputs[0], inputs[1:-1], targets[:-1]
        counts[mode] += 1
        sentinels = [token for token in inputs if is_sentinel(token)]
        text = place([token for token in inputs + targets if not is_sentinel(token)])
        assert sorted(text) == list(range(text.min(), text.max() + 1))
        if mode == S2S:
            assert not sentinels and (np.diff(place(inputs + targets)) == 1).all()
        elif len(text) > 1:
            assert sentinels == [token for token in targets if is_sentinel(token)]
            parts = np.split(targets, np.flatnonzero([is_sentinel(token) for token in targets]))[1:]
            spans = {part[0]: part[1:].tolist() for part in parts}
            again = place([part for token in inputs for part in spans.get(token, [token])])
            assert (np.diff(again) == 1).all()
        if len(text) >= 40:
            densities[mode].append((len(targets) - len(sentinels)) / len(text))
    total = sum(counts.values())
    for mode, share in ((NLU, 2 / 7), (NLG, 4 / 7), (S2S, 1 / 7)):
        assert abs(counts[mode] - share * total) < 4.5 * np.sqrt(total * share * (1 - share))
    assert np.allclose(densities[NLU], 0.15, atol=0.02) and np.allclose(densities[S2S], 0.25, atol=0.02)
    near = np.array(densities[NLG])
    assert np.allclose(np.minimum(np.abs(near - 0.15), np.abs(near - 0.5)), 0, atol=0.02)


def test_rates(corpus):
    examples = make(MixtureOfDenoisers, corpus, 'encoder_decoder', 64, span__denoisers=(('', 3.0, 0.15, 3.0), ('', 3.0, 0.5, 1.0)))
    kinds = examples.kinds(random.bits(1, np.arange(20_000)))
    assert abs((kinds == 0).mean() - 0.75) < 0.015


def test_no_mode_token(corpus):
    examples = make(MixtureOfDenoisers, corpus, 'encoder_decoder', 64, span__denoisers=(('', 0.0, 0.25, 1.0),))
    for inputs, targets in segments(epoch(examples)):
        assert (np.diff(place(inputs[:-1] + targets[:-1])) == 1).all()


def test_rows_of_targets_hold_the_longest():
    config = configured('encoder_decoder', 512, span__denoisers=(('', 3.0, 0.15, 1.0),))
    assert MixtureOfDenoisers.predictions(config, 512) == 114
    most = MixtureOfDenoisers.predictions(configured('encoder_decoder', 512), 512)
    assert 500 < most <= 512 and MixtureOfDenoisers.predictions(configured('decoder', 512), 512) == 512


def test_inputs_are_full(corpus):
    batch = epoch(make(MixtureOfDenoisers, corpus, 'encoder_decoder', 64, concatenate=True))
    assert (batch['sequence_ids'] > 0).mean() > 0.97


@pytest.mark.parametrize('layout', ['encoder_decoder', 'decoder'])
def test_rows_of_more_spans_than_sentinels_hold_several_pieces(corpus, layout):
    examples = make(MixtureOfDenoisers, corpus, layout, 512, most=512, concatenate=True, span__denoisers=(('[NLG]', 1.5, 0.5, 1.0),))
    batch = epoch(examples)
    most = [sum(map(is_sentinel, targets)) for _, targets in segments(batch)]
    assert 50 < max(most) <= SENTINELS == 100, 'a row of one piece would need more than there are'
    assert (batch['sequence_ids'] > 0).mean() > 0.97


@pytest.mark.parametrize(
    ('denoisers', 'message'),
    [
        ((), 'config.data.span.denoisers is empty'),
        ((('[X]', 3.0, 0.15, 1.0),), r"config.data.span.denoisers: the mode token '\[X\]' is not in the vocabulary of"),
        ((('', 3.0, 0.15, 1.0), ('', 3.0, 1.5, 1.0)), r'config.data.span.denoisers\[1\]: the noise density is 1.5'),
        ((('', 0.0, 0.0, 1.0),), r'config.data.span.denoisers\[0\]: the noise density is 0.0'),
        ((('', 0.5, 0.1, 1.0),), r'config.data.span.denoisers\[0\]: the mean length of a span is 0.5'),
        ((('', 3.0, 0.15, 0.0),), r'config.data.span.denoisers\[0\]: the rate is 0.0; it must be above 0'),
    ],
)
def test_settings_out_of_range_are_refused(corpus, denoisers, message):
    with pytest.raises(UserError, match=message):
        make(MixtureOfDenoisers, corpus, 'encoder_decoder', 512, most=512, span__denoisers=denoisers)


def test_the_seven_of_the_paper_are_the_default():
    given = Config().data.span.denoisers
    assert len(given) == 7 and sum(mean == 0 for _, mean, _, _ in given) == 1
