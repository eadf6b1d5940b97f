import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import DType
from t5x_lite.models import kernels
from t5x_lite.models.inference import to_read
from t5x_lite.models.language_model import Decoder, EncoderDecoder
from t5x_lite.models.mask import Mask
from t5x_lite.models.positions import DistanceBias
from t5x_lite.models.products import product, turned_product
from tests.models import test_language_model as language


@pytest.mark.parametrize('dtype', [DType.float32, DType.bfloat16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize('name', ['gpt2', 'gpt3', 't5'])
def test_what_is_read_gives_what_is_trained(name, dtype):
    several = language.ENCODER_DECODERS if name == 't5' else language.DECODERS
    config = dataclasses.replace(several[name], dtype=dtype, num_layers=12)  # '10' sorts before '2'
    module = (EncoderDecoder if name == 't5' else Decoder)(config)
    params = nn.unbox(language.lively(module))
    batch = language.alone(language.tokens()) | (language.alone(language.tokens(seed=1), 'decoder_') if name == 't5' else {})
    wanted, found = (jax.jit(lambda params: module.apply({'params': params}, batch)['lm_logits'])(tree) for tree in (params, to_read(config, params, few_rows=True)))
    np.testing.assert_allclose(found, wanted, atol={DType.float32: 1e-5, DType.bfloat16: 0.03}[dtype] * float(jnp.abs(wanted).max()))


def test_how_it_lies():
    config = dataclasses.replace(language.GPT2, dtype=DType.bfloat16)
    params = nn.unbox(language.lively(Decoder(config)))
    rounded, turned = to_read(config, params, few_rows=True), to_read(language.GPT2, params, few_rows=True)
    stacked = params['decoder']['layers']['mlp']
    layer = rounded['decoder']['layers']['1']['mlp']['wi']
    np.testing.assert_array_equal(layer['kernel'], stacked['wi']['kernel'][1].astype(jnp.bfloat16))
    assert layer['bias'].dtype == jnp.float32, 'where it is added decides'
    layer = turned['decoder']['layers']['1']['mlp']['wi']
    np.testing.assert_array_equal(layer['turned'], stacked['wi']['kernel'][1].T)
    assert layer.keys() == {'turned', 'bias'}
    assert 'kernel' in to_read(language.GPT2, params)['decoder']['layers']['1']['mlp']['wi'], 'of many rows at a time'
    config = dataclasses.replace(language.T5, dtype=DType.bfloat16)
    table = to_read(config, nn.unbox(language.lively(EncoderDecoder(config))))['decoder']['relative_bias']['embedding']
    assert table.dtype == jnp.float32, 'scores are'


@pytest.mark.parametrize('shape', [(1, 1), (2, 3), (5,)], ids=str)
def test_a_weight_that_lies_the_other_way_round(shape):
    draw = np.random.default_rng(0)
    x, kernel = draw.normal(size=(*shape, 24)).astype(np.float32), draw.normal(size=(24, 40)).astype(np.float32)
    rows = 'BLD'[-1 - len(shape) :]
    np.testing.assert_allclose(turned_product(x, kernel.T), product(f'{rows},DF->{rows[:-1]}F', x, kernel, jnp.dtype('float32')), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('shape', [(1, 1, 24), (1, 24), (3, 1, 24)], ids=str)
def test_few_rows_of_few_bits(shape):
    draw = np.random.default_rng(0)
    x, kernel = jnp.asarray(draw.normal(size=shape), jnp.bfloat16), jnp.asarray(draw.normal(size=(24, 40)), jnp.float32)
    rows = 'BLD'[-len(shape) :]
    found = product(f'{rows},DF->{rows[:-1]}F', x, kernel, jnp.dtype('bfloat16'))
    wanted = x.astype(jnp.float32) @ kernel.astype(jnp.bfloat16).astype(jnp.float32)
    assert found.shape == (*shape[:-1], 40) and found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('rows', [1, 3])
@pytest.mark.parametrize('what', ['own', 'cross', 'bias', 'window', 'hidden'])
def test_a_step_is_attention_of_one_query(what, rows, dtype):
    """The token's own key and value are put where the dense one finds them: at place 4 of 7, behind which nothing is yet."""
    draw, (heads, size, length, place) = np.random.default_rng(0), (2, 8, 7, 4)
    arrays = (jnp.asarray(draw.normal(size=(rows, count, heads, size)), dtype) for count in (1, length, length))
    q_BLHK, k_BMHK, v_BMHK = arrays
    written = (jnp.arange(length) <= place)[None, :, None, None]
    k_BMHK, v_BMHK = (jnp.where(written, one, jnp.zeros((), one.dtype)) for one in (k_BMHK, v_BMHK))
    keys = np.ones((rows, length), bool)
    keys[-1, :2] = False
    mask = Mask(keys_BM=jnp.asarray(keys), causal=what != 'cross', first=None if what == 'cross' else jnp.int32(place))
    if what == 'window':
        mask = mask.replace(window=jnp.int32(2))
    if what == 'hidden':
        mask = mask.replace(keys_BM=jnp.zeros((rows, length), bool))
    bias = None
    if what == 'bias':
        bias = DistanceBias(jnp.asarray(draw.normal(size=(8, heads)), jnp.float32), bidirectional=False, max_distance=12).made(1, length, jnp.int32(place))
    wanted = kernels.dense_attention(q_BLHK, k_BMHK, v_BMHK, mask, scale=0.3, bias=bias)[:, 0]
    new = None
    if what != 'cross':
        new = k_BMHK[:, place], v_BMHK[:, place], jnp.int32(place)
        k_BMHK, v_BMHK = (one.at[:, place].set(0) for one in (k_BMHK, v_BMHK))
    found = kernels.step_attention(q_BLHK[:, 0], jnp.swapaxes(k_BMHK, 1, 2), jnp.swapaxes(v_BMHK, 1, 2), mask, scale=0.3, bias=bias, new=new)
    assert found.dtype == wanted.dtype and (what != 'hidden' or not np.any(found))
    np.testing.assert_allclose(found.astype(jnp.float32), wanted.astype(jnp.float32), atol=1e-6 if dtype == 'float32' else 2e-2)
