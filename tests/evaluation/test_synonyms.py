"""Synonyms from a masked language model: those that it finds likeliest for each word where it stands."""

import re

import jax
import numpy as np
import pytest

from t5x_lite.data import tokenizers
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation import synonyms
from t5x_lite.interop import bases
from tests.commands.material import FIXTURES, PRETRAINED

TEXTS = ['the model, is (One)', '', 'a sentence of words 3 it-is next', 'x ' * 40]


@pytest.fixture(scope='module')
def weights():
    architecture, params, tokenizer = bases.Weights().initial(str(PRETRAINED))
    return architecture, params, tokenizers.load(tokenizer)


def test_the_likeliest_other_whole_words(weights):
    """Held against the logits of the model at all positions, the words looked up by hand."""
    architecture, params, tokenizer = weights
    said = []
    made = synonyms.find(TEXTS, architecture, params, tokenizer, 4, 'here', said.append)
    assert made.starts.tolist() == [0, 4, 4, 11, 51] and made.ids.shape == (51, 4)
    assert said[-1].startswith('synonyms from here: 3 of 3 texts')
    module = resolve(architecture.module)(architecture)
    allowed = [number for number in range(tokenizer.vocab_size) if re.fullmatch('[a-z]+', tokenizer.token(number))]
    assert sorted(made.vocabulary) == sorted(map(tokenizer.token, allowed))
    for text, places in ((0, {0: 'the', 1: 'model', 2: 'is', 3: 'one'}), (2, {0: 'a', 1: 'sentence', 2: 'of', 6: 'next'})):
        ids = [tokenizer.cls_id, *tokenizer.encode(TEXTS[text]), tokenizer.sep_id]
        batch = {'tokens': np.array([ids]), 'token_types': np.zeros((1, len(ids)), int), 'sequence_ids': np.ones((1, len(ids)), int)}
        logits = np.asarray(jax.jit(module.apply)({'params': params}, batch)['mlm_logits'])[0]
        for place, word in places.items():
            own = tokenizer.id(word)
            row = logits[ids.index(own)]
            best = sorted((number for number in allowed if number != own), key=lambda number: -row[number])[:4]
            assert made.vocabulary[made.ids[made.starts[text] + place]].tolist() == [tokenizer.token(number) for number in best]
    for place in (3, 4, 5):  # of several pieces, no letters, two words in one
        assert made.ids[made.starts[2] + place].tolist() == [-1] * 4
    assert (made.ids[made.starts[3] : made.starts[3] + 30] >= 0).all() and (made.ids[made.starts[3] + 30 :] == -1).all(), 'the model reads 32 positions'


def test_only_those_that_are_wanted(weights):
    made = synonyms.find(TEXTS, *weights, 4, 'here', lambda line: None, wanted={2})
    whole = synonyms.find(TEXTS, *weights, 4, 'here', lambda line: None)
    assert made.starts.tolist() == [0, 0, 0, 7, 7]
    np.testing.assert_array_equal(made.ids, whole.ids[4:11])


def test_a_model_without_such_a_head():
    architecture, params, tokenizer = bases.Weights().initial(str(FIXTURES / 'bert_encoder'))
    with pytest.raises(UserError, match=r'asks a masked language model, and runs/a \(bert_flax.bert:Bert\) has no such head'):
        synonyms.find(TEXTS, architecture, params, tokenizers.load(tokenizer), 4, 'runs/a')
