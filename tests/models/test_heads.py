"""Heads on every body: where parameters lie, what a summary reads, what a conditional random field changes."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.config import Layout, ModelConfig, Pooling
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.models import heads
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.heads import ChoiceHead, SequenceHead, SpanHead, TokenHead
from t5x_lite.training import paths
from t5x_lite.training.step import dummy_batch
from tests.models.test_language_model import GPT2, T5

BERT = ModelConfig(
    vocab_size=50, num_layers=2, d_model=32, num_heads=4, d_ff=64, max_positions=32, dropout=0.0, attention_dropout=0.0, body='bert_flax.bert:Bert'
)  # fmt: skip
GPT = dataclasses.replace(GPT2, body='t5x_lite.models.language_model:Decoder')
T5 = dataclasses.replace(T5, body='t5x_lite.models.language_model:EncoderDecoder')
BODIES = {'bert': BERT, 'gpt': GPT, 't5': T5}
PRETRAINED = {
    'bert': 'bert_flax.bert:BertForPreTraining', 'gpt': 't5x_lite.models.language_model:Decoder', 't5': 't5x_lite.models.language_model:EncoderDecoder',
}  # fmt: skip
LAYOUTS = {'bert': Layout.encoder, 'gpt': Layout.decoder, 't5': Layout.encoder_decoder}


def with_labels(name, labels=5, **fields):
    return dataclasses.replace(BODIES[name], num_labels=labels, **fields)


def made(module):
    return jax.jit(lambda: module.init(jax.random.key(0), dummy_batch())['params'])()


def outputs_of(module, params, rows):
    return jax.tree.map(np.asarray, jax.jit(lambda params, rows: module.apply({'params': params}, rows))(params, rows))


def batch(rows=3, length=8, seed=0):
    rng = np.random.default_rng(seed)
    real = np.array([length, length - 3, 2])[:rows, None]
    ids = (np.arange(length)[None] < real).astype(np.int32)
    return {'tokens': rng.integers(1, 50, (rows, length), dtype=np.int32) * ids, 'token_types': np.zeros((rows, length), np.int32), 'sequence_ids': ids}


@pytest.mark.parametrize('head', [SequenceHead, TokenHead])
@pytest.mark.parametrize('name', BODIES)
def test_a_heads_parameters_lie_where_pretraining_put_them(name, head):
    """By path and shape: nothing but the head itself, and for classes BERT's pooler, may be missing in the weights it starts from."""
    config = with_labels(name)
    pretrained = paths.leaves(jax.eval_shape(lambda: made(resolve(PRETRAINED[name])(config))))
    ours = paths.leaves(jax.eval_shape(lambda: made(head(config))))
    new = {path for path in ours if path not in pretrained}
    assert {path.removesuffix('/value') for path in new} == {'classifier/kernel', 'classifier/bias'}
    assert all(ours[path].shape == pretrained[path].shape for path in ours.keys() - new)
    assert head.layout_of(config) == LAYOUTS[name]
    assert not {path for path in ours if path.startswith('decoder')} or name == 'gpt', "an encoder-decoder's decoder is not built"
    assert any('pooler' in path for path in ours) == (name == 'bert' and head is SequenceHead)


@pytest.mark.parametrize('name', BODIES)
def test_a_model_says_its_body(name):
    config = dataclasses.replace(BODIES[name], body='', module=PRETRAINED[name])
    assert heads.body_of(config) == BODIES[name].body
    assert heads.body_of(dataclasses.replace(BODIES[name], module='t5x_lite.models.heads:TokenHead')) == BODIES[name].body
    assert heads.body_of(dataclasses.replace(config, module='bert_flax.bert:BertForClassification')) == 'bert_flax.bert:Bert'


def test_a_head_without_a_body_is_refused():
    with pytest.raises(UserError, match='config.model.body is empty'):
        SequenceHead.layout_of(ModelConfig())
    with pytest.raises(UserError, match="config.model.body 't5x_lite.models.layers:Einsum': Einsum cannot stand there, it has no method 'states'"):
        SequenceHead.layout_of(ModelConfig(body='t5x_lite.models.layers:Einsum'))


def test_fields_of_other_heads_are_refused():
    with pytest.raises(UserError, match='config.model.crf scores the tags of tokens together, and SequenceHead has none'):
        SequenceHead.layout_of(with_labels('bert', crf=True))
    with pytest.raises(UserError, match='config.model.pooling=mean is of heads over a whole sequence, not of TokenHead'):
        TokenHead.layout_of(with_labels('gpt', pooling=Pooling.mean))


def test_pooling_by_hand():
    hidden = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    real = np.array([[1, 1, 0], [1, 1, 1]], bool)
    np.testing.assert_array_equal(heads.pool(hidden, real, Pooling.cls), [[0, 1], [6, 7]])
    np.testing.assert_array_equal(heads.pool(hidden, real, Pooling.last), [[2, 3], [10, 11]])
    np.testing.assert_array_equal(heads.pool(hidden, real, Pooling.mean), [[1, 2], [8, 9]])
    np.testing.assert_array_equal(heads.pool(hidden, np.zeros((2, 3), bool), Pooling.mean), np.zeros((2, 2)))


