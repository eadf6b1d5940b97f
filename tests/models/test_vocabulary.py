"""Logits in chunks: the sums, gradients and metrics of the whole, for every option of the losses and every output layer."""

import dataclasses
import operator
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from bert_flax.bert import BertForMaskedLm, BertForPreTraining
from bert_flax.losses import MlmLoss, MlmNspLoss
from t5x_lite.config import Config, DType, MeshConfig, ModelConfig, TuneConfig
from t5x_lite.models.language_model import Decoder, EncoderDecoder
from t5x_lite.models.layers import hide_padded
from t5x_lite.models.products import product
from t5x_lite.models.vocabulary import output_layer
from t5x_lite.training import partitioning
from t5x_lite.training.losses import LmLoss, divide
from t5x_lite.training.step import make_program
from tests.training import small
from tests.training.test_step_of_language_models import GPT, T5, batch as lm_batch

FEW = 0.004  # megabytes: eight rows of 128 logits
OPTIONS = {'plain': {}, 'z_loss': {'z_loss': 0.01}, 'smoothing': {'label_smoothing': 0.1}, 'both': {'z_loss': 0.01, 'label_smoothing': 0.1}}


def layer_of(x, table, axes, bias, megabytes, dtype=DType.float32):
    """Outputs as a module gives them, of which the logits are used where `megabytes` is 0."""
    config = ModelConfig(vocab_size=100, logits_megabytes=megabytes, dtype=dtype)
    logits = product(f'BLD,{axes}->BLV', x, table, jnp.dtype(dtype.value)).astype(jnp.float32)
    return {'lm_logits': hide_padded(logits if bias is None else logits + bias[None, None], 100)} | output_layer(config, x, table, axes, bias)


def some(axes: str = 'VD', length: int = 6):
    rng = np.random.default_rng(0)
    x, table, bias = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, length, 16), (128, 16), (128,)))
    batch = {
        'targets': jnp.asarray(rng.integers(0, 100, (4, length)), jnp.int32),
        'target_weights': jnp.asarray(rng.uniform(0, 2, (4, length)) * rng.integers(0, 2, (4, length)), jnp.float32),
    }
    return (x, table if axes == 'VD' else table.T, bias), batch


def results(given, batch, axes, megabytes, dtype=DType.float32, **options):
    """((loss, metrics), gradients of states, table and bias)."""
    loss = LmLoss(Config(model=ModelConfig(vocab_size=100), **options))

    def mean(x, table, bias):
        outputs = layer_of(x, table, axes, bias, megabytes, dtype)
        assert ('output_layer' in outputs) == (megabytes > 0)
        terms, metrics = loss(outputs, batch)
        return divide(terms['lm_loss'], loss.weights(batch)['lm_loss']), metrics

    return jax.jit(jax.value_and_grad(mean, (0, 1) if given[2] is None else (0, 1, 2), has_aux=True))(*given)


def assert_near(found, expected, tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance), found, expected)


@pytest.mark.parametrize('options,axes', [*((name, 'VD') for name in OPTIONS), ('both', 'DV')])
def test_values_and_gradients_are_those_of_the_whole(options, axes):
    given, batch = some(axes)
    chunked = results(given, batch, axes, FEW, **OPTIONS[options])
    assert_near(chunked, results(given, batch, axes, 0, **OPTIONS[options]), 1e-6)
    assert all(np.abs(gradient).max() > 1e-3 for gradient in chunked[1])
    table = np.asarray(chunked[1][1] if axes == 'VD' else chunked[1][1].T)
    assert not table[100:].any() and not np.asarray(chunked[1][2])[100:].any(), 'what pads the vocabulary learns nothing'


def test_without_a_bias_and_with_rows_that_count_nothing():
    (x, table, _), batch = some()
    batch['example_weights'] = jnp.asarray([1, 0, 1, 0.5], jnp.float32)
    chunked = results((x, table, None), batch, 'VD', FEW, **OPTIONS['both'])
    assert_near(chunked, results((x, table, None), batch, 'VD', 0, **OPTIONS['both']), 1e-6)
    assert not np.asarray(chunked[1][0])[1].any()


@pytest.mark.parametrize('length,chunks', [(6, 3), (7, 7), (1, None), (64, 32)])
def test_a_chunk_has_some_positions_of_each_row(length, chunks):
    """As many as keep it small, where they divide the length: one of 128 logits in four rows takes 2,048 bytes."""
    given, batch = some(length=length)
    found = output_layer(ModelConfig(vocab_size=100, logits_megabytes=FEW), *given[:2], 'VD')
    assert (found['output_layer'].chunks if found else None) == chunks
    if length == 7:
        assert_near(results(given, batch, 'VD', FEW), results(given, batch, 'VD', 0), 1e-6)


def test_small_logits_are_made_at_once():
    x, table, _ = some()[0]
    assert not output_layer(ModelConfig(vocab_size=100), x, table, 'VD')
    assert not output_layer(ModelConfig(vocab_size=100, logits_megabytes=0), x, table, 'VD')


