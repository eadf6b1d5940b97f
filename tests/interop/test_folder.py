"""Folders in and out, for any family: bit for bit, frugal, and refused in words when broken."""

import errno
import json
import os
import shutil
import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy as library

from t5x_lite.config import ModelConfig
from t5x_lite.errors import UserError
from t5x_lite.interop import folder, safetensors
from t5x_lite.interop.fields import whole_number
from tests.interop import CLASSIFIER, ENCODER, FIXTURES, SHARDED, SINGLE


class Toy:
    """A family that is nothing like BERT: one stack, a table and an untied output whose vocabulary is the last axis of ours."""

    modules = {'ToyModel': 'tests.interop.test_folder:Toy'}
    required = {'ToyModel': ('body',)}
    always = ('body',)
    private = labelled = heads = frozenset()
    body = ''
    tied, head, depth = {}, '', 'num_layers'
    loss = source = ''
    _rules = (
        folder.Rule('body', 'h.{}.w', 'FD', 'stack/w', 'DF'),
        folder.Rule('body', 'table', 'VD', 'table', 'VD'),
        folder.Rule('body', 'head', 'VD', 'head', 'DV'),
    )

    def rules(self, config):
        return self._rules

    def exports(self, config):
        return True

    def canonical(self, name):
        return name

    def written(self, name, architecture):
        return name

    def sizes(self, config):
        return {'N': config.num_layers, 'V': config.vocab_size, 'D': config.d_model, 'F': config.d_ff}

    def architecture(self, stated, groups):
        return 'ToyModel'

    def export_architecture(self, groups):
        return 'ToyModel'

    def model_config(self, fields, where):
        sizes = {name: whole_number(fields, name, where) for name in ('vocab_size', 'd_model', 'd_ff', 'num_layers')}
        return ModelConfig(vocab_multiple=4, **sizes)

    def fields(self, config):
        return {'model_type': 'toy'} | {name: getattr(config, name) for name in ('vocab_size', 'd_model', 'd_ff', 'num_layers')}


def copy(source, tmp_path, name='broken'):
    target = tmp_path / name
    shutil.copytree(source, target)
    return target


def edit(path, **changes):
    """Sets fields of config.json; None removes."""
    fields = json.loads((path / 'config.json').read_text()) | changes
    (path / 'config.json').write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return path


def tensors(path):
    with safetensors.open_weights(str(path)) as weights:
        return {name: weights.read(name) for name in weights if 'position_ids' not in name}


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    assert '\n' not in str(raised.value)
    return str(raised.value)


