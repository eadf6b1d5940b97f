import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.config import MeshConfig
from t5x_lite.errors import UserError
from t5x_lite.training import partitioning, paths
from t5x_lite.training.step import make_program
from tests.training import small


def test_one_axis_takes_what_is_left():
    assert partitioning.axis_sizes(MeshConfig(data=-1, tensor=2), 8) == {'data': 4, 'fsdp': 1, 'tensor': 2, 'sequence': 1}


@pytest.mark.parametrize('sizes', [{'data': 3}, {'data': -1, 'tensor': 3}, {'data': 2, 'fsdp': 2, 'tensor': 1}, {'data': 16}])
def test_a_mesh_that_does_not_fit_the_devices(sizes):
    with pytest.raises(UserError, match='does not fit 8 devices'):
        partitioning.axis_sizes(MeshConfig(**sizes), 8)


@pytest.mark.parametrize(
    'model,mesh,message',
    [
        ({'num_heads': 2}, {'tensor': 4}, r'config.mesh.tensor=4 does not divide config.model.num_heads=2'),
        ({'d_ff': 63}, {'tensor': 2}, r'config.mesh.tensor=2 does not divide config.model.d_ff=63'),
        ({'vocab_multiple': 1, 'vocab_size': 101}, {'tensor': 2}, r'does not divide the stored vocabulary of 101; set config.model.vocab_multiple'),
        ({'d_model': 36, 'num_heads': 6}, {'fsdp': 8}, r'config.mesh.fsdp=8 does not divide config.model.d_model=36'),
    ],
)
def test_what_a_mesh_does_not_divide_is_refused_in_words(model, mesh, message):
    with pytest.raises(UserError, match=message):
        partitioning.make_mesh(small.config(model=model, mesh=mesh))


def test_batches_that_a_mesh_does_not_divide():
    mesh = partitioning.make_mesh(small.config(mesh={'data': 4, 'sequence': 2}))
    partitioning.check_batch(mesh, 8, 16, 2)
    with pytest.raises(UserError, match='a batch has 6 rows, which the mesh axes data x fsdp = 4'):
        partitioning.check_batch(mesh, 6, 16, 1)
    with pytest.raises(UserError, match='each of 4 microbatches has 2 of the 8 rows'):
        partitioning.check_batch(mesh, 8, 16, 4)
    with pytest.raises(UserError, match='config.mesh.sequence=2 does not divide sequences of 15'):
        partitioning.check_batch(mesh, 8, 15, 1)


def test_a_misspelt_axis_is_an_error():
    run = small.config()
    run.mesh.rules = tuple(('vocab', 'tenser') if name == 'vocab' else (name, axis) for name, axis in run.mesh.rules)
    with pytest.raises(UserError, match="'vocab' goes to 'tenser', which is no mesh axis; did you mean 'tensor'"):
        partitioning.make_mesh(run)


def test_a_logical_axis_without_a_rule_is_an_error():
    run = small.config()
    run.mesh.rules = tuple(rule for rule in run.mesh.rules if rule[0] != 'mlp')
    with pytest.raises(UserError, match="has logical axis 'mlp', for which config.mesh.rules has no rule"):
        make_program(run, partitioning.make_mesh(run))


def test_state_lives_where_its_parameter_does_and_is_really_divided():
    run = small.config(mesh={'data': 1, 'fsdp': 4, 'tensor': 2}, ema_decay=0.9)
    mesh = partitioning.make_mesh(run)
    program = make_program(run, mesh)
    state = program.init()
    kernel = ('encoder', 'layers', 'mlp', 'wi', 'kernel')
    shapes = []
    for tree in (state.params, state.ema, state.opt_state[0].mu, state.opt_state[0].nu):
        for part in kernel:
            tree = tree[part]
        shapes.append(tree.addressable_shards[0].data.shape)
    assert shapes == [(2, 32 // 4, 64 // 2)] * 4
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    local = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.params))
    assert local < whole / 6  # 8 devices, and biases and norms whole


def test_initial_values_do_not_depend_on_the_mesh():
    inits = []
    for mesh in ({'data': 8}, {'data': 1, 'fsdp': 4, 'tensor': 2}):
        run = small.config(mesh=mesh)
        # Bit for bit as compiled for use: without LLVM's optimiser (see conftest.py) it hangs on an array's shape whether x * y + z is rounded twice.
        key = jax.random.key(run.seed)
        initialize = make_program(run, partitioning.make_mesh(run)).initializer().lower(key).compile(compiler_options={'xla_backend_optimization_level': 3})
        inits.append(initialize(key).params)
    assert small.largest_difference(*inits) == 0


def test_rows_of_a_process_are_those_of_its_devices():
    mesh = partitioning.make_mesh(small.config(mesh={'data': 4, 'tensor': 2}))
    assert partitioning.local_rows(mesh, 16) == slice(0, 16)
    batch = small.batch()
    placed = partitioning.to_devices(batch, partitioning.batch_shardings(batch, mesh, small.LENGTH), slice(0, 16), 16)
    assert placed['tokens'].addressable_shards[0].data.shape == (4, small.LENGTH)
    for name, value in batch.items():
        np.testing.assert_array_equal(placed[name], value)


def test_every_parameter_axis_of_the_model_has_a_rule():
    run = small.config()
    for module in ('BertForPreTraining', 'BertForMaskedLm', 'BertForClassification'):
        changed = dataclasses.replace(run, model=dataclasses.replace(run.model, module=f'bert_flax.bert:{module}', num_labels=3))
        assert paths.leaves(make_program(changed, partitioning.make_mesh(changed)).abstract.params)
