"""What stands in front of a sequence (prefix and prompt tuning), and adapters, in decoders and encoder-decoders: packed as alone, cached as not, in the right
place."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import TuneConfig
from t5x_lite.models.attention import Mask
from t5x_lite.models.kernels import dense_attention
from t5x_lite.models.language_model import Decoder
from t5x_lite.models.positions import DistanceBias
from t5x_lite.training import adapters, paths
from t5x_lite.training.step import dummy_batch
from tests.models import test_language_model as language
from tests.models.test_language_model import GPT2, tokens
from tests.training import small

ALL = TuneConfig(prefix=2, prompt=3, ia3=True, lora=(('.*/(cross_)?attention/(query|value)', 4, 8.0),))
ADDED = {'prefix': TuneConfig(prefix=3), 'prompt': TuneConfig(prompt=4), 'all': ALL, 'cross': dataclasses.replace(ALL, prefix_cross=True)}


def adapted(module, tune, lively=language.lively):
    """A lively model, and all that a config adds to it at random, so that it matters.

    LoRA's factors, which are multiplied with each other, less: T5 does not scale its scores, and where they are large softmax makes rounding large as well.
    """
    params = nn.unbox(adapters.added_to(tune, lively(module), 0))
    rng = np.random.default_rng(1)

    def value(path, leaf):
        learns = adapters.is_added(path) and adapters.learns(path)
        return np.asarray(leaf) + rng.normal(scale=0.1 if 'lora' in path else 0.3, size=leaf.shape).astype(np.float32) * learns

    return paths.map_paths(value, params)


@pytest.mark.parametrize(
    ('test', 'name', 'added'),
    [
        (language.test_packed_decoders_equal_unpacked, 'gpt1', 'prompt'),
        (language.test_packed_decoders_equal_unpacked, 'relative', 'all'),
        (language.test_packed_encoder_decoders_equal_unpacked, 't5', 'cross'),
        (language.test_a_cache_gives_what_the_whole_row_gives, 'gpt1', 'prefix'),
        (language.test_a_cache_gives_what_the_whole_row_gives, 'gpt3', 'all'),
        (language.test_a_cache_gives_what_the_whole_row_gives, 'relative', 'prompt'),
        (language.test_a_cache_of_an_encoder_decoder_gives_what_the_whole_row_gives, 't5_1_1', 'cross'),
    ],
    ids=lambda value: getattr(value, '__name__', value),
)
def test_with_adapters(test, name, added, monkeypatch):
    """The tests of language models hold for them with whatever was added."""
    monkeypatch.setattr(language, 'lively', lambda module: adapted(module, ADDED[added]))
    test(name)


def test_where_they_are_put():
    def found(added):
        boxed = jax.eval_shape(lambda: language.EncoderDecoder(language.T5).init(jax.random.key(0), dummy_batch())['params'])
        return {path for path in paths.leaves(nn.unbox(adapters.added_to(ADDED[added], boxed, 0))) if adapters.is_added(path)}

    stacks = ('encoder/layers/attention', 'decoder/layers/attention')
    assert found('prompt') == {'encoder/prompt'}
    assert found('prefix') == {f'{stack}/prefix_{kind}' for stack in stacks for kind in ('key', 'value')}
    assert found('cross') - found('all') == {f'decoder/layers/cross_attention/prefix_{kind}' for kind in ('key', 'value')}


def test_a_prefix_is_keys_and_values_in_front_of_all():
    """By the formula, beside a causal mask and a bias of relative positions."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 4, 1, 8)), jnp.float32) for _ in range(3))
    keys, values = (jnp.asarray(rng.normal(size=(1, 2, 1, 8)), jnp.float32) for _ in range(2))
    bias = jnp.asarray(rng.normal(size=(1, 4, 4)), jnp.float32)
    whole_k, whole_v = jnp.concatenate([keys, k], axis=1), jnp.concatenate([values, v], axis=1)
    mask = Mask(causal=True, before=2)
    found = dense_attention(q, whole_k, whole_v, mask, scale=0.5, bias=DistanceBias(whole_PHLM=bias[None]))
    for place in range(4):
        seen = 2 + place + 1
        scores = np.asarray(whole_k)[0, :seen, 0] @ np.asarray(q)[0, place, 0] * 0.5 + np.concatenate([np.zeros(2), np.asarray(bias)[0, place, : place + 1]])
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(found[0, place, 0], weights @ np.asarray(whole_v)[0, :seen, 0], atol=1e-5)


