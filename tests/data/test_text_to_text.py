"""Masked language modelling as text to text."""

import numpy as np
import pytest

from t5x_lite.data.objectives import PackedMlm
from t5x_lite.data.text_to_text import TextToTextMlm
from t5x_lite.errors import UserError
from tests.data.fake_corpus import MASK, FakeCorpus, same
from tests.data.pair_material import configured, documented, epoch, make, place, segments, small_corpus, text_corpus


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp('corpus'), 200)


def test_worked_examples(tmp_path):
    for layout in ('encoder_decoder', 'decoder'):
        examples = make(TextToTextMlm, small_corpus(tmp_path), layout, 8, seed=0, mlm__probability=0.4)
        documented(TextToTextMlm.__doc__, examples.get([0, 1]))


@pytest.mark.parametrize('layout', ['encoder_decoder', 'decoder', 'encoder'])
def test_the_whole_text_is_the_target(corpus, layout):
    source = TextToTextMlm if layout == 'encoder' else PackedMlm
    share = []
    for inputs, targets in segments(epoch(make(source, corpus, layout, 64, mlm__probability=0.3))):
        assert len(inputs) == len(targets) and inputs[-1] == targets[-1] == 3
        masked = np.array(inputs) == MASK
        assert (np.array(inputs)[~masked] == np.array(targets)[~masked]).all()
        assert masked.sum() == max(1, round(0.3 * (len(targets) - 1)))
        assert (np.diff(place(targets[:-1])) == 1).all()
        share += [np.flatnonzero(masked) / (len(targets) - 1)]
    assert abs(np.concatenate(share).mean() - 0.48) < 0.03


def test_packed_mlm_is_text_to_text_for_decoders(corpus):
    for layout in ('encoder_decoder', 'decoder'):
        ours, theirs = (make(source, corpus, layout, 64) for source in (PackedMlm, TextToTextMlm))
        assert type(ours) is TextToTextMlm and same(ours.get(np.arange(20)), theirs.get(np.arange(20)))
    assert type(make(PackedMlm, corpus, 'encoder', 64)) is PackedMlm


def test_predictions():
    assert [PackedMlm.predictions(configured(layout, 64), 64) for layout in ('encoder', 'auto', 'decoder', 'encoder_decoder')] == [10, 10, 64, 64]
    assert [TextToTextMlm.predictions(configured(layout, 64), 64) for layout in ('decoder', 'encoder_decoder')] == [64, 64]


def test_held_out_text_may_be_masked_at_another_rate(corpus):
    fields = {'mlm__probability': 0.4, 'mlm__validation_probability': 0.15}
    for split, expected in (('train', 0.4), ('validation', 0.15)):
        batch = epoch(make(TextToTextMlm, corpus, 'encoder_decoder', 64, split=split, **fields))
        assert abs((batch['tokens'] == MASK).sum() / (batch['targets'] > 4).sum() - expected) < 0.03


def test_a_sentinel_stands_in_for_mask(tmp_path):
    documents = [[[5, 6, 7, 8, 9]]] * 10
    corpus = FakeCorpus(tmp_path, documents, 12, pieces={4: 'w4', 11: '<extra_id_0>'})
    batch = epoch(make(TextToTextMlm, corpus, 'encoder_decoder', 16))
    assert (batch['tokens'] == 11).sum() == 10
    with pytest.raises(UserError, match='has no token that stands for a hidden one'):
        make(TextToTextMlm, FakeCorpus(tmp_path / 'other', documents, 12, pieces={4: 'w4'}), 'encoder_decoder', 16)
