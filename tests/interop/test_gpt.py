"""GPT-1 and GPT-2 folders beside transformers: the same numbers, names and fields; bit for bit in test_language_models.py.

Expected outputs are those of transformers, in tests/fixtures (see make_lm_fixtures.py there). Where torch and transformers are installed, they
run beside ours.
"""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.config import Activation, Init, ModelConfig, Norm, NormPlace, Positions
from t5x_lite.errors import UserError
from t5x_lite.interop import folder
from t5x_lite.interop.gpt import Gpt1, Gpt2
from tests.interop import GPT1, GPT2
from tests.interop.language_models import (
    TOLERANCE, apply, batch_of, compare, edit, expected, leaves, loss_of, made_by_the_module, off, random_weights,
)  # fmt: skip
from tests.interop.test_folder import assert_bitwise, refusal, tensors

BOTH = pytest.mark.parametrize('source', [GPT2, GPT1], ids=lambda path: path.name)
FAMILIES = {GPT2: Gpt2(), GPT1: Gpt1()}
WORDS = {GPT2: 'transformer.wte.weight', GPT1: 'transformer.tokens_embed.weight'}


@BOTH
def test_logits_and_loss(source):
    config, params = folder.load(str(source))
    arrays, batch = expected(source), batch_of(expected(source))
    assert off(config, params, arrays) < TOLERANCE
    assert abs(loss_of(config, apply(config, params, batch), batch) - arrays['loss']) < TOLERANCE


@BOTH
@pytest.mark.parametrize('mistake', ['activation', 'epsilon', 'place', 'swapped', 'joined', 'heads', 'scale'])
def test_the_tolerance_tells_mistakes_apart(source, mistake):
    """Each moves the logits by at least a hundred times what is allowed (the GELUs by ten: that is all they differ)."""
    config, params = folder.load(str(source))
    arrays, attention = expected(source), params['decoder']['layers']['attention']
    if mistake == 'activation':
        config.activation = Activation.gelu
    elif mistake == 'epsilon':
        config.norm_eps = 0.05
    elif mistake == 'place':
        params['embeddings']['position'] = {'embedding': np.roll(params['embeddings']['position']['embedding'], 1, axis=0)}
    elif mistake == 'swapped':
        attention['key'], attention['query'] = attention['query'], attention['key']
    elif mistake == 'joined':  # as if the three were interleaved by head
        joined = np.concatenate([attention[name]['kernel'] for name in ('query', 'key', 'value')], axis=-1)
        for part, name in enumerate(('query', 'key', 'value')):
            attention[name]['kernel'] = joined[..., part::3]
    elif mistake == 'heads':
        config.num_heads = 1
    else:
        config.scale_attention = False
    assert off(config, params, arrays) > (10 if mistake == 'activation' else 100) * TOLERANCE


@BOTH
def test_config_written_is_the_one_read(source, tmp_path):
    """Field for field, except ids, which are the tokenizer's, and those that say nothing of a language model."""
    folder.save(str(tmp_path / 'out'), *folder.load(str(source)))
    before, after = folder.read_fields(str(source)), folder.read_fields(str(tmp_path / 'out'))
    for name in before.keys() - {'transformers_version', 'use_cache', 'bos_token_id', 'eos_token_id'}:
        if not name.startswith('summary_'):
            assert after[name] == before[name], name


def test_every_field_is_read():
    common = {'module': 't5x_lite.models.language_model:Decoder', 'activation': Activation.gelu_tanh, 'dropout': 0.1, 'init_stddev': 0.02}
    assert folder.load(str(GPT2))[0] == ModelConfig(
        **common, vocab_size=97, d_model=24, num_layers=2, num_heads=3, d_ff=40, max_positions=40, norm_eps=1e-3, norm_place=NormPlace.pre,
        attention_dropout=0.2, init=Init.residual,
    )  # fmt: skip
    assert folder.load(str(GPT1))[0] == ModelConfig(
        **common, vocab_size=83, d_model=16, num_layers=3, num_heads=2, d_ff=64, max_positions=32, norm_eps=1e-5, norm_place=NormPlace.post,
        attention_dropout=0.1, init=Init.normal,
    )  # fmt: skip


