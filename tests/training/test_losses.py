"""Language-model losses: the formulas, in values and gradients."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import Config, ModelConfig
from t5x_lite.training.losses import LmLoss

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / '..' / 'shared' / 'golden' / 'losses.json'


def total(logits, targets, weights, *, pieces=0, **fields):
    config = Config(model=ModelConfig(vocab_size=pieces or logits.shape[-1]), **fields)
    terms, metrics = LmLoss(config)({'lm_logits': logits}, {'targets': targets, 'target_weights': weights})
    return terms['lm_loss'], metrics


def some(pieces=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(2, 3, pieces)) * 2, jnp.float32)
    return logits, jnp.asarray(rng.integers(0, pieces, (2, 3)), jnp.int32), jnp.asarray([[1, 1, 0], [1, 0.5, 1]], jnp.float32)


def test_label_smoothing_and_z_loss_are_their_formulas():
    logits, targets, weights = some()
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    wanted = np.full(log_p.shape, 0.1 / 6)
    np.put_along_axis(wanted, np.asarray(targets)[..., None], 0.9, -1)
    each = -(wanted * log_p).sum(-1) + (wanted * np.log(wanted)).sum(-1)
    z = 0.01 * np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)) ** 2
    loss, metrics = total(logits, targets, weights, label_smoothing=0.1, z_loss=0.01)
    np.testing.assert_allclose(loss, ((each + z) * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics['z_loss'][0], (z * weights).sum(), rtol=1e-5)
    plain = -np.take_along_axis(log_p, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(metrics['lm_loss'][0], (plain * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics['lm_loss'][1], 4.5)


def test_columns_that_pad_the_vocabulary_change_nothing():
    logits, targets, weights = some()
    padded = jnp.pad(logits, [(0, 0), (0, 0), (0, 5)], constant_values=-1e9)
    fields = {'label_smoothing': 0.1, 'z_loss': 0.01, 'pieces': 7}
    np.testing.assert_allclose(total(padded, targets, weights, **fields)[0], total(logits, targets, weights, **fields)[0], rtol=1e-6)


def test_rows_that_fill_up_a_batch_count_nothing():
    logits, targets, weights = some()
    loss = LmLoss(Config(model=ModelConfig(vocab_size=7)))
    batch = {'targets': targets, 'target_weights': weights, 'example_weights': jnp.asarray([1.0, 0.0])}
    alone = {'targets': targets[:1], 'target_weights': weights[:1]}
    assert loss.weights(batch)['lm_loss'] == loss.weights(alone)['lm_loss'] == 2
    np.testing.assert_allclose(loss({'lm_logits': logits}, batch)[0]['lm_loss'], loss({'lm_logits': logits[:1]}, alone)[0]['lm_loss'], rtol=1e-6)


@pytest.mark.skipif(not GOLDEN.exists(), reason='../shared is absent')
def test_the_reference_implementations():
    """Values and gradients. Not ours by choice: a mean per sequence (the other kinds of normalisation are `weights`), and smoothing over all classes."""
    checked = 0
    for case in json.loads(GOLDEN.read_text())['cases']:
        if not case['function'].startswith('weighted cross entropy and gradient'):
            continue
        given, expected = case['input'], case['expected']
        logits, targets = jnp.asarray(given['logits'], jnp.float32), jnp.asarray(given['targets'], jnp.int32)
        weights = jnp.ones(targets.shape, jnp.float32) if given['weights'] is None else jnp.asarray(given['weights'], jnp.float32)
        factor = given['loss_normalizing_factor'] or 1.0
        fields = {'label_smoothing': given['label_smoothing'], 'z_loss': given['z_loss']}
        (loss, metrics), gradient = jax.value_and_grad(lambda x: total(x, targets, weights, **fields), has_aux=True)(logits)
        np.testing.assert_allclose(loss / factor, expected['loss'], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(metrics['lm_loss'][1], expected['weight_sum'], rtol=1e-6)
        if given['z_loss']:
            np.testing.assert_allclose(metrics['z_loss'][0] / factor, expected['z_loss'], rtol=1e-5)
        np.testing.assert_allclose(gradient / factor, expected['dlogits'], rtol=1e-4, atol=2e-6)
        checked += 1
    assert checked == 16
