"""Adapters: they begin at the pretrained model, they alone learn, and what is linear in them can be merged."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from t5x_lite.config import Adapters, TuneConfig
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.models.language_model import Decoder, EncoderDecoder
from t5x_lite.training import adapters, partitioning, paths
from t5x_lite.training.step import dummy_batch, make_program
from tests.models.test_language_model import GPT2, T5
from tests.training import small

MODEL = {'dropout': 0.0, 'attention_dropout': 0.0}
QUERY_VALUE = (('.*/attention/(query|value)', 4, 8.0),)
KINDS = {
    'lora': TuneConfig(lora=QUERY_VALUE),
    'lora everywhere': TuneConfig(lora=(('nsp', 2, 2.0), ('.*', 3, 1.0))),
    'ia3': TuneConfig(ia3=True),
    'houlsby': TuneConfig(adapters=Adapters.houlsby, adapter_size=5),
    'pfeiffer': TuneConfig(adapters=Adapters.pfeiffer, adapter_size=5),
    'prefix': TuneConfig(prefix=3),
    'prompt': TuneConfig(prompt=4),
    'two at once': TuneConfig(lora=QUERY_VALUE, adapters=Adapters.pfeiffer, adapter_size=5),
}
# Weights that each adds to the small BERT of 2 layers, 32 wide, 64 in the feed-forward.
COUNTS = {
    'lora': 2 * (2 * 2 * 4 * 32 + 2), 'ia3': 2 * (32 + 32 + 64), 'houlsby': 2 * 2 * (2 * 32 * 5 + 5 + 32), 'pfeiffer': 2 * (2 * 32 * 5 + 5 + 32),
    'prefix': 2 * 2 * 3 * 32, 'prompt': 4 * 32,
}  # fmt: skip


def boxed(module):
    return module.init(jax.random.key(0), dummy_batch())['params']


def lively(params):
    """Added ones at random, so that they matter; not so much that scores, which T5 does not scale, are large, and softmax makes rounding large."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        added = adapters.is_added(path) and adapters.learns(path)
        return np.asarray(leaf) + rng.normal(scale=0.1, size=leaf.shape).astype(np.float32) * added

    return paths.map_paths(value, params)


@pytest.fixture(scope='module')
def bert():
    config = small.config(model=MODEL)
    module = resolve(config.model.module)(config.model)
    return module, boxed(module)


def hidden(module, params):
    return np.asarray(module.apply({'params': params}, small.batch(4))['mlm_logits'])


@pytest.mark.parametrize('name', KINDS)
def test_training_begins_at_the_pretrained_model(name, bert):
    module, base = bert
    params = nn.unbox(adapters.added_to(KINDS[name], base, 0))
    added = {path: leaf for path, leaf in paths.leaves(params).items() if adapters.is_added(path)}
    if name in COUNTS:
        assert sum(leaf.size for leaf in added.values()) == COUNTS[name]
    assert len(paths.leaves(params)) == len(paths.leaves(nn.unbox(base))) + len(added)
    tolerance = 0 if name in ('lora', 'lora everywhere', 'ia3') else 2e-2
    if not KINDS[name].prompt:  # which changes what is read
        np.testing.assert_allclose(hidden(module, params), hidden(module, nn.unbox(base)), atol=tolerance)
    assert np.abs(hidden(module, lively(params)) - hidden(module, nn.unbox(base))).max() > 3e-4, 'they are used'


@pytest.mark.parametrize('name', KINDS)
def test_they_alone_learn(name):
    run = small.config(model=MODEL, tune=KINDS[name], init_fresh=('nsp/.*',))
    after = paths.leaves(small.train(run, steps=2, devices=small.one_device()).state.params)
    before = paths.leaves(make_program(run, partitioning.make_mesh(run, small.one_device())).init().params)
    assert before.keys() == after.keys()
    for path, leaf in after.items():
        learns = (adapters.is_added(path) or path.startswith('nsp/')) and adapters.learns(path)
        assert learns != np.array_equal(leaf, before[path]), path


@pytest.mark.parametrize('name', ['lora', 'lora everywhere', 'ia3'])
def test_merged_into_the_kernels_they_compute_the_same(name, bert):
    module, base = bert
    params = lively(nn.unbox(adapters.added_to(KINDS[name], base, 0)))
    merged = adapters.merged(params)
    assert jax.tree.map(np.shape, merged) == jax.tree.map(np.shape, nn.unbox(base))
    np.testing.assert_allclose(hidden(module, params), hidden(module, merged), atol=2e-5)
    assert adapters.merged(merged) is merged
    restored = adapters.unmerged(merged, params)
    for path, leaf in paths.leaves(nn.unbox(base)).items():
        np.testing.assert_allclose(paths.leaves(restored)[path], leaf, atol=1e-6, err_msg=path)