def assert_bitwise(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize('source', [SINGLE, SHARDED, ENCODER, CLASSIFIER], ids=lambda path: path.name)
@pytest.mark.parametrize('shard', [30_000, 10**9])
def test_round_trip_is_bitwise(source, shard, tmp_path):
    config, params = folder.load(str(source))
    labels = folder.label_names(folder.read_fields(str(source))) if config.num_labels else ()
    folder.save(str(tmp_path / 'out'), config, params, str(source), max_shard_bytes=shard, labels=labels)
    assert_bitwise(tensors(tmp_path / 'out'), tensors(source))
    assert (tmp_path / 'out' / safetensors.INDEX).exists() == (shard == 30_000)
    again, params_again = folder.load(str(tmp_path / 'out'))
    assert again == config
    assert_bitwise(dict(folder._flatten(params_again)), dict(folder._flatten(params)))


@pytest.mark.parametrize('source', [SINGLE, SHARDED, ENCODER, CLASSIFIER], ids=lambda path: path.name)
def test_config_written_is_the_one_read(source, tmp_path):
    """Field for field, except those that say nothing of the model."""
    config, params = folder.load(str(source))
    before = folder.read_fields(str(source))
    labels = folder.label_names(before) if config.num_labels else ()
    folder.save(str(tmp_path / 'out'), config, params, str(source), labels=labels)
    after = folder.read_fields(str(tmp_path / 'out'))
    tanh = {'gelu_new', 'gelu_pytorch_tanh'}
    for name in before.keys() - {'transformers_version', 'use_cache', 'bos_token_id', 'eos_token_id'}:
        assert after[name] == before[name] or {after[name], before[name]} == tanh, name


def test_nans_infinities_and_negative_zeros_keep_their_bits(tmp_path):
    path = copy(SINGLE, tmp_path)
    values = library.load_file(path / 'model.safetensors')
    odd = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    values['bert.encoder.layer.1.intermediate.dense.weight'][:4, 3] = odd
    values['bert.embeddings.word_embeddings.weight'][7, :4] = odd
    library.save_file(values, path / 'model.safetensors')
    folder.save(str(tmp_path / 'out'), *folder.load(str(path)))
    assert_bitwise(tensors(tmp_path / 'out'), tensors(path))


def test_vocabulary_is_padded_with_zeros_and_exported_unpadded(tmp_path):
    config, params = folder.load(str(SINGLE))
    assert config.vocab_size == 120
    assert params['encoder']['embeddings']['word']['embedding'].shape == (128, 32)
    assert not params['encoder']['embeddings']['word']['embedding'][120:].any() and not params['mlm']['output_bias'][120:].any()
    params['encoder']['embeddings']['word']['embedding'][120:] = 1  # what training leaves there is nobody's business
    folder.save(str(tmp_path / 'out'), config, params)
    assert_bitwise(tensors(tmp_path / 'out'), tensors(SINGLE))


def test_jax_arrays_are_saved_too(tmp_path):
    config, params = folder.load(str(SINGLE))
    folder.save(str(tmp_path / 'out'), config, jax.tree.map(jax.numpy.asarray, params))
    assert_bitwise(tensors(tmp_path / 'out'), tensors(SINGLE))


def test_a_family_is_a_table(tmp_path, monkeypatch):
    """Nothing in the folder code is BERT's: another family, another tree, a vocabulary on another axis."""
    monkeypatch.setattr(folder, 'FAMILIES', {'toy': 'tests.interop.test_folder:Toy'})
    random = np.random.default_rng(0)
    values = {
        name: random.standard_normal(shape, np.float32)
        for name, shape in {'h.0.w': (3, 2), 'h.1.w': (3, 2), 'table': (5, 2), 'head': (5, 2)}.items()
    }
    library.save_file(values, tmp_path / 'model.safetensors')
    sizes = {'vocab_size': 5, 'd_model': 2, 'd_ff': 3, 'num_layers': 2}
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'toy', 'architectures': ['ToyModel'], **sizes}))
    config, params = folder.load(str(tmp_path))
    np.testing.assert_array_equal(params['stack']['w'], np.stack([values['h.0.w'].T, values['h.1.w'].T]))
    np.testing.assert_array_equal(params['head'], np.pad(values['head'].T, ((0, 0), (0, 3))))
    folder.save(str(tmp_path / 'out'), config, params)
    assert_bitwise(tensors(tmp_path / 'out'), values)


def test_loading_holds_the_tree_and_one_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, 'FAMILIES', {'toy': 'tests.interop.test_folder:Toy'})
    config = ModelConfig(module='tests.interop.test_folder:Toy', vocab_size=8, vocab_multiple=4, d_model=500, d_ff=500, num_layers=8)
    params = {
        'stack': {'w': np.ones((8, 500, 500), np.float32)},
        'table': np.ones((8, 500), np.float32),
        'head': np.ones((500, 8), np.float32),
    }
    folder.save(str(tmp_path / 'out'), config, params)
    tracemalloc.start()
    folder.load(str(tmp_path / 'out'))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (8 + 1) * 1_000_000 + 300_000


def test_files_are_as_readable_as_any_other(tmp_path):
    folder.save(str(tmp_path / 'out'), *folder.load(str(SINGLE)), str(SINGLE))
    assert len({path.stat().st_mode for path in (tmp_path / 'out').iterdir()}) == 1


