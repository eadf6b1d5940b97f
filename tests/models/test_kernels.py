"""Which implementation of attention is taken, and what is said of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import AttentionKernel, DType, MeshConfig, ModelConfig, SequenceAttention
from t5x_lite.errors import UserError
from t5x_lite.models import kernels
from t5x_lite.models.kernels import Asked, asked_of, choose, cudnn_attention, dense_attention
from t5x_lite.models.language_model import Decoder
from t5x_lite.models.placing import placed_by
from t5x_lite.training import partitioning
from tests.models import test_blockwise_attention as blockwise
from tests.models import test_language_model as language
from tests.training import small

SHORT = Asked('cpu', rows=8, queries=128, keys=128, heads=12, size=64, dtype='float32', bias=False, dropout=True)
LONG = dataclasses.replace(SHORT, rows=1, queries=16_384, keys=16_384)
H100 = dataclasses.replace(SHORT, platform='cuda', dtype='bfloat16', dropout=False)


def test_short_rows_are_dense_and_long_ones_blockwise():
    auto = AttentionKernel.auto
    assert choose(auto, SHORT) == (AttentionKernel.dense, 'the scores of a layer take 6.0 MiB on a device')
    assert choose(auto, LONG) == (AttentionKernel.blockwise, 'the scores of a layer take 12,288.0 MiB on a device, more than 32')
    assert choose(auto, dataclasses.replace(SHORT, queries=512, keys=512))[0] == AttentionKernel.blockwise
    assert choose(auto, dataclasses.replace(SHORT, queries=512, keys=512, platform='tpu'))[0] == AttentionKernel.dense
    assert choose(auto, dataclasses.replace(LONG, queries=1))[0] == AttentionKernel.dense  # decoding
    for kernel in (AttentionKernel.dense, AttentionKernel.blockwise):
        assert choose(kernel, SHORT)[0] == choose(kernel, LONG)[0] == kernel


@pytest.mark.parametrize(
    ('changed', 'lacks'),
    [
        ({'platform': 'cpu'}, 'this is cpu'), ({'platform': 'rocm'}, 'this is rocm'), ({'dtype': 'float32'}, 'not float32'), ({'bias': True}, 'bias'),
        ({'dropout': True}, 'dropout'), ({'size': 36}, 'heads of 36'), ({'size': 256}, 'heads of 256'), ({'keys': 100}, '128 queries and 100 keys'),
        ({'queries': 16_384, 'keys': 16_384}, 'a mask of 8 x 16384 x 16384'), ({'ring': 2}, 'config.mesh.sequence_attention=ring'),
    ],
)  # fmt: skip
def test_cudnn_where_it_can_do_all_that_is_asked(changed, lacks):
    for dtype in ('bfloat16', 'float16'):
        here = dataclasses.replace(H100, dtype=dtype)
        assert choose(AttentionKernel.auto, here)[0] == choose(AttentionKernel.cudnn, here)[0] == AttentionKernel.cudnn
    other = dataclasses.replace(H100, **changed)
    assert choose(AttentionKernel.auto, other)[0] in (AttentionKernel.dense, AttentionKernel.blockwise)
    with pytest.raises(UserError, match=f'config.model.attention=cudnn cannot be used here: .*{lacks}.*; take --config.model.attention=auto'):
        choose(AttentionKernel.cudnn, other)


def test_what_trains_with_a_makers_kernel_begins_and_decodes_with_others():
    """Its parameters are made of a batch of 8 tokens, on any device."""
    asked = dataclasses.replace(H100, queries=1, keys=100, cached=True)
    assert choose(AttentionKernel.cudnn, asked)[0] == choose(AttentionKernel.auto, asked)[0] == AttentionKernel.dense
    for kernel in (AttentionKernel.cudnn, AttentionKernel.splash):
        for name in ('gpt2', 'relative'):
            model = Decoder(dataclasses.replace(language.DECODERS[name], attention=kernel))
            shapes = jax.eval_shape(model.init, jax.random.key(0), language.alone(language.tokens()))['params']
            assert jax.tree.leaves(shapes)
            with pytest.raises(UserError, match=f'config.model.attention={kernel.name} cannot be used here'):
                jax.eval_shape(model.apply, {'params': shapes}, language.alone(language.tokens()))


V5P = dataclasses.replace(H100, platform='tpu')


@pytest.mark.parametrize(
    ('changed', 'lacks'),
    [
        ({'platform': 'cuda'}, 'this is cuda'), ({'bias': True}, 'bias'), ({'dropout': True}, 'dropout'), ({'mask': 'a window'}, 'and not a window'),
        ({'queries': 100}, '100 queries and 128 keys'), ({'keys': 192}, '128 queries and 192 keys'), ({'ring': 2}, 'config.mesh.sequence_attention=ring'),
    ],
)  # fmt: skip
def test_splash_where_it_can_do_all_that_is_asked(changed, lacks):
    for here in (V5P, dataclasses.replace(V5P, dtype='float32', size=80)):
        assert choose(AttentionKernel.auto, here)[0] == choose(AttentionKernel.splash, here)[0] == AttentionKernel.splash
    other = dataclasses.replace(V5P, **changed)
    assert choose(AttentionKernel.auto, other)[0] != AttentionKernel.splash
    with pytest.raises(UserError, match=f'config.model.attention=splash cannot be used here: .*{lacks}.*; take --config.model.attention=auto'):
        choose(AttentionKernel.splash, other)


def test_a_device_has_a_part_of_the_rows_and_heads():
    config = ModelConfig(num_heads=12, d_model=768, dtype=DType.bfloat16, attention_dropout=0.0)
    mesh = {'data': 2, 'fsdp': 2, 'tensor': 3, 'sequence': 1}
    assert asked_of(config, mesh, 32, 100, 200, bias=True, dropout=True) == Asked('cpu', 8, 100, 200, 4, 64, 'bfloat16', True, False)
    assert asked_of(config, {}, 32, 100, 200, bias=False, dropout=True).rows == 32


@pytest.mark.parametrize('name', ['none', 'packed, causal'])
def test_what_stands_around_cudnn(name, monkeypatch):
    """Masks, and zeros where there is nothing to attend to: with XLA's kernel of the same interface in its place."""
    xla = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, 'dot_product_attention', lambda *args, implementation, **given: xla(*args, implementation='xla', **given))
    mask, (q, k, v, weights, _) = blockwise.MASKS[name][0], blockwise.arrays()
    found, expected = (blockwise.outcome(attention, mask, q, k, v, weights, None, rate=0.0) for attention in (cudnn_attention, dense_attention))
    blockwise.compare(found, expected, 3e-6)


