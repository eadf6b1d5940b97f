"""What learns and how fast: which parameters change, which stay bitwise, and what that saves."""

import jax
import numpy as np
import pytest

from t5x_lite.config import TuneConfig
from t5x_lite.errors import UserError
from t5x_lite.training import partitioning, paths, tuning
from t5x_lite.training.step import make_program, make_train_step
from tests.training import small

MODEL = {'num_layers': 4, 'dropout': 0.0, 'attention_dropout': 0.0}
LAYER = 'encoder/layers/{}/.*'
# What config.tune says, and the layers, embeddings and heads that learn by it.
STRATEGIES = {
    'full': (TuneConfig(), {'embeddings', 0, 1, 2, 3, 'heads'}),
    'bottom': (TuneConfig(freeze_layers=3), {3, 'heads'}),
    'half': (TuneConfig(freeze_layers=0.5), {2, 3, 'heads'}),
    'all layers': (TuneConfig(freeze_layers=4), {'heads'}),
    'head only': (TuneConfig(train=('(mlm|nsp)/.*', 'encoder/pooler/.*')), {'heads'}),
    'embeddings': (TuneConfig(freeze=('encoder/embeddings/.*',)), {0, 1, 2, 3, 'heads'}),
    'one in the middle': (TuneConfig(freeze=(LAYER.format(1),)), {'embeddings', 0, 2, 3, 'heads'}),
    'two apart': (TuneConfig(train=(LAYER.format('[02]'),)), {0, 2}),
    'top by decay': (TuneConfig(layer_decay=0.5), {'embeddings', 0, 1, 2, 3, 'heads'}),
}


def parts(params):
    """{0: leaves of layer 0, ..., 'embeddings': ..., 'heads': ...} as {path: array}."""
    found = {}
    for path, leaf in paths.leaves(params).items():
        for number, name in enumerate(tuning.layer_paths(path, leaf)):
            stacked = paths.is_stacked(path)
            part = number if stacked else 'embeddings' if '/embeddings/' in path else 'heads'
            found.setdefault(part, {})[name] = leaf[number] if stacked else leaf
    return found


def changed(before, after):
    """The parts of which anything differs; in those all weights must."""
    found = set()
    for part, leaves in parts(after).items():
        moved = {name: not np.array_equal(leaf, parts(before)[part][name]) for name, leaf in leaves.items()}
        if any(moved.values()):
            still = [name for name, differs in moved.items() if not differs and name.endswith('kernel')]
            assert not still, still
            found.add(part)
    return found


@pytest.fixture(scope='module')
def initial():
    config = small.config(model=MODEL)
    return jax.tree.map(np.asarray, make_program(config, partitioning.make_mesh(config, small.one_device())).init().params)


@pytest.mark.parametrize('name', STRATEGIES)
def test_what_learns_changes_and_nothing_else(name, initial):
    tune, learns = STRATEGIES[name]
    outcome = small.train(small.config(model=MODEL, tune=tune), steps=2, devices=small.one_device())
    assert changed(initial, outcome.state.params) == learns
    learning = tuning.plan(tune, initial)
    moments = [leaf.size for path, leaf in paths.leaves(outcome.state.opt_state).items() if '/mu/' in path]
    assert sum(moments) == sum(leaf.size for leaf in jax.tree.leaves(learning.select(initial))), 'the optimiser keeps nothing of what does not learn'


def test_bias_only(initial):
    """BitFit (Ben Zaken et al., 2022) is a pattern."""
    tune = TuneConfig(train=('.*/bias', '(mlm|nsp)/.*'))
    outcome = small.train(small.config(model=MODEL, tune=tune), steps=2, devices=small.one_device())
    for path, leaf in paths.leaves(outcome.state.params).items():
        learns = path.endswith('/bias') or path.startswith(('mlm/', 'nsp/'))
        if not learns:
            np.testing.assert_array_equal(leaf, paths.leaves(initial)[path], err_msg=path)
    assert not np.array_equal(outcome.state.params['encoder']['layers']['mlp']['wi']['bias'], initial['encoder']['layers']['mlp']['wi']['bias'])