def test_tokenizer_files_are_copied_and_completed(tmp_path):
    vocab_only = tmp_path / 'vocab'
    vocab_only.mkdir()
    shutil.copy(SINGLE / 'vocab.txt', vocab_only)
    folder.save(str(tmp_path / 'copied'), *folder.load(str(SINGLE)), str(SINGLE))
    folder.save(str(tmp_path / 'completed'), *folder.load(str(SINGLE)), str(vocab_only))
    for name in ('tokenizer.json', 'tokenizer_config.json', 'vocab.txt'):
        assert (tmp_path / 'copied' / name).read_bytes() == (SINGLE / name).read_bytes()
        assert (tmp_path / 'completed' / name).exists()
    assert (tmp_path / 'completed' / 'vocab.txt').read_bytes() == (SINGLE / 'vocab.txt').read_bytes()
    assert folder.read_fields(str(tmp_path / 'completed'))['pad_token_id'] == 0


def test_which_folders_are_hugging_faces(tmp_path):
    assert all(folder.is_hf_folder(str(path)) for path in (SINGLE, SHARDED, ENCODER, CLASSIFIER))
    assert (
        not folder.is_hf_folder(str(FIXTURES))
        and not folder.is_hf_folder(str(tmp_path / 'none'))
        and not folder.is_hf_folder(str(SINGLE / 'config.json'))
    )
    (tmp_path / 'config.json').write_text('{"seed": 0, "model": {}}')
    assert not folder.is_hf_folder(str(tmp_path))  # a workdir of ours
    for name in ('config.json', 'model.safetensors'):  # one of the two is enough to be meant as one: `load` says what is missing
        path = copy(SINGLE, tmp_path, f'without-{name}')
        os.remove(path / name)
        assert folder.is_hf_folder(str(path))


def test_missing_config_is_named(tmp_path):
    path = copy(SINGLE, tmp_path)
    os.remove(path / 'config.json')
    assert 'config.json: does not exist' in refusal(folder.load, str(path))


@pytest.mark.parametrize('content', ['', '{', '[1]', '{"model_type": "bert"', '[' * 100_000])
def test_broken_config_is_named(content, tmp_path):
    path = copy(SINGLE, tmp_path)
    (path / 'config.json').write_text(content)
    assert 'config.json: ' in refusal(folder.load, str(path))


def test_unknown_model_type_names_what_is_known(tmp_path):
    assert "model_type is 'bart', which is not supported; did you mean 'bert'?" in refusal(
        folder.load, str(edit(copy(SINGLE, tmp_path, 'a'), model_type='bart'))
    )
    assert 'field model_type is missing; add' in refusal(folder.load, str(edit(copy(SINGLE, tmp_path, 'b'), model_type=None)))


def test_shape_mismatch_names_the_parameter_and_both_shapes(tmp_path):
    message = refusal(folder.load, str(edit(copy(SINGLE, tmp_path), intermediate_size=48)))
    assert 'bert.encoder.layer.0.intermediate.dense.weight has shape (64, 32), but config.json makes it (48, 32)' in message
    assert 'model.safetensors' in message


def test_missing_weights_are_named(tmp_path):
    path = copy(SINGLE, tmp_path)
    values = library.load_file(path / 'model.safetensors')
    del values['bert.encoder.layer.1.attention.self.key.bias']
    library.save_file(values, path / 'model.safetensors')
    assert 'weights are missing that config.json asks for: encoder.layer.1.attention.self.key.bias;' in refusal(folder.load, str(path))


