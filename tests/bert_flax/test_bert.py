"""Counts at full size, and properties of the module."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_flax.bert import Bert, BertForClassification, BertForMaskedLm, BertForPreTraining
from bert_flax.losses import MlmLoss
from configs.bert import get_config
from t5x_lite.config import Config, ModelConfig
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.training.losses import cross_entropy, divide
from t5x_lite.training.step import dummy_batch
from tests.training import small

# google-research/bert's published models, encoder with pooler; base with both heads.
ENCODERS = {'tiny': 4_385_920, 'mini': 11_170_560, 'small': 28_763_648, 'medium': 41_373_184, 'base': 109_482_240, 'large': 335_141_888}


def abstract(module):
    return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), dummy_batch()))['params']


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('variant', ENCODERS)
def test_parameter_counts(variant):
    model = dataclasses.replace(get_config(variant).model, vocab_size=30522, vocab_multiple=1)
    params = abstract(BertForPreTraining(model))
    assert count(params['encoder']) == ENCODERS[variant]
    if variant == 'base':
        assert count(params) == 110_106_428


@pytest.fixture(scope='module')
def model():
    return small.config(model={'dropout': 0.0, 'attention_dropout': 0.0}).model


def init(module, batch):
    return nn.unbox(module.init(jax.random.key(0), batch))['params']


def sequences(lengths, seed=0):
    """Rows [CLS] ... of these lengths, one a row and packed into one row, with the same masks."""
    rng = np.random.default_rng(seed)
    width = max(lengths)
    alone = {name: np.zeros((len(lengths), width), np.int32) for name in ('tokens', 'token_types', 'sequence_ids')}
    alone |= {name: np.zeros((len(lengths), 2), np.int32) for name in ('masked_positions', 'masked_targets')}
    packed = {name: [] for name in ('tokens', 'sequence_ids', 'positions', 'masked_positions', 'masked_targets')}
    start = 0
    for row, length in enumerate(lengths):
        tokens = rng.integers(1, small.VOCAB, length)
        masked, targets = rng.choice(length, 2, replace=False), rng.integers(1, small.VOCAB, 2)
        alone['tokens'][row, :length], alone['sequence_ids'][row, :length] = tokens, 1
        alone['masked_positions'][row], alone['masked_targets'][row] = masked, targets
        packed['tokens'] += tokens.tolist()
        packed['sequence_ids'] += [row + 1] * length
        packed['positions'] += range(length)
        packed['masked_positions'] += (masked + start).tolist()
        packed['masked_targets'] += targets.tolist()
        start += length
    pad = small.LENGTH - start
    packed = {name: np.array([values + [0] * (pad if 'masked' not in name else 0)], np.int32) for name, values in packed.items()}
    packed['token_types'] = np.zeros_like(packed['tokens'])
    for batch in (alone, packed):
        batch['masked_weights'] = np.ones(batch['masked_positions'].shape, np.float32)
    return alone, packed


def test_packed_equals_unpacked_in_losses_and_gradients(model):
    alone, packed = sequences([6, 4, 5])
    module, loss = BertForMaskedLm(model), MlmLoss(Config())
    params = init(module, alone)

    def mean(params, batch):
        outputs = module.apply({'params': params}, batch)
        total, _ = loss(outputs, batch)
        return divide(total['mlm_loss'], loss.weights(batch)['mlm_loss']), cross_entropy(outputs['mlm_logits'], batch['masked_targets'])

    (one, losses), gradients = jax.value_and_grad(mean, has_aux=True)(params, alone)
    (two, packed_losses), packed_gradients = jax.value_and_grad(mean, has_aux=True)(params, packed)
    np.testing.assert_allclose(losses.reshape(-1), packed_losses.reshape(-1), atol=2e-6)
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert small.largest_difference(gradients, packed_gradients) < 1e-6


def test_packed_sequences_do_not_see_each_other(model):
    """The gradient of what the first sequence predicts, by the embeddings of tokens that only the second has, is zero."""
    _, packed = sequences([6, 4, 5])
    packed['tokens'] = (np.arange(small.LENGTH)[None] + 1).astype(np.int32)
    module = Bert(model)
    params = init(module, packed)
    gradient = jax.grad(lambda p: jnp.sum(jnp.square(module.apply({'params': p}, packed)['hidden'][0, :6])))(params)
    reached = np.abs(np.asarray(gradient['embeddings']['word']['embedding'])).sum(axis=1) > 0
    np.testing.assert_array_equal(np.flatnonzero(reached), np.arange(1, 7))


def test_padding_does_not_change_what_real_tokens_give(model):
    batch = small.batch(rows=2)
    module = Bert(model)
    params = init(module, batch)
    other = batch | {'tokens': np.where(batch['sequence_ids'] > 0, batch['tokens'], 7)}
    real = batch['sequence_ids'] > 0
    np.testing.assert_array_equal(
        np.asarray(module.apply({'params': params}, batch)['hidden'])[real], np.asarray(module.apply({'params': params}, other)['hidden'])[real]
    )


def test_dropout_is_off_without_a_key_and_differs_by_step(model):
    model = dataclasses.replace(model, dropout=0.1, attention_dropout=0.1)
    batch, module = small.batch(rows=2), Bert(model)
    params = init(module, batch)
    outputs = [
        np.asarray(module.apply({'params': params}, batch, key)['hidden'])
        for key in (None, None, *(DropoutKey.create(0, jnp.int32(step), jnp.arange(2)) for step in (0, 0, 1)))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])
    assert np.abs(outputs[2] - outputs[0]).max() > 1e-3 and np.abs(outputs[3] - outputs[4]).max() > 1e-3


def test_only_masked_positions_are_projected(model):
    batch = small.batch(rows=2)
    for module, expected in ((BertForPreTraining(model), small.PREDICTIONS), (BertForPreTraining(dataclasses.replace(model, project_all_positions=True)), small.LENGTH)):
        shapes = jax.eval_shape(lambda m=module: m.init_with_output(jax.random.key(0), batch)[0])
        assert shapes['mlm_logits'].shape[:2] == (2, expected)


def test_a_classifier_has_a_logit_a_label(model):
    shapes = jax.eval_shape(lambda: BertForClassification(dataclasses.replace(model, num_labels=3)).init_with_output(jax.random.key(0), small.batch(rows=2))[0])
    assert shapes['logits'].shape == (2, 3) and shapes['logits'].dtype == jnp.float32


def test_flops_are_the_published_formula():
    """6 (N_layers + (m / S)(V d + d^2)) + 12 L d S a token, for the encoder with gathered predictions; the pooler and NSP head come on top."""
    model, length, predictions = ModelConfig(vocab_size=30522), 128, 20
    d, layers = model.d_model, model.num_layers
    weights = layers * 12 * d * d
    expected = length * (6 * (weights + predictions / length * (30522 * d + d * d)) + 12 * layers * d * length)
    heads = 6 * d * (d + 2)
    assert 3 * BertForPreTraining.forward_flops(model, length, predictions) == pytest.approx(expected + heads, rel=1e-12)