def test_bf16_differs_from_the_whole_by_its_own_rounding():
    """The gradient of a logit is rounded before it is divided by the number of tokens instead of after."""
    given, batch = some()
    half = (given[0].astype(jnp.bfloat16), *given[1:])
    chunked, whole = (results(half, batch, 'VD', megabytes, DType.bfloat16) for megabytes in (FEW, 0))
    assert_near(chunked[0], whole[0], 1e-6)
    exact = results(given, batch, 'VD', 0)
    for ours, theirs, true in zip(chunked[1], whole[1], exact[1], strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.linalg.norm(np.float32(gradient) - np.asarray(true)) for gradient in (ours, theirs))
        assert ours < 1.2 * theirs + 1e-7, 'no further from float32 than the whole is'


def test_several_runs_abreast():
    given, batch = some()
    three = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), given)
    found = jax.vmap(lambda *one: results(one, batch, 'VD', FEW, **OPTIONS['both']))(*three)
    for one in range(3):
        ours, alone = (jax.tree.map(operator.itemgetter(one), tree) for tree in (found, three))
        assert_near(ours, results(alone, batch, 'VD', 0, **OPTIONS['both']), 2e-6)


def test_what_is_minimised_alone_has_gradients():
    """Metrics are for reading: their gradient is none, in chunks."""
    (x, table, _), batch = some()
    loss = LmLoss(Config(model=ModelConfig(vocab_size=100)))
    gradient = jax.grad(lambda x: loss(layer_of(x, table, 'VD', None, FEW), batch)[1]['lm_loss'][0])(x)
    assert not np.asarray(gradient).any()


# ---- modules

SIZES = {'vocab_size': 100, 'num_layers': 1, 'd_model': 16, 'num_heads': 2, 'd_ff': 32, 'max_positions': small.LENGTH}
FIELDS = SIZES | {'dropout': 0.0, 'attention_dropout': 0.0}
MODULES = {
    'decoder': (Decoder, LmLoss, GPT, 'decoder'),
    'untied decoder': (Decoder, LmLoss, GPT | {'tie_embeddings': False}, 'decoder'),
    'encoder-decoder': (EncoderDecoder, LmLoss, T5, 'encoder_decoder'),
    'tied encoder-decoder': (EncoderDecoder, LmLoss, T5 | {'tie_embeddings': True, 'scale_logits': True}, 'encoder_decoder'),
    'causal encoder': (BertForMaskedLm, LmLoss, {'causal': True}, 'decoder'),
    'mlm and nsp': (BertForPreTraining, MlmNspLoss, {}, 'mlm'),
    'mlm': (BertForMaskedLm, MlmLoss, {}, 'mlm'),
    'mlm of all positions': (BertForMaskedLm, MlmLoss, {'project_all_positions': True}, 'mlm'),
}


@pytest.mark.parametrize('name', MODULES)
def test_a_module_learns_the_same(name):
    made, loss_class, fields, kind = MODULES[name]
    batch = small.batch() if kind == 'mlm' else lm_batch(kind, 0) | {'token_types': np.zeros((small.ROWS, small.LENGTH), np.int32)}
    whole = ModelConfig(**(FIELDS | {key: value for key, value in fields.items() if key not in ('module', 'hidden_dropout', 'output_dropout')}))
    params = jax.jit(made(whole).init)(jax.random.key(0), batch)['params']
    loss = loss_class(Config(model=whole, z_loss=0.01, label_smoothing=0.1))

    def results_of(model):
        def mean(params):
            outputs = made(model).apply({'params': params}, batch)
            assert ('output_layer' in outputs) == (model is not whole)
            terms, metrics = loss(outputs, batch)
            return sum(divide(total, loss.weights(batch)[term]) for term, total in terms.items()), metrics

        return jax.jit(jax.value_and_grad(mean, has_aux=True))(params)

    assert_near(results_of(dataclasses.replace(whole, logits_megabytes=0.01)), results_of(whole), 2e-6)


def test_an_output_layer_with_adapters_beside_it_is_applied_at_once():
    run = small.config(
        model=T5 | {'logits_megabytes': 0.001}, loss='t5x_lite.training.losses:LmLoss', tune=TuneConfig(lora=(('.*/output', 2, 4.0),), train=('.*',))
    )
    program = make_program(run, partitioning.make_mesh(run, small.one_device()))
    batch, params = lm_batch('encoder_decoder', 0), program.abstract.params
    plain = jax.tree.map(lambda x: x, params)
    plain['embeddings']['output'] = {'kernel': params['embeddings']['output']['kernel']}
    assert 'lora_a' in params['embeddings']['output']
    outputs, of_plain = (jax.eval_shape(lambda params: program.module.apply({'params': params}, batch), tree) for tree in (params, plain))
    assert 'output_layer' not in outputs and 'output_layer' in of_plain


