"""T5 1.0, 1.1 and mT5 folders beside transformers: the same numbers, names and fields; bit for bit in test_language_models.py.

Expected outputs are those of transformers, in tests/fixtures (see make_lm_fixtures.py there). Where torch and transformers are installed, they
run beside ours.
"""

import dataclasses

import numpy as np
import pytest

from t5x_lite.config import Activation, Init, ModelConfig, Norm, NormPlace, Positions
from t5x_lite.interop import folder
from t5x_lite.interop.t5 import T5 as Family
from tests.interop import T5, T5_1_1
from tests.interop.language_models import (
    TOLERANCE, apply, batch_of, compare, edit, expected, leaves, loss_of, off, random_weights,
)  # fmt: skip
from tests.interop.test_folder import assert_bitwise, refusal

BOTH = pytest.mark.parametrize('source', [T5, T5_1_1], ids=lambda path: path.name)


@BOTH
def test_logits_and_loss(source):
    config, params = folder.load(str(source))
    arrays, batch = expected(source), batch_of(expected(source))
    outputs = apply(config, params, batch)
    assert off(config, params, arrays) < TOLERANCE
    assert abs(loss_of(config, outputs, batch) - arrays['loss']) < TOLERANCE
    real = arrays['attention_mask'] == 1
    np.testing.assert_allclose(np.asarray(outputs['encoded'])[real], arrays['encoded'][real], rtol=0, atol=TOLERANCE)


def swap(node, first, second):
    node[first], node[second] = node[second], node[first]


@BOTH
@pytest.mark.parametrize(
    'mistake', ['activation', 'epsilon', 'buckets', 'distance', 'scale', 'logits', 'padding', 'swapped', 'stacks', 'cross', 'gate']
)
def test_the_tolerance_tells_mistakes_apart(source, mistake):
    """Each moves the logits by at least a hundred times what is allowed (epsilon, and the GELUs, by ten)."""
    config, params = folder.load(str(source))
    arrays, decoder = dict(expected(source)), params['decoder']['layers']
    if mistake == 'activation':
        config.activation = Activation.gelu
    elif mistake == 'epsilon':
        config.norm_eps = 0.01
    elif mistake == 'buckets':
        params['encoder']['relative_bias'] = {'embedding': np.roll(params['encoder']['relative_bias']['embedding'], 1, axis=0)}
    elif mistake == 'distance':
        config.relative_max_distance = 5
    elif mistake == 'scale':
        config.scale_attention = True
    elif mistake == 'logits':
        config.scale_logits = not config.scale_logits
    elif mistake == 'padding':
        arrays['attention_mask'] = np.ones_like(arrays['attention_mask'])
    elif mistake == 'swapped':
        swap(decoder['attention'], 'key', 'value')
    elif mistake == 'stacks':
        params['encoder']['final_norm'] = params['decoder']['final_norm']
    elif mistake == 'cross':
        swap(decoder, 'attention', 'cross_attention')
    elif config.gated:
        swap(decoder['mlp'], 'wi', 'wg')
    else:
        decoder['mlp']['wi'] = {'kernel': -decoder['mlp']['wi']['kernel']}
    assert off(config, params, arrays) > (10 if mistake in ('activation', 'epsilon') else 100) * TOLERANCE


@BOTH
def test_config_written_is_the_one_read(source, tmp_path):
    """Field for field, ids too; what a classifier drops out is nobody's business, and tie_word_embeddings tells the truth."""
    folder.save(str(tmp_path / 'out'), *folder.load(str(source)))
    before, after = folder.read_fields(str(source)), folder.read_fields(str(tmp_path / 'out'))
    derived = {'is_gated_act', 'dense_act_fn', 'is_decoder'}  # from feed_forward_proj; and the default
    for name in before.keys() - derived - {'transformers_version', 'use_cache', 'classifier_dropout', 'tie_word_embeddings'}:
        assert after[name] == before[name], name
    assert after['tie_word_embeddings'] == (source == T5)


