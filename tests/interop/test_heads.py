"""GPT's heads for classes and tags, T5's for tags: our tree to transformers' folder and back, and the same numbers where transformers is installed."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.config_values import from_json
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.interop import conversion, folder
from t5x_lite.training import paths
from t5x_lite.training.step import dummy_batch
from tests.interop import GPT1, GPT2, T5, T5_1_1
from tests.interop.language_models import edit
from tests.interop.test_folder import assert_bitwise

CLASSES, TAGS = 't5x_lite.models.heads:SequenceHead', 't5x_lite.models.heads:TokenHead'
CASES = pytest.mark.parametrize('source, module, name', [
    (GPT2, CLASSES, 'GPT2ForSequenceClassification'), (GPT2, TAGS, 'GPT2ForTokenClassification'), (GPT1, CLASSES, 'OpenAIGPTForSequenceClassification'),
    (T5, TAGS, 'T5ForTokenClassification'), (T5_1_1, TAGS, 'T5ForTokenClassification'),
])  # fmt: skip


def fine_tuned(source, module, **fields):
    """(config, parameters) of a head on the weights of a folder."""
    config, params = folder.load(str(source))
    params = {name: part for name, part in params.items() if name != 'decoder' or 'encoder' not in params}  # heads of a T5 are on its encoder
    params['embeddings'].pop('output', None)
    config = dataclasses.replace(config, module=module, body=config.module, num_labels=3, head_bias=module == TAGS, **fields)
    rng = np.random.default_rng(0)
    params['classifier'] = {'kernel': rng.normal(size=(config.d_model, 3)).astype(np.float32)}
    if config.head_bias:
        params['classifier']['bias'] = rng.normal(size=3).astype(np.float32)
    made = jax.eval_shape(lambda: resolve(module)(config).init(jax.random.key(0), dummy_batch())['params'])
    assert {path.removesuffix('/value') for path in paths.leaves(made)} == set(paths.leaves(params)), 'what the module has, the folder holds'
    return config, params


@CASES
def test_there_and_back_is_bitwise(source, module, name, tmp_path):
    config, params = fine_tuned(source, module)
    folder.save(str(tmp_path / 'out'), config, params, labels=('x', 'y', 'z'))
    fields = folder.read_fields(str(tmp_path / 'out'))
    assert fields['architectures'] == [name] and folder.label_names(fields) == ('x', 'y', 'z')
    again, theirs = folder.load(str(tmp_path / 'out'))
    assert again == config
    assert_bitwise(paths.leaves(theirs), paths.leaves(params))


@CASES
def test_an_output_layer_of_its_own_is_not_the_heads_business(source, module, name, tmp_path):
    config, params = fine_tuned(source, module, tie_embeddings=False)
    folder.save(str(tmp_path / 'out'), config, params)
    assert folder.load(str(tmp_path / 'out'))[0] == config


def test_a_workdir_knows_its_labels_and_its_loss(tmp_path):
    for module, loss in ((CLASSES, 't5x_lite.tasks.classification:LabelledLoss'), (TAGS, 't5x_lite.tasks.tagging:TaggingLoss')):
        config, params = fine_tuned(GPT2, module)
        place = tmp_path / module.partition(':')[2]
        folder.save(str(place), config, params, labels=('x', 'y', 'z'))
        native = conversion.to_native(str(place), str(tmp_path / f'{place.name}.native'))
        assert native.loss == loss and native.data.labels == ('x', 'y', 'z') and not native.data.concatenate
        assert from_json(str(tmp_path / f'{place.name}.native' / 'config.json')).model == config


def test_what_transformers_lacks_is_refused(tmp_path):
    config, params = fine_tuned(GPT2, CLASSES)
    of_t5 = fine_tuned(T5, TAGS)
    with pytest.raises(UserError, match='config.model.head_bias=False cannot be exported: T5 in transformers tags with a bias; fine-tune with'):
        folder.save(str(tmp_path / 'out'), dataclasses.replace(of_t5[0], head_bias=False), of_t5[1])
    for fields, words in (
        ({'head_bias': True}, 'config.model.head_bias=True cannot be exported: GPT-2 in transformers classifies without a bias; fine-tune with'),
        ({'pooling': resolve('t5x_lite.config:Pooling').mean}, 'config.model.pooling=mean cannot be exported'),
    ):
        with pytest.raises(UserError, match=words):
            folder.save(str(tmp_path / 'out'), dataclasses.replace(config, **fields), params)
    with pytest.raises(UserError, match=r"architectures is \['T5ForSequenceClassification'\]; only T5ForConditionalGeneration"):
        folder.load(str(edit(T5, tmp_path, architectures=['T5ForSequenceClassification'])))
    with pytest.raises(UserError, match='SequenceHead.* on t5x_lite.models.language_model:EncoderDecoder has no counterpart in transformers'):
        folder.save(str(tmp_path / 'out'), dataclasses.replace(config, body='t5x_lite.models.language_model:EncoderDecoder'), params)


@CASES
def test_numbers_are_those_of_transformers(source, module, name, transformers, tmp_path):
    import torch

    config, params = fine_tuned(source, module)
    folder.save(str(tmp_path / 'out'), config, params)
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / 'out', output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    theirs.eval().config.pad_token_id = 0
    tokens = np.random.default_rng(1).integers(1, config.vocab_size, (3, 9))
    lengths = np.array([9, 4, 1])
    real = np.arange(9) < lengths[:, None]
    tokens = np.where(real, tokens, 0)
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(real.astype(np.int64))).logits.numpy()
    batch = {'tokens': tokens.astype(np.int32), 'sequence_ids': real.astype(np.int32)}
    found = np.asarray(jax.jit(lambda params: resolve(module)(config).apply({'params': params}, batch)['logits'])(params))
    where = real if module == TAGS else np.ones(3, bool)
    np.testing.assert_allclose(found[where], wanted[where], atol=1e-4)
    assert np.abs(wanted[where]).max() > 0.1