def test_masks_as_literal_matrices():
    packed = Mask(packed_BL=jnp.array([[1, 1, 2]]), before=1)
    np.testing.assert_array_equal(packed.dense(3, 4)[0, 0], [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 1]])
    asking = packed.replace(before=2, asking=1)
    np.testing.assert_array_equal(asking.dense(4, 5)[0, 0], [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]])
    np.testing.assert_array_equal(Mask(before=1, asking=1).dense(2, 3)[0, 0], [[1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(Mask(causal=True, first=jnp.int32(1), before=1).dense(1, 4)[0, 0], [[1, 1, 1, 0]])
    assert Mask(before=2).dense(2, 4) is None


def test_a_prompt_is_so_many_tokens_in_front_without_positions():
    """As tokens of the vocabulary with those vectors, at a place whose position is 0, which see each other from both sides."""
    module, length, count = Decoder(GPT2), 10, 4
    params = adapted(module, TuneConfig(prompt=count))
    ids = np.minimum(tokens(2, length), 44)
    prompt, embeddings = params['decoder']['prompt'], params['embeddings']
    embeddings['word']['embedding'][45 : 45 + count] = prompt
    embeddings['position']['embedding'][-1] = 0
    found = module.apply({'params': params}, language.alone(ids))
    del params['decoder']['prompt']
    rows = np.concatenate([np.tile(np.arange(45, 45 + count, dtype=np.int32), (2, 1)), ids], axis=1)
    positions = np.concatenate([np.full(count, 31), np.arange(length)]).astype(np.int32)
    batch = language.alone(rows) | {'positions': np.tile(positions, (2, 1)), 'prefix': (np.arange(count + length) < count)[None].repeat(2, 0).astype(np.int32)}
    expected = module.apply({'params': params}, batch)
    for name in ('hidden', 'lm_logits'):
        np.testing.assert_allclose(found[name], expected[name][:, count:], atol=3e-5)


@pytest.mark.parametrize('tune', [ADDED['prefix'], ADDED['prompt']], ids=['prefix', 'prompt'])
def test_the_outputs_of_an_encoder_stay_in_their_places(tune):
    """BERT: the hidden states are those of the tokens, pooled from [CLS]; padding changes nothing, nor do neighbours in a packed row."""
    from bert_flax.bert import BertForPreTraining

    module = BertForPreTraining(small.config(model={'dropout': 0.0, 'attention_dropout': 0.0}).model)
    params = adapted(module, tune)
    apply = jax.jit(lambda batch: module.apply({'params': params}, batch))
    rows = [np.arange(5, 11, dtype=np.int32), np.arange(40, 49, dtype=np.int32)]
    alone = [apply(language.alone(row[None]) | {'token_types': np.zeros_like(row)[None]}) for row in rows]
    assert alone[0]['hidden'].shape == (1, 6, 32)
    pooler = params['encoder']['pooler']
    pooled = np.tanh(np.asarray(alone[0]['hidden'])[:, 0] @ pooler['kernel'] + pooler['bias'])
    np.testing.assert_allclose(alone[0]['pooled'], pooled, atol=1e-5)
    whole = language.packed(rows)
    whole = apply(whole | {'token_types': np.zeros_like(whole['tokens'])})['hidden'][0]
    np.testing.assert_allclose(whole[:6], alone[0]['hidden'][0], atol=2e-5)
    np.testing.assert_allclose(whole[6:15], alone[1]['hidden'][0], atol=2e-5)
    padded = {name: np.pad(value, ((0, 0), (0, 4))) for name, value in (language.alone(rows[0][None]) | {'token_types': np.zeros((1, 6), np.int32)}).items()}
    np.testing.assert_allclose(apply(padded)['hidden'][0, :6], alone[0]['hidden'][0], atol=2e-5)
    bare = {path: leaf for path, leaf in paths.leaves(params).items() if not adapters.is_added(path)}
    without = module.apply({'params': paths.nested(bare)}, language.alone(rows[0][None]) | {'token_types': np.zeros((1, 6), np.int32)})
    assert np.abs(np.asarray(without['hidden'] - alone[0]['hidden'])).max() > 1e-2, 'they are read'