def test_every_field_is_read():
    common = ModelConfig(
        module='t5x_lite.models.language_model:EncoderDecoder', vocab_size=91, d_model=16, head_size=6, num_heads=3, d_ff=40, init=Init.fan_in,
        norm=Norm.rms, norm_place=NormPlace.pre, use_bias=False, positions=Positions.relative, relative_buckets=8, relative_max_distance=20,
        scale_attention=False,
    )  # fmt: skip
    assert folder.load(str(T5))[0] == dataclasses.replace(
        common, num_layers=2, activation=Activation.relu, norm_eps=1e-4, scale_logits=True, dropout=0.1, attention_dropout=0.1, hidden_dropout=0.1,
        output_dropout=0.1,
    )  # fmt: skip
    assert folder.load(str(T5_1_1))[0] == dataclasses.replace(
        common, num_layers=3, num_decoder_layers=2, activation=Activation.gelu_tanh, gated=True, norm_eps=1e-6, tie_embeddings=False, dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip


OLD_BUFFER = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'


@BOTH
@pytest.mark.parametrize('variant', ['prefix', 'copies', 'buffer', 'copy-alone', 'unstated', 'old-name', 'before-5', 'mt5'])
def test_other_spellings_are_the_same_model(source, variant, tmp_path):
    config, params = folder.load(str(source))
    copies = ['encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'] + ['lm_head.weight'] * (source == T5)
    edits = {
        'prefix': dict(rename=lambda name: f'transformer.{name}'),
        'copies': dict(change=lambda values: dict.fromkeys(copies, values['shared.weight'])),
        'buffer': dict(change=lambda values: {OLD_BUFFER: np.zeros((8, 3), np.float32)}),
        'copy-alone': dict(rename=lambda name: 'decoder.embed_tokens.weight' if name == 'shared.weight' else name),
        'unstated': dict(architectures=None),
        'old-name': dict(architectures=['T5WithLMHeadModel']),
        # As released: no field says whether logits are scaled but tie_word_embeddings.
        'before-5': dict(scale_decoder_outputs=None, dense_act_fn=None, is_gated_act=None, tie_word_embeddings=source == T5, n_positions=512),
        'mt5': dict(model_type='mt5', architectures=['MT5ForConditionalGeneration'], scale_decoder_outputs=None),
    }
    again, params_again = folder.load(str(edit(source, tmp_path, **edits[variant])))
    assert again == (dataclasses.replace(config, scale_logits=False) if variant == 'mt5' else config)
    assert_bitwise(leaves(params_again), leaves(params))


def fields_of(source, **changes):
    """config.json with changes; None removes."""
    return {name: value for name, value in (folder.read_fields(str(source)) | changes).items() if value is not None}


def read(source, **changes):
    return Family().model_config(fields_of(source, **changes), 'FOLDER/config.json')


def test_fields_that_old_folders_lack():
    """As the first released folders: transformers' defaults."""
    names = ('feed_forward_proj', 'dense_act_fn', 'is_gated_act', 'num_decoder_layers', 'relative_attention_max_distance', 'tie_word_embeddings')
    config = read(T5, **dict.fromkeys((*names, 'scale_decoder_outputs', 'initializer_factor', 'is_encoder_decoder')))
    assert (config.activation, config.gated, config.num_decoder_layers, config.relative_max_distance) == (Activation.relu, False, 0, 128)
    assert config.scale_logits
    assert not read(T5, scale_decoder_outputs=None, tie_word_embeddings=False).scale_logits
    assert read(T5, scale_decoder_outputs=True, tie_word_embeddings=False).scale_logits


@pytest.mark.parametrize(
    'projection, kind, gated',
    [
        ('relu', 'relu', False), ('gated-relu', 'relu', True), ('gelu', 'gelu', False), ('gated-gelu', 'gelu_tanh', True),
        ('gelu_new', 'gelu_tanh', False), ('gated-gelu_new', 'gelu_tanh', True), ('gated-gelu_python', 'gelu', True),
    ],
)  # fmt: skip
def test_projections(projection, kind, gated):
    config = read(T5, feed_forward_proj=projection, dense_act_fn=None, is_gated_act=None)
    assert (config.activation, config.gated) == (Activation[kind], gated)
    written = Family().fields(config)['feed_forward_proj']
    again = read(T5, feed_forward_proj=written, dense_act_fn=None, is_gated_act=None)
    assert (again.activation, again.gated) == (Activation[kind], gated)


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('architectures', ['T5EncoderModel'], "architectures is ['T5EncoderModel']; only T5ForConditionalGeneration, T5Model"),
        ('is_encoder_decoder', False, 'is_encoder_decoder is False; only True is supported'),
        ('is_decoder', True, 'is_decoder is True'),
        ('tie_encoder_decoder', True, 'tie_encoder_decoder is True'),
        ('quantization_config', {'bits': 8}, 'quantization_config'),
        ('feed_forward_proj', 'gated-silu', "feed_forward_proj is 'gated-silu', which is not supported; did you mean 'gated-"),
        ('feed_forward_proj', ['relu'], "feed_forward_proj is ['relu'], which is not supported"),
        ('dense_act_fn', 'silu', "dense_act_fn is 'silu'"),
        ('d_kv', None, 'field d_kv is missing'),
        ('num_heads', 0, 'num_heads is 0; expected a whole number above 0'),
        ('num_decoder_layers', '2', "num_decoder_layers is '2'"),
        ('relative_attention_num_buckets', 3, 'expected at least 4 buckets'),
        ('relative_attention_max_distance', 4, 'a distance above half of them'),
        ('dropout_rate', 1, 'dropout_rate is 1.0; it must be at least 0 and below 1'),
        ('scale_decoder_outputs', 'no', "scale_decoder_outputs is 'no'; expected true or false"),
    ],
)
def test_what_we_do_not_have_is_refused_in_words(field, value, message):
    said = refusal(Family().model_config, fields_of(T5, **{field: value}), 'FOLDER/config.json')
    assert said.startswith('FOLDER/config.json: ') and message in said