def test_factors_of_the_learning_rate(initial):
    """One step of each: updates are those of the plain run, times the factor of their layer."""
    plain = small.train(small.config(model=MODEL), steps=1, devices=small.one_device()).state.params
    tune = TuneConfig(rates=(('nsp/.*', 3.0), (LAYER.format(1), 0.25), ('encoder/layers/.*', 1.0)), layer_decay=0.5)
    scaled = small.train(small.config(model=MODEL, tune=tune), steps=1, devices=small.one_device()).state.params
    factors = {'embeddings': 0.5**5, 0: 0.5**4, 1: 0.25 * 0.5**3, 2: 0.5**2, 3: 0.5, 'heads': 1.0}
    before, plain, scaled = parts(initial), parts(plain), parts(scaled)
    for part, factor in factors.items():
        for name, leaf in before[part].items():
            expected = (plain[part][name] - leaf) * (3.0 if name.startswith('nsp/') else factor)
            np.testing.assert_allclose(scaled[part][name] - leaf, expected, atol=2e-7, err_msg=name)


@pytest.mark.parametrize('name', ['bottom', 'one in the middle', 'two apart'])
def test_on_a_mesh_in_microbatches_scanned_or_unrolled(name):
    tune = STRATEGIES[name][0]
    one = small.train(small.config(model=MODEL | {'scan_layers': False}, tune=tune), devices=small.one_device())
    many = small.train(small.config(model=MODEL, tune=tune, mesh={'data': 2, 'fsdp': 2, 'tensor': 2}, optim={'microbatches': 2}))
    np.testing.assert_allclose(one.curve, many.curve, rtol=2e-5)
    assert small.largest_difference(one.state.params, many.state.params) < 2e-5


def test_frozen_layers_cost_no_gradient():
    """Of four unrolled layers the lower three are frozen: their weights' gradients, and what would lead to them, are not computed."""

    def flops(tune):
        config = small.config(model=MODEL | {'scan_layers': False}, tune=tune)
        mesh = partitioning.make_mesh(config, small.one_device())
        program = make_program(config, mesh)
        with jax.set_mesh(mesh):
            compiled = jax.jit(make_train_step(program)).lower(program.abstract, small.batch()).compile()
        return compiled.cost_analysis()['flops']

    full, top = flops(TuneConfig()), flops(TuneConfig(freeze_layers=3))
    assert top < 0.62 * full, (top, full)


@pytest.mark.parametrize(
    ('tune', 'said'),
    [
        (TuneConfig(freeze=('encoder/layer/.*',)), "config.tune.freeze: 'encoder/layer/.*' matches no parameter; paths are such as .*encoder/layers/\\d/.*, "),
        (TuneConfig(train=('(',)), "config.tune.train: '\\(' is not a regular expression"),
        (TuneConfig(rates=(('nps/.*', 2.0),)), "config.tune.rates: 'nps/.*' matches no parameter"),
        (TuneConfig(freeze_layers=5), 'config.tune.freeze_layers=5, and the stack of encoder has 4 layers; lower it'),
        (TuneConfig(freeze=('.*',)), 'config.tune leaves nothing that learns'),
    ],
)
def test_rules_that_fit_nothing(tune, said, initial):
    with pytest.raises(UserError, match=said):
        tuning.plan(tune, initial)


def test_a_share_of_the_layers(initial):
    """Of 4 layers, rounded, halves up: 8 of 12 is 3 of 4."""
    for share, count in ((0.1, 0), (0.125, 1), (0.5, 2), (0.6, 2), (0.625, 3), (8 / 12, 3), (0.99, 4)):
        found, same = tuning.plan(TuneConfig(freeze_layers=share), initial), tuning.plan(TuneConfig(freeze_layers=count), initial)
        if count:
            assert found == same, share
        else:
            kept = found.parts[0].layers
            assert not any('/embeddings/' in path for path in kept) and kept['encoder/layers/mlp/wi/kernel'] is None, 'the embeddings alone'
