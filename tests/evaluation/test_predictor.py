"""Answers of texts that share rows are those of texts alone."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Activation, Config, DataConfig, LayerMix, Layout, ModelConfig, NormPlace, Pooling, Positions
from t5x_lite.data import packing, text_rows, tokenizers
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.models.heads import SequenceHead
from t5x_lite.training.step import dummy_batch
from tests.data.table_material import VOCAB, WORDS, vocabulary

BODIES = {
    'bert': ('bert_flax.bert:Bert', {}),
    'gpt': ('t5x_lite.models.language_model:Decoder', {'norm_place': NormPlace.pre, 'causal': True}),
    't5': ('t5x_lite.models.language_model:EncoderDecoder', {'positions': Positions.relative, 'norm_place': NormPlace.pre, 'activation': Activation.relu}),
}  # fmt: skip
CASES = {
    'bert': ('bert', {}), 'bert, mean': ('bert', {'pooling': Pooling.mean}), 'bert, last': ('bert', {'pooling': Pooling.last}),
    'bert, layers': ('bert', {'read_layers': (0, 2), 'layer_mix': LayerMix.weighted}), 'gpt': ('gpt', {}), 't5': ('t5', {}),
    'bert, prompt': ('bert', {'prompt': 3}),
    't5, unrolled': ('t5', {'scan_layers': False}),
}  # fmt: skip


@pytest.fixture
def words(tmp_path):
    return tokenizers.load(vocabulary(tmp_path))


def texts(count, longest, seed=0):
    draw = np.random.default_rng(seed)
    return [' '.join(draw.choice(WORDS, length)) for length in draw.integers(1, longest, count)]


def predictors(words, name, prompt=0, **fields):
    """(in batches, one after the other) with parameters that tell texts apart."""
    body, sizes = BODIES[name]
    model = ModelConfig(
        **{'vocab_size': len(VOCAB), 'num_layers': 2, 'd_model': 16, 'num_heads': 2, 'd_ff': 32, 'max_positions': 160, 'num_labels': 3} | sizes | fields,
        module='t5x_lite.models.heads:SequenceHead', body=body,
    )  # fmt: skip
    config = finalize(Config(model=model, data=DataConfig(seq_len=160, layout=Layout.encoder if name == 'bert' else Layout.decoder)))
    params = nn.unbox(SequenceHead(config.model).init(jax.random.key(0), dummy_batch()))['params']
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)
    if prompt:
        params['encoder']['prompt'] = jax.random.normal(jax.random.key(2), (prompt, 16))
    return Predictor(config, params, words, batch_size=8), Predictor(config, params, words, batch_size=1)


@pytest.mark.parametrize('case', CASES)
def test_texts_that_share_rows(case, words):
    name, fields = CASES[case]
    together, alone = predictors(words, name, **fields)
    asked = [(text,) for text in texts(24, 30) + texts(2, 158, 1)]
    found, wanted = list(together(asked)), list(alone(asked))
    assert [answer['text'] for answer in found] == [text for text, in asked]
    both = np.array([[answer['probabilities'][label] for label in '012'] for answer in (*found, *wanted)]).reshape(2, len(asked), 3)
    np.testing.assert_allclose(both[0], both[1], atol=1.5e-6)
    assert both[1].std(axis=0).min() > 0.005, 'which text it is says something'


def test_pairs_share_rows(words):
    together, alone = predictors(words, 'bert')
    asked = list(zip(texts(9, 20), texts(9, 20, 1), strict=True))
    for one, other in zip(together(asked), alone(asked), strict=True):
        assert one['label'] == other['label'] and one['probabilities'] == pytest.approx(other['probabilities'], abs=1.5e-6)


def test_a_body_that_reads_one_sequence_a_row_is_given_one(words, monkeypatch):
    monkeypatch.delattr('bert_flax.bert.Bert.packs')
    seen, alone = [], predictors(words, 'bert')[0]
    monkeypatch.setattr(text_rows.TextRows, 'packed', lambda *_: seen.append(1))
    assert len(list(alone([(text,) for text in texts(9, 20)]))) == 9 and not seen


def test_texts_in_shared_rows(words):
    rows = text_rows.rows_of([('the cat', 'a'), ('a', 'dog')], words, 8, Layout.encoder)
    the, cat, a, dog = (words.encode(word)[0] for word in 'the cat a dog'.split())
    found = rows.packed(packing.Rows(np.array([1, 0]), np.array([0, 2, 2])), 12)
    wanted = {
        'tokens': [[2, a, 3, dog, 3, 2, the, cat, 3, a, 3, 0], [0] * 12],
        'token_types': [[0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0], [0] * 12],
        'sequence_ids': [[1] * 5 + [2] * 6 + [0], [0] * 12],
        'positions': [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0], [0] * 12],
        'spans': [[[0, 5], [5, 11], [0, 0]], [[0, 0]] * 3],
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == np.int32