@BOTH
@pytest.mark.parametrize('variant', ['no-prefix', 'buffers', 'head-too', 'head-alone', 'unstated', 'base', 'defaults'])
def test_older_spellings_are_the_same_model(source, variant, tmp_path):
    config, params = folder.load(str(source))
    words, buffer = WORDS[source], {f'transformer.h.{layer}.attn.bias': np.ones((1, 1, 8, 8), np.float32) for layer in range(2)}
    edits = {
        'no-prefix': dict(rename=lambda name: name.removeprefix('transformer.')),
        'buffers': dict(change=lambda values: buffer | {'transformer.h.0.attn.masked_bias': np.full((), -1e4, np.float32)}),
        'head-too': dict(change=lambda values: {'lm_head.weight': values[words]}),
        'head-alone': dict(rename=lambda name: 'lm_head.weight' if name == words else name),
        'unstated': dict(architectures=None),
        'base': dict(architectures=[FAMILIES[source].export_architecture(set()).replace('LMHead', '')]),
        'defaults': dict(tie_word_embeddings=None, initializer_range=None, n_ctx=99, **{FAMILIES[source].act: None}),
    }
    again, params_again = folder.load(str(edit(source, tmp_path, **edits[variant])))
    assert again == config
    assert_bitwise(leaves(params_again), leaves(params))


@BOTH
@pytest.mark.parametrize('stated', [True, False])
def test_a_head_of_its_own(source, stated, tmp_path):
    """As in transformers, whether config.json admits it or not."""
    def head(values):
        return {'lm_head.weight': np.random.default_rng(0).standard_normal(values[WORDS[source]].shape, np.float32)}

    path = edit(source, tmp_path, change=head, tie_word_embeddings=stated)
    config, params = folder.load(str(path))
    assert not config.tie_embeddings
    assert {name: leaf.shape for name, leaf in leaves(params).items()} == made_by_the_module(config, expected(source))
    np.testing.assert_array_equal(params['embeddings']['output']['kernel'][:, : config.vocab_size], tensors(path)['lm_head.weight'].T)
    folder.save(str(tmp_path / 'out'), config, params)
    assert_bitwise(tensors(tmp_path / 'out'), tensors(path))
    assert folder.read_fields(str(tmp_path / 'out'))['tie_word_embeddings'] is False


@BOTH
def test_broken_folders_are_named(source, tmp_path):
    def load(**edits):
        return refusal(folder.load, str(edit(source, tmp_path, **edits)))

    joined = 'transformer.h.1.attn.c_attn.weight'
    assert 'asks for: lm_head.weight;' in load(tie_word_embeddings=False)
    assert 'asks for: h.1.attn.c_attn.weight;' in load(change=lambda values: {joined: None})
    width = folder.read_fields(str(source))['n_embd']
    message = load(change=lambda values: {joined: values[joined].T.copy()})
    assert f'{joined} has shape ({3 * width}, {width}), but config.json makes it ({width}, {3 * width})' in message
    assert 'does not account for: transformer.h.1.' in load(n_layer=1) and 'check n_layer there' in load(n_layer=1)
    assert 'does not account for: ' in load(change=lambda values: {'transformer.h.0.crossattention.c_attn.weight': values[joined]})


@pytest.mark.parametrize('name, stated', [('score.weight', 'GPT2LMHeadModel'), ('qa_outputs.weight', 'GPT2ForQuestionAnswering')])
def test_other_heads_are_left_out_and_said(name, stated, tmp_path, caplog):
    """Those that we have, of classes and tags, are in test_heads.py."""
    path = edit(GPT2, tmp_path, change=lambda values: {name: np.zeros((2, 24), np.float32)}, architectures=[stated])
    assert folder.load(str(path))[0].module == 't5x_lite.models.language_model:Decoder'
    assert f'heads are left out: {name}' in caplog.text


@pytest.mark.parametrize(
    'source, field, value, message',
    [
        (GPT2, 'scale_attn_by_inverse_layer_idx', True, 'scale_attn_by_inverse_layer_idx is True; only False is supported'),
        (GPT2, 'reorder_and_upcast_attn', True, 'reorder_and_upcast_attn is True'),
        (GPT2, 'add_cross_attention', True, 'add_cross_attention is True'),
        (GPT2, 'quantization_config', {'bits': 4}, 'quantization_config'),
        (GPT2, 'scale_attn_weights', 'yes', "scale_attn_weights is 'yes'; expected true or false"),
        (GPT2, 'tie_word_embeddings', 1, 'tie_word_embeddings is 1; expected true or false'),
        (GPT2, 'activation_function', 'silu', "activation_function is 'silu', which is not supported; "),
        (GPT2, 'n_embd', None, 'field n_embd is missing'),
        (GPT2, 'n_head', 5, 'n_head=5 does not divide n_embd=24'),
        (GPT2, 'n_inner', 0, 'n_inner is 0; expected a whole number above 0'),
        (GPT2, 'resid_pdrop', 1.0, 'resid_pdrop is 1.0; it must be at least 0 and below 1'),
        (GPT2, 'layer_norm_epsilon', 'small', "layer_norm_epsilon is 'small'; expected a number"),
        (GPT1, 'afn', 'gelu_new', "afn is 'gelu_new', which is not supported; did you mean 'gelu'?"),
        (GPT1, 'n_positions', '32', "n_positions is '32'; expected a whole number above 0"),
    ],
)
def test_what_we_do_not_have_is_refused_in_words(source, field, value, message):
    fields = folder.read_fields(str(source)) | {field: value}
    if value is None:
        del fields[field]
    said = refusal(FAMILIES[source].model_config, fields, 'FOLDER/config.json')
    assert said.startswith('FOLDER/config.json: ') and message in said