def test_what_cannot_be_taken_out_again(bert):
    kernel = {'a': {'kernel': np.ones((2, 3), np.float32)}}
    for added, words in (
        ({'a': {'scale_out': np.array([1.0, 0.0, 2.0], np.float32)}}, 'a/scale_out: a 0 in it has erased weights'),
        ({'b': {'scale_out': np.ones(3, np.float32)}}, 'there is no b/kernel in these weights'),
        ({'a': {'scale_in': np.ones(7, np.float32)}}, 'they are of another model'),
        ({'a': {'attention_adapter_down': np.ones(3, np.float32)}}, 'not linear and cannot be merged'),
    ):
        with pytest.raises(UserError, match=words):
            adapters.unmerged(kernel, added)


def test_a_bottleneck_cannot_be_merged(bert):
    with pytest.raises(UserError, match='a bottleneck adapter is not linear and cannot be merged'):
        adapters.merged(nn.unbox(adapters.added_to(KINDS['houlsby'], bert[1], 0)))


@pytest.mark.parametrize('module', [Decoder(GPT2), EncoderDecoder(dataclasses.replace(T5, num_decoder_layers=3))], ids=['gpt', 't5'])
def test_on_language_models(module):
    tune = TuneConfig(lora=(('.*/(attention|cross_attention)/(query|value)', 4, 8.0),), ia3=True)
    params = lively(nn.unbox(adapters.added_to(tune, boxed(module), 0)))
    batch = {name: np.arange(12, dtype=np.int32).reshape(2, 6) % 5 + 1 for name in ('tokens', 'decoder_tokens')}
    batch |= {name: np.ones((2, 6), np.int32) for name in ('sequence_ids', 'decoder_sequence_ids')}
    found, expected = (np.asarray(module.apply({'params': tree}, batch)['lm_logits']) for tree in (params, adapters.merged(params)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('name', ['lora everywhere', 'two at once', 'ia3', 'prefix', 'prompt'])
def test_on_a_mesh_in_microbatches(name):
    one = small.train(small.config(model=MODEL | {'scan_layers': False}, tune=KINDS[name]), devices=small.one_device())
    many = small.train(small.config(model=MODEL, tune=KINDS[name], mesh={'data': 2, 'fsdp': 2, 'tensor': 2}, optim={'microbatches': 2}))
    np.testing.assert_allclose(one.curve, many.curve, rtol=2e-5)
    assert small.largest_difference(one.state.params, many.state.params) < 2e-5


@pytest.mark.parametrize(
    ('tune', 'said'),
    [
        (TuneConfig(lora=(('.*/attention/qeury', 4, 8.0),)), "config.tune.lora: '.*/attention/qeury' matches no kernel; did you mean 'encoder/layers/attention/query'"),
        (
            TuneConfig(lora=(('.*', 4, 8.0), ('.*/query', 2, 8.0))),
            "config.tune.lora: '.*/query' decides nothing: encoder/layers/attention/query, and all else that it matches, is decided by what stands before it ('.*')",
        ),
        (TuneConfig(prefix=2, prefix_cross=True), 'config.tune.prefix_cross: this model has no layer that takes it, or config.tune.prefix is 0'),
        (TuneConfig(lora=(('.*/query', 0, 8.0),)), "the rank for '.*/query' is 0; it must be at least 1"),
        (TuneConfig(lora=(('.*/query', 4, float('nan')),)), "alpha for '.*/query' is nan; it must be above 0"),
        (TuneConfig(lora=(('.*/query', 4, 0.0),)), "alpha for '.*/query' is 0.0; it must be above 0"),
        (TuneConfig(lora=(('.*/(query', 4, 8.0),)), "config.tune.lora: '.*/(query' is not a regular expression"),
    ],
)
def test_what_cannot_be_added(tune, said, bert):
    with pytest.raises(UserError) as caught:
        adapters.added_to(tune, bert[1], 0)
    assert said in str(caught.value)


def test_rules_that_share_a_kernel_are_named(bert):
    """Of rules in an order the first counts; which two meet, and where, is said."""
    params = nn.unbox(bert[1])
    query, wide, value = ('.*/attention/query', 8, 16.0), ('.*/attention/(query|key|value)', 4, 8.0), ('.*/(query|value)', 2, 8.0)
    said = lambda *rules: adapters.shared_kernels(TuneConfig(lora=rules), params)  # noqa: E731
    assert said(query, wide) == [
        f'config.tune.lora: {query[0]!r} and {wide[0]!r} both match encoder/layers/attention/query; the first counts there (rank 8)'
    ]
    assert said() == said(wide) == said(query, ('.*/value', 2, 4.0)) == []
    lines = said(query, value, wide)
    assert [line.split(' both ')[0].removeprefix('config.tune.lora: ') for line in lines] == [
        f'{query[0]!r} and {value[0]!r}', f'{query[0]!r} and {wide[0]!r}', f'{value[0]!r} and {wide[0]!r}',
    ]  # fmt: skip
    assert 'both match encoder/layers/attention/value; ' in lines[2], 'the query there is neither\'s'
    added = nn.unbox(adapters.added_to(TuneConfig(lora=(query, wide)), bert[1], 0))['encoder']['layers']['attention']
    assert added['query']['lora_a'].shape[-1] == 8 and added['key']['lora_a'].shape[-1] == 4
    with pytest.raises(UserError, match='is not a regular expression'):
        said(query, ('.*/(query', 4, 8.0))
