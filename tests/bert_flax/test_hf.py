"""BERT's Hugging Face folders, whatever their age and spelling: names, precisions, heads and fields."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as library

from bert_flax.hf import Bert
from t5x_lite.config import Activation, ModelConfig, NormPlace, Pooling
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.interop import folder
from tests.bert_flax.hf_folders import ALL, assert_same_tree, batch_of, edit, expected
from tests.interop import CLASSIFIER, ENCODER, SHARDED, SINGLE


def old_name(name):
    return name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')


@pytest.mark.parametrize(
    'variant',
    [
        dict(rename=old_name),
        dict(rename=lambda name: name.removeprefix('bert.')),
        dict(
            add=lambda values: {
                'bert.embeddings.position_ids': np.arange(32)[None],
                'bert.embeddings.token_type_ids': np.zeros((1, 32), np.int64),
            }
        ),
        dict(add=lambda values: {'cls.predictions.decoder.weight': values['bert.embeddings.word_embeddings.weight']}),
        dict(add=lambda values: {'cls.predictions.decoder.bias': values['cls.predictions.bias']}),
        dict(rename={'cls.predictions.bias': 'cls.predictions.decoder.bias'}.get),
        dict(rename={'bert.embeddings.word_embeddings.weight': 'cls.predictions.decoder.weight'}.get),
        dict(architectures=['BertForMaskedLM']),  # as google-bert/bert-base-uncased has it, with all heads in the file
        dict(architectures=None),
        dict(layer_norm_eps=None, initializer_range=None, is_decoder=None, tie_word_embeddings=None, position_embedding_type='absolute'),
    ],
    ids=[
        'gamma',
        'no-prefix',
        'buffers',
        'decoder-too',
        'bias-twice',
        'decoder-bias',
        'decoder-alone',
        'masked-lm',
        'unstated',
        'defaults',
    ],
)
def test_older_spellings_are_the_same_model(variant, tmp_path):
    config, params = folder.load(str(SINGLE))
    rename = variant.get('rename', lambda name: name)
    path = edit(SINGLE, tmp_path, **{**variant, 'rename': lambda name: rename(name) or name})
    edited_config, edited_params = folder.load(str(path))
    assert_same_tree(edited_params, params)
    stated = variant.get('architectures', 'BertForPreTraining') == ['BertForMaskedLM']
    assert edited_config.module == ('bert_flax.bert:BertForMaskedLm' if stated else 'bert_flax.bert:BertForPreTraining')
    assert {**vars(edited_config), 'module': ''} == {**vars(config), 'module': ''}


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_as_float32_and_said(dtype, tmp_path, caplog):
    config, params = folder.load(str(edit(SINGLE, tmp_path, cast=dtype)))
    _, exact = folder.load(str(SINGLE))
    assert_same_tree(params, jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), exact))
    assert 'are read as float32' in caplog.text and {np.float16: 'F16'}.get(dtype, 'BF16') in caplog.text
    folder.save(str(tmp_path / 'out'), config, params)
    assert folder.read_fields(str(tmp_path / 'out'))['dtype'] == 'float32'
    assert_same_tree(folder.load(str(tmp_path / 'out'))[1], params)


def test_an_untied_decoder_is_refused(tmp_path):
    path = edit(
        SINGLE, tmp_path, add=lambda values: {'cls.predictions.decoder.weight': values['bert.embeddings.word_embeddings.weight'] + 1}
    )
    with pytest.raises(UserError, match='cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight; only tied'):
        folder.load(str(path))


def test_one_weight_under_two_names_is_refused(tmp_path):
    path = edit(SINGLE, tmp_path, add=lambda values: {'pooler.dense.bias': values['bert.pooler.dense.bias']})
    with pytest.raises(UserError, match='are the same weight'):
        folder.load(str(path))


def test_heads_of_other_tasks_are_left_out_and_said(tmp_path, caplog):
    """Heads have each other's names: without a word of what they are, they are taken for none."""
    path = edit(CLASSIFIER, tmp_path, add=lambda values: {'qa_outputs.bias': np.zeros(2, np.float32)}, architectures=['BertForSomethingElse'])
    config, params = folder.load(str(path))
    assert (config.module, config.num_labels, params.keys()) == ('bert_flax.bert:Bert', 0, {'encoder'})
    assert 'heads are left out' in caplog.text and 'qa_outputs.bias' in caplog.text