@pytest.mark.parametrize(
    'source, change, message',
    [
        (GPT2, {'local_window': 4}, 'config.model.local_window=4 cannot be exported: GPT-2 in transformers has 0 only'),
        (GPT2, {'positions': Positions.relative}, 'positions=relative cannot be exported'),
        (GPT2, {'norm': Norm.rms}, 'norm=rms'),
        (GPT2, {'gated': True}, 'gated=True'),
        (GPT2, {'use_bias': False}, 'use_bias=False'),
        (GPT2, {'scale_logits': True}, 'scale_logits=True'),
        (GPT2, {'head_size': 6}, 'head_size=6'),
        (GPT1, {'activation': Activation.gelu}, 'activation=gelu cannot be exported: GPT-1'),
        (GPT1, {'scale_attention': False}, 'scale_attention=False cannot be exported: GPT-1'),
        (GPT1, {'d_ff': 60}, 'd_ff=60'),
    ],
)
def test_what_transformers_does_not_have_is_refused_in_words(source, change, message, tmp_path):
    config, params = folder.load(str(source))
    assert message in refusal(folder.save, str(tmp_path / 'out'), dataclasses.replace(config, **change), params)
    assert not (tmp_path / 'out').exists()


def test_parameters_that_do_not_fit_are_named(tmp_path):
    config, params = folder.load(str(GPT2))
    del params['decoder']['layers']['attention']['key']['bias']
    assert 'parameters are missing: decoder/layers/attention/key/bias' in refusal(folder.save, str(tmp_path / 'out'), config, params)
    with pytest.raises(UserError, match='no counterpart in transformers: decoder/final_norm/scale'):
        folder.save(str(tmp_path / 'out'), folder.load(str(GPT1))[0], folder.load(str(GPT2))[1])


# Beside transformers itself


LIVE = {
    'gpt2': ('GPT2', dict(n_embd=32, n_head=4)),
    'erf': ('GPT2', dict(n_embd=24, n_head=2, activation_function='gelu', n_inner=50, layer_norm_epsilon=1e-3, resid_pdrop=0.0)),
    'relu': ('GPT2', dict(n_embd=16, n_head=1, activation_function='relu', scale_attn_weights=False, vocab_size=128)),
    'untied': ('GPT2', dict(n_embd=16, n_head=2, tie_word_embeddings=False)),
    'gpt1': ('OpenAIGPT', dict(n_embd=24, n_head=3)),
    'gpt1-relu': ('OpenAIGPT', dict(n_embd=16, n_head=2, afn='relu', layer_norm_epsilon=1e-3)),
    'gpt1-untied': ('OpenAIGPT', dict(n_embd=16, n_head=2, tie_word_embeddings=False)),
}


@pytest.mark.parametrize('name', LIVE)
def test_live_comparison(name, transformers, tmp_path):
    kind, fields = LIVE[name]
    sizes = dict(vocab_size=101, n_layer=2, n_positions=24, bos_token_id=None, eos_token_id=None)
    model = getattr(transformers, f'{kind}LMHeadModel')(getattr(transformers, f'{kind}Config')(**{**sizes, **fields}))
    random = np.random.default_rng(1)
    ids, mask = random.integers(0, 101, (4, 13)), (np.arange(13) < np.array([13, 7, 2, 12])[:, None]).astype(np.int64)
    arrays = {'input_ids': ids, 'attention_mask': mask, 'labels': np.where(mask == 1, ids, -100)}
    config = compare(random_weights(model), transformers.AutoModelForCausalLM, arrays, tmp_path)
    assert config.tie_embeddings == ('untied' not in name)


def test_a_checkpoint_of_ours_loads_in_transformers(transformers, tmp_path):
    """Weights that never were in a folder of theirs."""
    import torch

    config = dataclasses.replace(folder.load(str(GPT2))[0], num_layers=3)
    arrays = expected(GPT2)
    shapes = made_by_the_module(config, arrays)
    random = np.random.default_rng(2)
    params: dict = {}
    for path, shape in shapes.items():
        *parents, last = path.split('/')
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = random.normal(size=shape, scale=0.2).astype(np.float32)
    folder.save(str(tmp_path / 'out'), config, jax.tree.map(jax.numpy.asarray, params))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out').eval()
    with torch.no_grad():
        logits = model(torch.tensor(arrays['input_ids']).long(), attention_mask=torch.tensor(arrays['attention_mask'])).logits.numpy()
    assert off(config, params, arrays | {'logits': logits}) < TOLERANCE