def test_auto_says_what_it_picks_and_gives_its_numbers(monkeypatch):
    """4 heads x 10 x 10 places of 2 rows are 3,200 bytes."""
    ids, params = language.tokens(), language.lively(Decoder(language.DECODERS['relative']))
    found, said = {}, []
    for kernel, most in ((AttentionKernel.dense, 0), (AttentionKernel.blockwise, 0), (AttentionKernel.auto, 3_200), (AttentionKernel.auto, 3_199)):
        monkeypatch.setattr(kernels, 'MOST_ON_CPU', most)
        module = Decoder(dataclasses.replace(language.DECODERS['relative'], attention=kernel))
        with kernels.telling(said.append):
            found[kernel, most] = jax.jit(functools.partial(module.apply, {'params': params}))(language.alone(ids))['lm_logits']
    size = 'the scores of a layer take 0.0 MiB on a device'
    shape = 'on cpu for 2 x 10 queries and 10 keys a device'
    assert said == [f'attention: dense {shape} ({size})', f'attention: blockwise {shape} ({size}, more than 0)']
    np.testing.assert_array_equal(found[AttentionKernel.auto, 3_200], found[AttentionKernel.dense, 0])
    np.testing.assert_array_equal(found[AttentionKernel.auto, 3_199], found[AttentionKernel.blockwise, 0])
    assert jnp.abs(found[AttentionKernel.dense, 0] - found[AttentionKernel.blockwise, 0]).max() > 0, 'two kernels'


RING = MeshConfig(data=2, sequence=4, sequence_attention=SequenceAttention.ring)


@pytest.mark.parametrize(
    ('mesh', 'queries', 'given', 'ring', 'said'),
    [
        (RING, 64, {}, 4, 'attention: dense on cpu for 4 x 16 queries and 16 keys a device (as config.model.attention says), in a ring of 4'),
        (dataclasses.replace(RING, sequence_attention=SequenceAttention.gather), 64, {}, 1, 'keys a device (as config.model.attention says)'),
        (dataclasses.replace(RING, data=8, sequence=1), 64, {}, 1, '; no ring: config.mesh.sequence=1 divides no row'),
        (RING, 64, {'cached': True}, 1, '; no ring: each device has all of a cache'),
        (RING, 64, {'in_front': True}, 1, '; no ring: keys stand in front of the row'),
        (RING, 66, {}, 1, '; no ring: 4 devices do not divide 66 queries and 64 keys'),
        (RING, 64, {'rows': 7}, 1, '; no ring: the mesh does not divide 7 rows'),
    ],
)  # fmt: skip
def test_where_keys_and_values_go_round(mesh, queries, given, ring, said):
    config = ModelConfig(num_heads=4, d_model=64, attention=AttentionKernel.dense)
    with jax.set_mesh(partitioning.make_mesh(small.config(mesh=dataclasses.asdict(mesh)))), placed_by(mesh):
        found = kernels.picked(config, queries=queries, keys=64, **({'rows': 8, 'bias': True, 'dropout': True, 'cached': False} | given))
    assert found.ring == ring and found.kernel is AttentionKernel.dense and found.holds_scores == (ring == 1) and found.said.endswith(said)


def test_a_ring_is_told_of_and_gives_the_numbers_of_one_device():
    """Also where the config does not ask for `auto`; a part of a row that is too long for its scores is cut into tiles."""
    ids, params = language.tokens(8, 12), language.lively(Decoder(language.DECODERS['relative']))
    module, said = Decoder(dataclasses.replace(language.DECODERS['relative'], attention=AttentionKernel.dense)), []
    expected = module.apply({'params': params}, language.alone(ids))['lm_logits']
    with jax.set_mesh(partitioning.make_mesh(small.config(mesh=dataclasses.asdict(RING)))), placed_by(RING), kernels.telling(said.append):
        found = jax.jit(functools.partial(module.apply, {'params': params}))(language.alone(ids))['lm_logits']
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert said == ['attention: dense on cpu for 4 x 3 queries and 3 keys a device (as config.model.attention says), in a ring of 4']
