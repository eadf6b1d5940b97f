"""Language-model losses: the formulas, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config, ModelConfig
from t5x_lite.data.features import of_encoder_decoder
from t5x_lite.data.packing import Rows
from t5x_lite.models.attention import Mask
from t5x_lite.models.kernels import dense_attention
from t5x_lite.models.layers import RmsNorm
from t5x_lite.models.positions import DistanceBias
from t5x_lite.training.losses import LmLoss, cross_entropy
from tests import golden


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


# ---- what reference implementations compute


def check_weighted_cross_entropy(case):
    """Values and gradients."""
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


def check_normalising(case):
    given, expected = case['input'], case['expected']
    if given['kind'] != 'NUM_REAL_TARGET_TOKENS':
        return PER_SEQUENCE if given['kind'] == 'AVERAGE_PER_SEQUENCE' else PADDING_COUNTS
    targets = np.array(given['decoder_target_tokens'])
    lengths = (targets > 0).sum(1)
    rows = Rows(np.arange(len(targets)), np.arange(len(targets) + 1))
    batch = of_encoder_decoder(rows, targets[targets > 0], lengths, targets[targets > 0], lengths, 5, 5, start_id=0, pad_id=0)
    np.testing.assert_array_equal(batch['target_weights'], expected['weights'])
    np.testing.assert_allclose(LmLoss(Config()).weights({'target_weights': jnp.asarray(batch['target_weights'])})['lm_loss'], expected['factor'])
    return None


def check_cross_entropy(case):
    """Of targets that are distributions: the mean over classes that may be met, which ours are one of."""
    logits = jnp.asarray(np.array(case['input']['logits'], np.float32))
    for row, shares in enumerate(case['input']['targets']):
        found = sum(share * float(cross_entropy(logits[row], jnp.int32(kind))) for kind, share in enumerate(shares) if share)
        np.testing.assert_allclose(found, float(case['expected'][row]), atol=case['tolerance'])


def check_rms_norm(case):
    x, scale = (jnp.asarray(case['input'][name], jnp.float32) for name in ('x', 'scale'))
    found = RmsNorm(1e-6, jnp.float32).apply({'params': {'scale': scale}}, x[None])[0]
    np.testing.assert_allclose(found, case['expected'], atol=case['tolerance'])


def check_attention(case):
    q, k, v, bias = (jnp.asarray(case['input'][name], jnp.float32) for name in ('query', 'key', 'value', 'bias'))
    found = dense_attention(q, k, v, Mask(), scale=1.0, bias=DistanceBias(whole_PHLM=bias))
    np.testing.assert_allclose(found, case['expected'], atol=case['tolerance'])


PER_SEQUENCE = 'a mean per sequence: ours is over all target tokens, so that packing and microbatches change nothing'
PADDING_COUNTS = 'padding counted in the mean: ours is over real tokens'
CHECKS = {
    'loss normalising factor and weights': check_normalising,
    'softmax cross entropy per row': check_cross_entropy,
    'softmax cross entropy with -inf logits (0*-inf counts 0)': check_cross_entropy,
    'weighted cross entropy and gradient with respect to logits': check_weighted_cross_entropy,
    'T5 layer norm (no mean, no bias, eps 1e-6)': check_rms_norm,
    'attention: softmax(q.k + bias) v, no 1/sqrt(d) scaling; [batch,length,head,depth]': check_attention,
}
NOT_OURS = {
    'sum of weights per packed segment': PER_SEQUENCE,
    'label smoothing spread over ALL classes (differs from the T5 rule, which spreads over the other classes)': 'ours is the T5 rule',
}


def test_the_reference_implementations():
    golden.hold('losses', CHECKS, NOT_OURS, {PER_SEQUENCE: 3, PADDING_COUNTS: 1})
