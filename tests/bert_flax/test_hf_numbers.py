"""BERT's numbers beside those of transformers, which are in tests/fixtures (see make_bert_fixtures.py there)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as library

from t5x_lite.config import Activation, Config, ModelConfig
from t5x_lite.dotted_names import resolve
from t5x_lite.interop import folder
from tests.bert_flax.hf_folders import ALL, TOLERANCE, apply, batch_of, expected, minilm, near, real
from tests.interop import CLASSIFIER, FIXTURES, SHARDED, SINGLE

PRETRAINING = pytest.mark.parametrize('source', [SINGLE, SHARDED], ids=lambda path: path.name)


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