def test_layers_more_or_fewer_than_the_config_says_are_refused(tmp_path):
    assert 'encoder.layer.2.attention.self.query.weight, ' in refusal(
        folder.load, str(edit(copy(SINGLE, tmp_path, 'more'), num_hidden_layers=3))
    )
    message = refusal(folder.load, str(edit(copy(SINGLE, tmp_path, 'fewer'), num_hidden_layers=1)))
    assert 'does not account for: bert.encoder.layer.1.' in message and 'num_hidden_layers' in message


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    path = copy(SINGLE, tmp_path)
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        os.remove(path / name)
    with open(path / 'vocab.txt', 'a') as file:
        file.write('extra\n')
    config, params = folder.load(str(SINGLE))
    expected = 'the tokenizer has 121 pieces and the weights only 120 rows'
    assert expected in refusal(folder.load, str(path))
    assert expected in refusal(folder.save, str(tmp_path / 'out'), config, params, str(path))
    assert not (tmp_path / 'out').exists()


def test_parameters_that_do_not_fit_are_named_before_anything_is_written(tmp_path):
    config, params = folder.load(str(SINGLE))
    out = str(tmp_path / 'out')

    def without(path):
        tree = jax.tree.map(lambda leaf: leaf, params)
        node = tree
        for part in path.split('/')[:-1]:
            node = node[part]
        del node[path.split('/')[-1]]
        return tree

    assert 'parameters are missing: encoder/layers/mlp/wi/bias' in refusal(folder.save, out, config, without('encoder/layers/mlp/wi/bias'))
    assert 'parameters are missing: encoder/embeddings' in refusal(folder.save, out, config, {'nsp': params['nsp']})
    assert 'no counterpart in transformers: adapter' in refusal(folder.save, out, config, params | {'adapter': np.zeros(3)})
    wrong = params | {'nsp': {'kernel': np.zeros((32, 3), np.float32), 'bias': params['nsp']['bias']}}
    assert 'parameter nsp/kernel has shape (32, 3), but the config makes it (32, 2)' in refusal(folder.save, out, config, wrong)
    config.module = 'bert_flax.bert:BertForEverything'
    assert 'did you mean' in refusal(folder.save, out, config, params)
    assert os.listdir(tmp_path) == []


def test_an_output_with_something_in_it_is_left_alone(tmp_path):
    config, params = folder.load(str(SINGLE))
    (tmp_path / 'out').mkdir()
    folder.save(str(tmp_path / 'out'), config, params)  # an empty one is fine
    before = {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
    assert 'exists and is not empty' in refusal(folder.save, str(tmp_path / 'out'), config, params)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()} == before


@pytest.mark.parametrize(
    'error', [OSError(errno.ENOSPC, 'No space left on device'), safetensors.safetensors.SafetensorError('No space left on device')]
)
def test_a_full_disk_leaves_nothing_behind(error, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(library, 'save_file', full)
    assert 'No space left on device' in refusal(folder.save, str(tmp_path / 'out'), *folder.load(str(SINGLE)), str(SINGLE))
    assert os.listdir(tmp_path) == []


def test_labels_keep_their_order_and_number(tmp_path):
    config, params = folder.load(str(CLASSIFIER))
    assert config.num_labels == 3
    assert folder.label_names(folder.read_fields(str(CLASSIFIER))) == ('no', 'perhaps', 'yes')
    assert '2 labels (no, yes) for config.model.num_labels=3' in refusal(
        folder.save, str(tmp_path / 'out'), config, params, labels=('no', 'yes')
    )
    assert folder.label_names({'id2label': {'1': 'b', '0': 'a'}}) == ('a', 'b')
    assert folder.label_names({}) == ('LABEL_0', 'LABEL_1')
    assert 'id2label' in refusal(folder.label_names, {'id2label': {'0': 'a', '2': 'b'}})


def test_regression_is_one_label_that_transformers_knows_as_such(tmp_path):
    config, params = folder.load(str(CLASSIFIER))
    config.num_labels = 1
    params['classifier'] = {'kernel': params['classifier']['kernel'][:, :1], 'bias': params['classifier']['bias'][:1]}
    folder.save(str(tmp_path / 'out'), config, params)
    assert folder.read_fields(str(tmp_path / 'out'))['problem_type'] == 'regression'
    assert folder.load(str(tmp_path / 'out'))[0].num_labels == 1