def test_broken_folders_are_named(tmp_path):
    def load(**edits):
        return refusal(folder.load, str(edit(T5_1_1, tmp_path, **edits)))

    assert 'does not account for: decoder.block.1.' in load(num_decoder_layers=1) and 'num_decoder_layers' in load(num_decoder_layers=1)
    assert 'asks for: encoder.block.3.layer.0.SelfAttention.q.weight, ' in load(num_layers=4)
    assert 'asks for: encoder.block.0.layer.1.DenseReluDense.wi.weight, ' in load(feed_forward_proj='relu', dense_act_fn=None, is_gated_act=None)
    table = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    assert f'{table} has shape (8, 3), but config.json makes it (10, 3)' in load(relative_attention_num_buckets=10)
    twin = 'encoder.embed_tokens.weight'
    assert f'{twin} differs from shared.weight; only tied' in load(change=lambda values: {twin: values['shared.weight'] + 1})
    assert 'architectures is 3; expected a list of names' in load(architectures=3)
    assert 'are the same weight' in load(change=lambda values: {'transformer.shared.weight': values['shared.weight']})


@pytest.mark.parametrize(
    'change, message',
    [
        ({'local_window': 4}, 'config.model.local_window=4 cannot be exported: T5 in transformers has 0 only'),
        ({'positions': Positions.learned}, 'positions=learned cannot be exported'),
        ({'norm': Norm.layer}, 'norm=layer'),
        ({'norm_place': NormPlace.post}, 'norm_place=post'),
        ({'use_bias': True}, 'use_bias=True'),
        ({'scale_attention': True}, 'scale_attention=True'),
        ({'gated': True}, 'parameters are missing: encoder/layers/mlp/wg/kernel'),
        ({'num_decoder_layers': 1}, 'parameter decoder/layers/attention/query/kernel has shape (2, 16, 18), but the config makes it (1, 16, 18)'),
    ],
)
def test_what_does_not_fit_is_not_exported(change, message, tmp_path):
    config, params = folder.load(str(T5))
    assert message in refusal(folder.save, str(tmp_path / 'out'), dataclasses.replace(config, **change), params)
    assert not (tmp_path / 'out').exists()


def test_rates_of_dropout_that_differ_are_said(tmp_path, caplog):
    config, params = folder.load(str(T5))
    config.hidden_dropout = 0.0
    folder.save(str(tmp_path / 'out'), config, params)
    assert folder.read_fields(str(tmp_path / 'out'))['dropout_rate'] == 0.1 and 'dropout_rate is written as config.model.dropout=0.1' in caplog.text


# Beside transformers itself


LIVE = {  # kind, fields, whether the output layer is one of its own
    '1.0': ('T5', dict(), False),
    '1.1': ('T5', dict(feed_forward_proj='gated-gelu', num_decoder_layers=3, tie_word_embeddings=False), True),
    'tied-gated': ('T5', dict(feed_forward_proj='gated-gelu', d_kv=5, relative_attention_num_buckets=32, relative_attention_max_distance=128), False),
    'tied-unscaled': ('T5', dict(feed_forward_proj='gelu', tie_word_embeddings=False, num_layers=3, num_decoder_layers=1), False),
    'untied-scaled': ('T5', dict(feed_forward_proj='gated-relu', vocab_size=128, layer_norm_epsilon=1e-3), True),
    'mt5': ('MT5', dict(num_decoder_layers=1), True),
    'mt5-tied': ('MT5', dict(d_kv=4), False),
}


@pytest.mark.parametrize('name', LIVE)
def test_live_comparison(name, transformers, tmp_path):
    import torch

    kind, fields, untied = LIVE[name]
    sizes = dict(
        vocab_size=101, d_model=24, d_kv=8, d_ff=50, num_layers=2, num_heads=2, decoder_start_token_id=0, relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
    )  # fmt: skip
    model = getattr(transformers, f'{kind}ForConditionalGeneration')(getattr(transformers, f'{kind}Config')(**{**sizes, **fields}))
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    random = np.random.default_rng(1)
    ids, mask = random.integers(1, 101, (4, 33)), (np.arange(33) < np.array([33, 7, 2, 12])[:, None]).astype(np.int64)
    labels = np.where(np.arange(15) < np.array([4, 15, 9, 1])[:, None], random.integers(1, 101, (4, 15)), -100)
    arrays = {'input_ids': ids, 'attention_mask': mask, 'labels': labels}
    config = compare(random_weights(model), transformers.AutoModelForSeq2SeqLM, arrays, tmp_path)
    assert config.tie_embeddings != untied
    assert config.scale_logits == getattr(model.config, 'scale_decoder_outputs', False)