def test_a_table_that_does_not_learn_costs_no_product():
    given, batch = some()

    def operations(*learning):
        def total(x, table):
            return LmLoss(Config(model=ModelConfig(vocab_size=100)))(layer_of(x, table, 'VD', None, FEW), batch)[0]['lm_loss']

        return jax.jit(jax.grad(total, learning)).lower(*given[:2]).compile().cost_analysis()['flops']

    product_of_chunk = 2 * (4 * 2) * 128 * 16
    assert operations(0, 1) - operations(0) > 0.9 * product_of_chunk


# ---- memory


def temporaries(dtype: DType, megabytes: float, rows: int, length: int) -> float:
    """Gigabytes that the loss of GPT-2 small and its gradients take beside their arguments and one copy of the gradients themselves. Compiled, not run."""
    model = ModelConfig(vocab_size=50257, logits_megabytes=megabytes, dtype=dtype)
    loss = LmLoss(Config(model=model, z_loss=1e-4, label_smoothing=0.1))

    def step(x, table, targets, weights):
        batch = {'targets': targets, 'target_weights': weights}

        def mean(x, table):
            logits = product('BLD,VD->BLV', x, table, jnp.dtype(dtype.value)).astype(jnp.float32)
            outputs = {'lm_logits': hide_padded(logits, model.vocab_size)} | output_layer(model, x, table, 'VD')
            terms, metrics = loss(outputs, batch)
            return divide(terms['lm_loss'], loss.weights(batch)['lm_loss']), metrics

        return jax.value_and_grad(mean, (0, 1), has_aux=True)(x, table)

    shapes = ((rows, length, 768), dtype.value), ((50304, 768), 'float32'), ((rows, length), 'int32'), ((rows, length), 'float32')
    compiled = jax.jit(step).lower(*(jax.ShapeDtypeStruct(shape, jnp.dtype(kind)) for shape, kind in shapes)).compile()
    memory = compiled.memory_analysis()
    return (memory.temp_size_in_bytes - memory.output_size_in_bytes) / 1e9


@pytest.mark.parametrize('dtype,most', [(DType.float32, 0.25), (DType.bfloat16, 0.35)], ids=['float32', 'bfloat16'])
def test_gpt2_with_64_rows_of_1024_tokens_takes_a_third_of_a_gigabyte(dtype, most):
    """Instead of 13.2 GB for the logits alone. In bf16, 0.08 GB of it is the table in bf16, and 0.1 GB what a CPU makes of it to multiply in float32."""
    assert temporaries(dtype, ModelConfig().logits_megabytes, 64, 1024) < most


def test_memory_does_not_grow_with_the_batch():
    small_batch, large_batch = (temporaries(DType.float32, 16, rows, 1024) for rows in (4, 32))
    assert large_batch < 1.1 * small_batch + 0.01
    assert temporaries(DType.float32, 0, 4, 1024) > 1.6, 'the whole: 0.8 GB of logits, and as much for their gradient'


# ---- meshes


def test_devices_add_up_the_gradient_of_the_table_once():
    """In the loop they exchange what belongs to their positions of a chunk alone: 8 of 64 numbers."""
    model = ModelConfig(vocab_size=1000, d_model=64, logits_megabytes=0.03)
    run = Config(model=model, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    loss, mesh = LmLoss(run), partitioning.make_mesh(run)

    def step(x, table, targets, weights):
        def total(x, table):
            with nn.logical_axis_rules(run.mesh.rules):
                outputs = output_layer(model, x, table, 'VD')
            return loss(outputs, {'targets': targets, 'target_weights': weights})[0]['lm_loss']

        return jax.grad(total, (0, 1))(x, table)

    rows, table = (NamedSharding(mesh, spec) for spec in (PartitionSpec(('data', 'fsdp'), 'sequence'), PartitionSpec('tensor', 'fsdp')))
    shapes = ((16, 32, 64), 'float32', rows), ((1024, 64), 'float32', table), ((16, 32), 'int32', rows), ((16, 32), 'float32', rows)
    with jax.set_mesh(mesh):
        given = [jax.ShapeDtypeStruct(shape, jnp.dtype(kind), sharding=sharding) for shape, kind, sharding in shapes]
        text = jax.jit(step, out_shardings=(rows, table)).lower(*given).compile().as_text()
    exchanges = [line for line in text.splitlines() if re.search(r' (all-|reduce-scatter|collective-)[\w-]*\(', line)]
    sizes = {
        inside: [int(np.prod([int(n) for n in shape.split(',') if n])) for line in exchanges if ('while/body' in line) == inside
                 for shape in re.findall(r'[a-z]\d+\[([\d,]*)\]', line.split('(%')[0])]
        for inside in (True, False)
    }  # fmt: skip
    assert max(sizes[True]) <= 8 * 64 and sizes[False].count(512 * 64) <= 2, (sizes, exchanges)