def test_a_token_classifier_and_back(tmp_path):
    """Its body is BERT's; a pooler that lies beside it is left out."""
    path = edit(CLASSIFIER, tmp_path, architectures=['BertForTokenClassification'])
    config, params = folder.load(str(path))
    assert (config.module, config.body, config.num_labels) == ('t5x_lite.models.heads:TokenHead', 'bert_flax.bert:Bert', 3)
    assert params.keys() == {'encoder', 'classifier'} and 'pooler' not in params['encoder']
    folder.save(str(tmp_path / 'out'), config, params, labels=('O', 'B', 'I'))
    assert folder.read_fields(str(tmp_path / 'out'))['architectures'] == ['BertForTokenClassification']
    assert_same_tree(folder.load(str(tmp_path / 'out'))[1], params)


@pytest.mark.parametrize('name, module, head', [
    ('BertForMultipleChoice', 't5x_lite.models.heads:ChoiceHead', {'classifier.weight': (1, 32), 'classifier.bias': (1,)}),
    ('BertForQuestionAnswering', 't5x_lite.models.heads:SpanHead', {'qa_outputs.weight': (2, 32), 'qa_outputs.bias': (2,)}),
])  # fmt: skip
def test_choices_and_spans_and_back(name, module, head, tmp_path):
    """Neither has labels, and how many choices a question has is not the folder's business."""
    new = {key: np.random.default_rng(0).normal(size=shape).astype(np.float32) for key, shape in head.items()}
    path = edit(CLASSIFIER, tmp_path, add=lambda values: new, architectures=[name])
    config, params = folder.load(str(path))
    assert (config.module, config.body, config.num_labels) == (module, 'bert_flax.bert:Bert', 0)
    assert params.keys() == {'encoder', 'span' if 'qa_outputs.bias' in head else 'classifier'}
    folder.save(str(tmp_path / 'out'), dataclasses.replace(config, num_labels=4), params)
    fields = folder.read_fields(str(tmp_path / 'out'))
    assert fields['architectures'] == [name] and 'id2label' not in fields
    written = library.load_file(tmp_path / 'out' / 'model.safetensors')
    assert all(np.array_equal(written[key], value) for key, value in new.items())
    assert_same_tree(folder.load(str(tmp_path / 'out'))[1], params)


def test_heads_of_ours_are_exported_where_transformers_has_them(tmp_path):
    config, params = folder.load(str(CLASSIFIER))
    ours = dataclasses.replace(config, module='t5x_lite.models.heads:SequenceHead', body='bert_flax.bert:Bert')
    for number, known in enumerate((config, ours, dataclasses.replace(config, body='bert_flax.bert:Bert'))):
        folder.save(str(tmp_path / f'out{number}'), known, params)
        assert folder.read_fields(str(tmp_path / f'out{number}'))['architectures'] == ['BertForSequenceClassification']
    with pytest.raises(UserError, match='config.model.pooling=mean cannot be exported'):
        folder.save(str(tmp_path / 'mean'), dataclasses.replace(ours, pooling=Pooling.mean), params)
    with pytest.raises(UserError, match='SequenceHead.* on t5x_lite.models.language_model:EncoderDecoder has no counterpart'):
        folder.save(str(tmp_path / 't5'), dataclasses.replace(ours, body='t5x_lite.models.language_model:EncoderDecoder'), params)


def test_a_stated_head_that_is_absent_is_an_error(tmp_path):
    with pytest.raises(
        UserError, match='weights are missing that config.json asks for: cls.predictions.transform.dense.weight, .* and 4 more'
    ):
        folder.load(str(edit(ENCODER, tmp_path, architectures=['BertForPreTraining'])))


def test_the_caller_may_name_the_module():
    config, params = folder.load(str(SINGLE), module='bert_flax.bert:BertForClassification')
    assert config.module == 'bert_flax.bert:BertForClassification'
    assert params.keys() == {'encoder', 'mlm', 'nsp'}