@pytest.mark.parametrize('pooling', list(Pooling))
@pytest.mark.parametrize('name', BODIES)
def test_padding_changes_no_answer(name, pooling):
    module = SequenceHead(with_labels(name, pooling=pooling))
    params, short = made(module), batch()
    long = {key: np.pad(value, [(0, 0), (0, 5)]) for key, value in short.items()}
    ours, padded = (outputs_of(module, params, rows)['logits'] for rows in (short, long))
    np.testing.assert_allclose(ours, padded, atol=1e-5)
    changed = short | {'tokens': short['tokens'] + (np.arange(8)[None] == 1).astype(np.int32)}
    moved = outputs_of(module, params, changed)['logits']
    assert np.abs(moved - ours).max() > 1e-6 or (name, pooling) == ('gpt', Pooling.cls), 'a decoder sees nothing to the right of its first token'


def choices(rows=2, number=3):
    """Rows of a batch as choices [rows, number, L]: the last of the second row is none."""
    flat = [batch(3, seed=seed) for seed in range(rows)]
    found = {name: np.stack([one[name][:number] for one in flat]) for name in flat[0]}
    for values in found.values():
        values[1, number - 1] = 0
    return found


@pytest.mark.parametrize('name', BODIES)
def test_choices_are_scored_each_by_itself(name):
    """A choice has the logit that a sequence head with the same weights gives it alone, whatever stands beside it; one without tokens has none."""
    head, alone = ChoiceHead(BODIES[name]), SequenceHead(with_labels(name, labels=1))
    params, rows = made(head), choices()
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, made(alone)), 'parameters lie where a sequence head has them'
    logits = outputs_of(head, params, rows)['logits']
    assert logits.shape == (2, 3) and logits.dtype == np.float32 and logits[1, 2] < -1e8
    flat = {key: value.reshape(6, 8)[:5] for key, value in rows.items()}
    np.testing.assert_allclose(logits.reshape(6)[:5], outputs_of(alone, params, flat)['logits'][:, 0], atol=1e-5)
    turned = outputs_of(head, params, {key: value[:, ::-1] for key, value in rows.items()})['logits']
    np.testing.assert_allclose(turned[:, ::-1], logits, atol=1e-5)


def test_choices_drop_out_apart_and_give_finite_gradients():
    head = ChoiceHead(dataclasses.replace(BERT, dropout=0.5))
    params, rows = made(head), choices()
    rows['tokens'][0] = rows['tokens'][0][:1]
    rows['sequence_ids'][0] = 1

    def loss(params):
        logits = head.apply({'params': params}, rows, dropout=DropoutKey.create(0, np.int32(3), np.arange(2)))['logits']
        return jax.nn.logsumexp(logits, axis=1).sum() - logits[:, 0].sum(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert len(set(np.asarray(logits[0]).tolist())) == 3, 'equal choices, each with a mask of its own'
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize('crf', [False, True])
@pytest.mark.parametrize('name', BODIES)
def test_tokens_have_tags_probabilities_and_a_likelihood(name, crf):
    config = with_labels(name, labels=4, crf=crf)
    module = TokenHead(config)
    params = made(module)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), params)
    rows = batch()
    rows |= {'tagged': rows['sequence_ids'] * (np.arange(8)[None] % 3 != 1), 'labels': rng.integers(0, 4, (3, 8), dtype=np.int32)}
    outputs = outputs_of(module, params, rows)
    tagged = rows['tagged'] > 0
    np.testing.assert_allclose(outputs['probabilities'].sum(-1)[tagged], 1, atol=1e-5)
    assert outputs['tags'].dtype == np.int32 and (outputs['log_likelihood'] < 0).all()
    best = outputs_of(module, params, rows | {'labels': np.where(tagged, np.asarray(outputs['tags']), -1)})
    assert (best['log_likelihood'] >= outputs['log_likelihood']).all(), 'no tags are likelier than the best'
    ignored = outputs_of(module, params, rows | {'labels': np.where(tagged, rows['labels'], -1)})
    np.testing.assert_array_equal(ignored['log_likelihood'], outputs['log_likelihood'])
    assert 'log_likelihood' not in outputs_of(module, params, batch())


@pytest.mark.parametrize('name', BODIES)
def test_spans_never_lie_in_padding(name):
    module = SpanHead(BODIES[name])
    params, rows = made(module), batch()
    outputs = outputs_of(module, params, rows)
    assert 'span' in params and 'classifier' not in params
    for logits in (outputs['start_logits'], outputs['end_logits']):
        assert logits.shape == (3, 8) and (logits[rows['sequence_ids'] == 0] < -1e8).all() and (np.abs(logits[rows['sequence_ids'] == 1]) < 100).all()
    assert not np.array_equal(outputs['start_logits'], outputs['end_logits'])


def test_a_field_whose_scores_are_zero_is_a_softmax():
    plain, field = (TokenHead(with_labels('bert', labels=4, crf=crf)) for crf in (False, True))
    params = made(field)
    rows = batch() | {'labels': np.ones((3, 8), np.int32)}
    one, other = (outputs_of(module, params, rows) for module in (plain, field))
    real = rows['sequence_ids'] > 0
    np.testing.assert_allclose(one['log_likelihood'], other['log_likelihood'], atol=1e-4)
    np.testing.assert_array_equal(one['tags'][real], other['tags'][real])
    np.testing.assert_allclose(one['probabilities'][real], other['probabilities'][real], atol=1e-5)
