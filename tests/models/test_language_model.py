"""Decoders and encoder-decoders: counts at full size, and properties shown by gradients and by equality."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import gpt, t5
from t5x_lite import dry_run
from t5x_lite.assemble import assemble
from t5x_lite.config import Activation, Init, ModelConfig, Norm, NormPlace, Positions
from t5x_lite.models.attention import Cache
from t5x_lite.models.language_model import Decoder, EncoderDecoder
from t5x_lite.training import partitioning
from t5x_lite.training.step import dummy_batch, make_program

# The published models' (GPT-3's from its table of shapes).
COUNTS = {
    'gpt:gpt1': 116_534_784, 'gpt:gpt2': 124_439_808, 'gpt:gpt2_medium': 354_823_168, 'gpt:gpt2_large': 774_030_080, 'gpt:gpt2_xl': 1_557_611_200,
    'gpt:gpt3_125m': 125_226_240, 'gpt:gpt3_350m': 355_871_744, 'gpt:gpt3_760m': 760_300_032, 'gpt:gpt3_1_3b': 1_315_723_264,
    'gpt:gpt3_2_7b': 2_651_553_280, 'gpt:gpt3_6_7b': 6_658_404_352, 'gpt:gpt3_13b': 12_853_386_240, 'gpt:gpt3_175b': 174_604_259_328,
    't5:small': 60_506_624, 't5:base': 222_903_552, 't5:large': 737_668_096, 't5:3b': 2_851_598_336, 't5:11b': 11_307_321_344,
    't5:v1_1_small': 76_961_152, 't5:v1_1_base': 247_577_856, 't5:v1_1_large': 783_150_080, 't5:v1_1_xl': 2_849_757_184,
    't5:v1_1_xxl': 11_135_332_352,
}  # fmt: skip

SMALL = {'vocab_size': 50, 'num_layers': 2, 'd_model': 32, 'num_heads': 4, 'd_ff': 64, 'max_positions': 32, 'dropout': 0.0, 'attention_dropout': 0.0}
GPT1 = ModelConfig(**SMALL, norm_eps=1e-5, init=Init.normal)
GPT2 = ModelConfig(**SMALL, norm_eps=1e-5, norm_place=NormPlace.pre, init=Init.residual, activation=Activation.gelu_tanh)
GPT3 = dataclasses.replace(GPT2, local_window=3)
T5 = ModelConfig(
    **SMALL, head_size=16, norm=Norm.rms, norm_eps=1e-6, norm_place=NormPlace.pre, init=Init.fan_in, positions=Positions.relative, use_bias=False,
    scale_attention=False, scale_logits=True, relative_buckets=8, relative_max_distance=12, activation=Activation.relu,
)  # fmt: skip
T5_1_1 = dataclasses.replace(T5, gated=True, tie_embeddings=False, scale_logits=False, activation=Activation.gelu_tanh, num_decoder_layers=3)
DECODERS = {'gpt1': GPT1, 'gpt2': GPT2, 'gpt3': GPT3, 'relative': dataclasses.replace(T5, scale_logits=False)}
ENCODER_DECODERS = {'t5': T5, 't5_1_1': T5_1_1}


def lively(module):
    """Parameters at random, biases and relative positions too, large enough to matter."""
    params = module.init(jax.random.key(0), dummy_batch())['params']
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [leaf + rng.normal(scale=0.05, size=leaf.shape).astype(np.float32) for leaf in leaves])


def tokens(rows=2, length=10, seed=0):
    return np.random.default_rng(seed).integers(1, 50, (rows, length), dtype=np.int32)


def alone(ids, prefix=''):
    return {f'{prefix}tokens': ids, f'{prefix}sequence_ids': np.ones_like(ids)}


@pytest.mark.parametrize('name', COUNTS)
def test_counts_at_full_size(name):
    """As `train --dry_run` prints them."""
    file, variant = name.split(':')
    config = assemble(importlib.import_module(f'configs.{file}').get_config(variant)).config
    program = make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))
    assert f'parameters: {COUNTS[name]:,}' in dry_run.parameter_table(program).splitlines()


def test_every_variant_is_counted():
    assert set(COUNTS) == {f'gpt:{name}' for name in gpt.VARIANTS} | {f't5:{name}' for name in t5.SIZES}


@pytest.mark.parametrize('name', DECODERS)
def test_a_decoder_sees_nothing_to_its_right(name):
    """By the gradient with respect to embeddings: output i depends on inputs up to i, all of them but where a window hides some."""
    module = Decoder(DECODERS[name])
    params, ids = lively(module), tokens(1)

    def hidden(extra_LD):
        def shifted(next_function, args, kwargs, context):
            out = next_function(*args, **kwargs)
            return out + extra_LD[None] if context.module.name == 'word' and context.method_name == '__call__' else out

        import flax.linen as nn

        with nn.intercept_methods(shifted):
            return module.apply({'params': params}, alone(ids))['lm_logits'][0]

    jacobian = jax.jacobian(hidden)(jnp.zeros((10, 32)))
    depends = np.abs(np.asarray(jacobian)).sum(axis=(1, 3)) > 1e-9
    lower = np.tril(np.ones((10, 10), bool))
    assert not depends[~lower].any()
    # Layer 0 is dense in GPT-3 too, so everything to the left is seen.
    assert depends[lower].all()


def test_a_window_hides_what_is_far_in_every_second_layer():
    """With one dense and one banded layer, the banded layer alone: a model of two layers whose first is made blind by zero values."""
    module = Decoder(GPT3)
    params = lively(module)
    values = params['decoder']['layers']['attention']['value']
    params['decoder']['layers']['attention']['value'] = jax.tree.map(lambda leaf: leaf.at[0].set(0), values)
    ids = tokens(1)
    changed = ids.copy()
    changed[0, 4] = 49 - changed[0, 4]
    a, b = (module.apply({'params': params}, alone(x))['lm_logits'][0] for x in (ids, changed))
    differs = np.abs(np.asarray(a - b)).max(axis=-1) > 1e-7
    np.testing.assert_array_equal(differs, [False] * 4 + [True] * 3 + [False] * 3)


def packed(parts, prefix=''):
    ids, sequence, positions = (np.concatenate(x)[None] for x in zip(*((p, np.full(len(p), i + 1), np.arange(len(p))) for i, p in enumerate(parts))))
    pad = ((0, 0), (0, 3))
    values = {'tokens': ids, 'sequence_ids': sequence, 'positions': positions}
    return {f'{prefix}{name}': np.pad(value, pad).astype(np.int32) for name, value in values.items()}


@pytest.mark.parametrize('name', DECODERS)
def test_packed_decoders_equal_unpacked(name):
    module = Decoder(DECODERS[name])
    params = lively(module)
    parts = [tokens(1, length, seed)[0] for seed, length in enumerate((5, 4, 7))]
    whole = module.apply({'params': params}, packed(parts))['lm_logits'][0]
    place = 0
    for part in parts:
        single = module.apply({'params': params}, alone(part[None]))['lm_logits'][0]
        np.testing.assert_allclose(whole[place : place + len(part)], single, atol=2e-5)
        place += len(part)


@pytest.mark.parametrize('name', ENCODER_DECODERS)
def test_packed_encoder_decoders_equal_unpacked(name):
    module = EncoderDecoder(ENCODER_DECODERS[name])
    params = lively(module)
    pairs = [(tokens(1, a, a)[0], tokens(1, b, 50 + b)[0]) for a, b in ((5, 3), (8, 2), (4, 6))]
    whole = module.apply({'params': params}, packed([a for a, _ in pairs]) | packed([b for _, b in pairs], 'decoder_'))['lm_logits'][0]
    place = 0
    for a, b in pairs:
        single = module.apply({'params': params}, alone(a[None]) | alone(b[None], 'decoder_'))['lm_logits'][0]
        np.testing.assert_allclose(whole[place : place + len(b)], single, atol=2e-5)
        place += len(b)


def test_a_prefix_is_seen_from_both_sides():
    module = Decoder(GPT2)
    params, ids = lively(module), tokens(1)
    prefix = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]], np.int32)
    changed = ids.copy()
    changed[0, 3] = 49 - changed[0, 3]
    for given, reached in (({}, 3), ({'prefix': prefix}, 0)):
        a, b = (module.apply({'params': params}, alone(x) | given)['lm_logits'][0] for x in (ids, changed))
        differs = np.abs(np.asarray(a - b)).max(axis=-1) > 1e-7
        np.testing.assert_array_equal(differs, np.arange(10) >= reached)


@pytest.mark.parametrize('name', DECODERS)
def test_a_cache_gives_what_the_whole_row_gives(name):
    """Prompts of two lengths, padded on the left, in one pass; then token by token."""
    module = Decoder(DECODERS[name])
    params = lively(module)
    rows = [tokens(1, 9, 1)[0], tokens(1, 6, 2)[0]]
    whole = [module.apply({'params': params}, alone(row[None]))['lm_logits'][0] for row in rows]
    prompt, steps = 6, 3  # the second row has 3 tokens of prompt
    skipped = np.array([0, 3])
    ids = np.zeros((2, prompt + steps), np.int32)
    for row, (tokens_of, skip) in enumerate(zip(rows, skipped)):
        ids[row, skip:] = tokens_of
    keys = np.arange(prompt + steps)[None] >= skipped[:, None]
    positions = np.maximum(np.arange(prompt + steps)[None] - skipped[:, None], 0)
    variables = {'params': params}
    for first, last in [(0, prompt)] + [(prompt + step, prompt + step + 1) for step in range(steps)]:
        cache = Cache(jnp.int32(first), prompt + steps, filling=first == 0)
        part = slice(first, last)
        logits, updated = module.apply(variables, ids[:, part], positions[:, part], keys, cache, method='decode', mutable=['cache'])
        variables = {'params': params, 'cache': updated['cache']}
        for row, skip in enumerate(skipped):
            begin = max(first, skip)
            np.testing.assert_allclose(logits[row, begin - first :], whole[row][begin - skip : last - skip], atol=2e-5)


@pytest.mark.parametrize('name', ENCODER_DECODERS)
def test_a_cache_of_an_encoder_decoder_gives_what_the_whole_row_gives(name):
    module = EncoderDecoder(ENCODER_DECODERS[name])
    params = lively(module)
    inputs, targets = tokens(2, 7), tokens(2, 5, 1)
    present = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)
    batch = {'tokens': inputs, 'sequence_ids': present}
    whole = module.apply({'params': params}, batch | {'decoder_tokens': targets, 'decoder_sequence_ids': np.ones_like(targets)})['lm_logits']
    encoded = module.apply({'params': params}, batch, method='encode')
    variables, keys = {'params': params}, np.ones((2, 5), bool)
    for step in range(5):
        part, cache = slice(step, step + 1), Cache(jnp.int32(step), 5, filling=step == 0)
        memory = {'memory_BMD': encoded} if step == 0 else {}
        positions = np.full((2, 1), step, np.int32)
        logits, updated = module.apply(
            variables, targets[:, part], positions, keys, cache, **memory, memory_keys_BM=present > 0, method='decode', mutable=['cache']
        )
        variables = {'params': params, 'cache': updated['cache']}
        np.testing.assert_allclose(logits[:, 0], whole[:, step], atol=2e-5)