def test_a_folder_that_says_masked_lm_but_holds_all_heads_keeps_them(tmp_path):
    path = edit(SINGLE, tmp_path, architectures=['BertForMaskedLM'])
    folder.save(str(tmp_path / 'out'), *folder.load(str(path)))
    assert library.load_file(tmp_path / 'out' / 'model.safetensors').keys() == library.load_file(path / 'model.safetensors').keys()
    assert folder.read_fields(str(tmp_path / 'out'))['architectures'] == ['BertForPreTraining']


def test_every_field_is_read():
    config, _ = folder.load(str(SHARDED))
    assert config == ModelConfig(
        module='bert_flax.bert:BertForPreTraining', vocab_size=120, num_layers=3, d_model=32, num_heads=2, d_ff=64, max_positions=20,
        num_segments=2,
        activation=Activation.gelu_tanh, norm_eps=1e-3, dropout=0.2, attention_dropout=0.1, init_stddev=0.02,
    )  # fmt: skip


@pytest.mark.parametrize(
    'act, ours',
    [('gelu', 'gelu'), ('gelu_new', 'gelu_tanh'), ('gelu_pytorch_tanh', 'gelu_tanh'), ('gelu_fast', 'gelu_tanh'), ('relu', 'relu')],
)
def test_activations(act, ours):
    fields = folder.read_fields(str(SINGLE)) | {'hidden_act': act}
    assert Bert().model_config(fields, 'config.json').activation == Activation[ours]


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('position_embedding_type', 'relative_key', "position_embedding_type is 'relative_key'; only 'absolute' is supported"),
        ('is_decoder', True, 'is_decoder is True; only False is supported'),
        ('add_cross_attention', True, 'add_cross_attention is True'),
        ('tie_word_embeddings', False, 'tie_word_embeddings is False; only True'),
        ('pruned_heads', {'0': [1]}, 'pruned_heads'),
        ('quantization_config', {'bits': 4}, 'quantization_config'),
        ('hidden_act', 'silu', "hidden_act is 'silu', which is not supported; "),
        ('hidden_act', ['gelu'], "hidden_act is ['gelu'], which is not supported; "),
        ('hidden_act', None, 'field hidden_act is missing'),
        ('hidden_size', None, "field hidden_size is missing, did you mean 'hidden_act'?"),
        ('hidden_size', '32', "hidden_size is '32'; expected a whole number above 0"),
        ('num_hidden_layers', True, 'num_hidden_layers is True'),
        ('vocab_size', -1, 'vocab_size is -1'),
        ('num_attention_heads', 5, 'num_attention_heads=5 does not divide hidden_size=32'),
        ('layer_norm_eps', 'small', "layer_norm_eps is 'small'; expected a number"),
        ('hidden_dropout_prob', 1.0, 'hidden_dropout_prob is 1.0; it must be at least 0 and below 1'),
    ],
)
def test_what_we_do_not_have_is_refused_in_words(field, value, message):
    fields = folder.read_fields(str(SINGLE)) | {field: value}
    if value is None:
        del fields[field]
    with pytest.raises(UserError) as raised:
        Bert().model_config(fields, 'FOLDER/config.json')
    assert str(raised.value).startswith('FOLDER/config.json: ') and message in str(raised.value)


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('norm_place', NormPlace.pre, 'norm_place=pre cannot be exported: BERT in transformers has post only'),
        ('causal', True, 'causal=True'),  # which no parameter would show
        ('local_window', 8, 'local_window=8'),
        ('scale_attention', False, 'scale_attention=False'),
        ('head_size', 4, 'head_size=4 cannot be exported: BERT in transformers has d_model / num_heads only'),
    ],
)
def test_a_model_that_transformers_lacks_is_not_exported(field, value, message, tmp_path):
    config, params = folder.load(str(SINGLE))
    setattr(config, field, value)
    with pytest.raises(UserError) as raised:
        folder.save(str(tmp_path / 'out'), config, params)
    assert message in str(raised.value)


@ALL
def test_the_tree_is_the_one_that_the_module_makes(source):
    """Paths and shapes, from the module itself."""
    config, params = folder.load(str(source))
    shapes = jax.eval_shape(resolve(config.module)(config).init, jax.random.key(0), batch_of(expected(source)))['params']
    made = {path: leaf.value.shape if hasattr(leaf, 'value') else leaf.shape for path, leaf in folder._flatten(shapes)}
    if source == ENCODER:
        params = params['encoder']
    assert {path: leaf.shape for path, leaf in folder._flatten(params)} == made
