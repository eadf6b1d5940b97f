"""Heads on chosen layers of a body: which states they read, how several become one, and that `features` stand for the body."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from t5x_lite.config import LayerMix, Pooling
from t5x_lite.models.heads import SequenceHead, SpanHead, TokenHead
from t5x_lite.training import paths
from t5x_lite.training.step import dummy_batch
from tests.models.test_heads import BODIES, batch, outputs_of, with_labels

HEADS = {'sequence': SequenceHead, 'token': TokenHead, 'span': SpanHead}


def made(module):
    return jax.jit(lambda: nn.unbox(module.init(jax.random.key(0), dummy_batch())['params']))()


def moved(params, seed=0):
    """Away from zeros and ones, so that nothing agrees by chance."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + rng.normal(scale=0.2, size=leaf.shape).astype(np.float32), params)


def layers_of(name, rows, params, read, **fields):
    """[B, L, S, D]"""
    module = TokenHead(with_labels(name, read_layers=read, **fields))
    return np.asarray(jax.jit(lambda params, rows: module.apply({'params': params}, rows, method='features'))(params, rows))


@pytest.mark.parametrize('name', BODIES)
def test_layers_are_what_a_body_of_that_depth_gives(name):
    """Layer 1 of two by a body of one layer, without the norm that may end it; layer 0 is the embeddings, the last the output."""
    depth = BODIES[name].num_layers
    rows, params = batch(), moved(made(TokenHead(with_labels(name))))
    found = layers_of(name, rows, params, tuple(range(depth + 1)))
    assert found.shape == (3, 8, depth + 1, BODIES[name].d_model)
    whole = outputs_of(TokenHead(with_labels(name)), params, rows)['hidden']
    np.testing.assert_array_equal(found[:, :, depth], whole)
    np.testing.assert_array_equal(layers_of(name, rows, params, (-1, 0)), found[:, :, [depth, 0]])
    np.testing.assert_allclose(layers_of(name, rows, params, tuple(range(depth + 1)), scan_layers=False), found, atol=1e-5)
    for layer in range(1, depth):
        cut = {path: leaf[: layer + 1] if paths.is_stacked(path) else leaf for path, leaf in paths.leaves(params).items()}
        shallow = layers_of(name, rows, paths.nested(cut), (layer,), num_layers=layer + 1)
        np.testing.assert_allclose(shallow[:, :, 0], found[:, :, layer], atol=1e-5)
    # Nothing of the context reaches the embeddings: one token changed changes that position alone.
    other = rows | {'tokens': rows['tokens'] + (np.arange(8)[None] == 2).astype(np.int32)}
    differs = (layers_of(name, other, params, (0,)) != found[:, :, :1]).any(axis=(0, 2, 3))
    assert differs.tolist() == [place == 2 for place in range(8)]


@pytest.mark.parametrize('name', BODIES)
def test_a_mix_is_the_mean_at_first_and_a_concatenation_wider(name):
    depth, rows = BODIES[name].num_layers, batch()
    weighted = TokenHead(with_labels(name, read_layers=(0, -1)))
    params = made(weighted)
    assert params['layer_mix']['weights'].shape == (2,) and params['layer_mix']['scale'].shape == ()
    layers = layers_of(name, rows, params, (0, depth))
    np.testing.assert_allclose(outputs_of(weighted, params, rows)['hidden'], layers.mean(2), atol=1e-5)
    changed = {**params, 'layer_mix': {'weights': np.log(np.float32([3, 1])), 'scale': np.float32(2)}}
    by_hand = 2 * (0.75 * layers[:, :, 0] + 0.25 * layers[:, :, 1])
    np.testing.assert_allclose(outputs_of(weighted, changed, rows)['hidden'], by_hand, atol=1e-5)
    wide = TokenHead(with_labels(name, read_layers=(0, -1), layer_mix=LayerMix.concatenated))
    wider = made(wide)
    assert wider['classifier']['kernel'].shape == (2 * BODIES[name].d_model, 5) and 'layer_mix' not in wider
    np.testing.assert_array_equal(outputs_of(wide, wider, rows)['hidden'], layers_of(name, rows, wider, (0, depth)).reshape(3, 8, -1))


@pytest.mark.parametrize(
    'name, head, read, mix',
    [
        ('bert', 'sequence', (), 'weighted'), ('bert', 'sequence', (0, -1), 'weighted'), ('bert', 'span', (1, -1), 'concatenated'),
        ('gpt', 'sequence', (1,), 'weighted'), ('gpt', 'token', (0, 1, -1), 'weighted'), ('t5', 'sequence', (), 'weighted'), ('t5', 'token', (0,), 'weighted'),
    ],
)  # fmt: skip
def test_features_stand_for_the_body(name, head, read, mix):
    """The same outputs, with nothing of the body at hand but BERT's pooler, which is no part of them."""
    for pooling in [Pooling.cls, Pooling.mean, Pooling.last] if head == 'sequence' else [Pooling.auto]:
        module = HEADS[head](with_labels(name, read_layers=read, layer_mix=LayerMix[mix], pooling=pooling))
        params, rows = moved(made(module)), batch()
        features = np.asarray(jax.jit(lambda params, rows: module.apply({'params': params}, rows, method='features'))(params, rows))
        body = paths.leaves(jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), dummy_batch(), method='features')['params'])))
        rest = {path: leaf for path, leaf in paths.leaves(params).items() if path not in body}
        assert {path.split('/')[0] for path in rest} <= {'classifier', 'span', 'layer_mix', 'encoder'} and all(
            'pooler' in path for path in rest if path.startswith('encoder')
        )
        whole = outputs_of(module, params, rows)
        cached = outputs_of(module, paths.nested(rest), rows | {'features': features})
        real = rows['sequence_ids'] > 0
        for logits in [key for key in whole if key.endswith('logits')]:
            ours, theirs = cached[logits], whole[logits]
            if head != 'sequence':
                ours, theirs = ours[real], theirs[real]
            np.testing.assert_allclose(ours, theirs, atol=2e-6 * max(1, np.abs(theirs).max()), err_msg=str(pooling))
        assert ('pooled' in cached) == ('pooled' in whole) == (name == 'bert' and head == 'sequence' and not read and pooling is Pooling.cls)


def test_layers_are_those_of_transformers(transformers):
    import torch

    from tests.interop import ENCODER, GPT2
    from t5x_lite.interop import folder

    for source, kind, body in ((ENCODER, 'BertModel', 'bert_flax.bert:Bert'), (GPT2, 'GPT2Model', 't5x_lite.models.language_model:Decoder')):
        config, params = folder.load(str(source))
        tokens = np.arange(3, 15, dtype=np.int32).reshape(2, 6)
        model = getattr(transformers, kind).from_pretrained(source).eval()
        with torch.no_grad():
            theirs = model(torch.tensor(tokens, dtype=torch.long), output_hidden_states=True).hidden_states
        module = TokenHead(dataclasses.replace(config, body=body, num_labels=2, read_layers=tuple(range(config.num_layers + 1))))
        rows = {'tokens': tokens, 'token_types': np.zeros_like(tokens), 'sequence_ids': np.ones_like(tokens)}
        ours = np.asarray(module.apply({'params': params}, rows, method='features'))
        for layer, states in enumerate(theirs):
            np.testing.assert_allclose(ours[:, :, layer], states.numpy(), atol=1e-4, err_msg=f'{kind} {layer}')
