"""Parts that begin to learn as the run goes: which, when, how fast, with an optimiser's state of their own; interrupted or not, on one device or many."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.config import Schedule, TuneConfig
from t5x_lite.errors import UserError
from t5x_lite.training import partitioning, paths, tuning
from t5x_lite.training.step import grown, make_program, make_train_step
from tests.training import small
from tests.training.test_tuning import LAYER, MODEL, changed

HEADS = ('(mlm|nsp)/.*', 'encoder/pooler/.*')
# From step 2 on the top layer, from 4 on that at half the rate and the one below it; the embeddings, by a share of 10 steps, in the last.
STAGED = TuneConfig(train=HEADS, unfreeze=((2, LAYER.format(3), 1.0), (4, LAYER.format('[23]'), 0.5), (0.5, 'encoder/embeddings/.*', 0.25)))
LEARNS = {0: {'heads'}, 2: {3, 'heads'}, 4: {2, 3, 'heads'}, 5: {'embeddings', 2, 3, 'heads'}}


def staged(tune=STAGED, **fields):
    optim = {'schedule': Schedule.constant} | fields.pop('optim', {})
    return small.config(model=MODEL | fields.pop('model', {}), tune=tune, optim=optim, steps=10, **fields)


def walk(config, steps, devices=None):
    """The states before step 0 and after each step, as the trainer makes them, and how many programs were compiled."""
    mesh = partitioning.make_mesh(config, devices)
    programs = {step: make_program(config, mesh, step) for step in tuning.stages(config.tune, config.steps)}
    traced = []

    def compiled(program):
        def step(state, batch):
            traced.append(1)
            return make_train_step(program)(state, batch)

        return jax.jit(step, in_shardings=(program.shardings, shardings), out_shardings=(program.shardings, None))

    with jax.set_mesh(mesh):
        state, program = programs[0].init(), programs[0]
        states, step, curve = [jax.tree.map(np.asarray, state)], None, []
        for number in range(steps):
            batch = small.batch(seed=number)
            shardings = partitioning.batch_shardings(batch, mesh, small.LENGTH)
            if number in programs:
                state, program = grown(program, programs[number], state), programs[number]
                step = compiled(program)
            state, metrics = step(state, partitioning.to_devices(batch, shardings, slice(0, small.ROWS), small.ROWS))
            curve.append(float(metrics['loss']))
            states.append(jax.tree.map(np.asarray, state))
    return states, np.array(curve), len(traced)


@pytest.fixture(scope='module')
def walked():
    return walk(staged(), 7, small.one_device())


def test_what_is_frozen_stays_bitwise_until_its_step(walked):
    states, _, compiled = walked
    for step in range(7):
        stage = max(first for first in LEARNS if first <= step)
        assert changed(states[step].params, states[step + 1].params) == LEARNS[stage], step
    assert compiled == len(LEARNS), 'the step is compiled once a stage'


def test_the_optimiser_keeps_only_what_has_begun(walked):
    """And counts its steps from then: Adam's bias correction is that of a beginning."""
    states = walked[0]
    for step in range(1, 8):
        learns = LEARNS[max(first for first in LEARNS if first < step)]
        moments = sum(leaf.size for path, leaf in paths.leaves(states[step].opt_state).items() if '/mu/' in path)
        layer = sum(leaf[0].size for path, leaf in paths.leaves(states[0].params).items() if paths.is_stacked(path))
        heads = sum(leaf.size for path, leaf in paths.leaves(states[0].params).items() if not paths.is_stacked(path) and '/embeddings/' not in path)
        embeddings = sum(leaf.size for path, leaf in paths.leaves(states[0].params).items() if '/embeddings/' in path)
        assert moments == heads + layer * len(learns & {2, 3}) + embeddings * ('embeddings' in learns)
    counts = [int(leaf) for path, leaf in paths.leaves(states[7].opt_state).items() if path.endswith('count')]
    assert counts == [7, 7, 5, 7, 3, 7, 2, 7], 'Adam of each part from its own step on, the schedule alike for all'


def test_the_first_step_of_a_part_is_that_of_a_run_that_begins_there(walked):
    """Of the top layer at step 2: a fresh run on the same weights and batch, in which heads and top layer learn."""
    states = walked[0]
    run = staged(TuneConfig(train=(*HEADS, LAYER.format(3))))
    mesh = partitioning.make_mesh(run, small.one_device())
    program = make_program(run, mesh)
    with jax.set_mesh(mesh):
        state = program.init().replace(params=jax.tree.map(jax.numpy.asarray, states[2].params))
        after, _ = jax.jit(make_train_step(program))(state, small.batch(seed=2))
    for path, leaf in paths.leaves(after.params).items():
        if paths.is_stacked(path):
            np.testing.assert_allclose(leaf, paths.leaves(states[3].params)[path], atol=1e-7, err_msg=path)


def test_rates_of_each_stage():
    program = make_program(staged(), partitioning.make_mesh(staged(), small.one_device()))
    rates = {step: tuning.plan(STAGED, program.abstract.params, step=step, steps=10).rates for step in LEARNS}
    kernel, word = 'encoder/layers/mlp/wi/kernel', 'encoder/embeddings/word/embedding'
    assert not any(rates[0]) and not any(rates[2]), 'all 1'
    assert [part[kernel] for part in rates[4] if kernel in part] == [[0.5], [0.5]]
    assert [part[word] for part in rates[5] if word in part] == [0.25]
    assert rates[5][0]['nsp/kernel'] == 1.0


def test_on_a_mesh_in_microbatches_scanned_or_unrolled(walked):
    config = staged(mesh={'data': 2, 'fsdp': 2, 'tensor': 2}, optim={'microbatches': 2}, model={'scan_layers': False}, ema_decay=0.5)
    states, curve, _ = walk(config, 7)
    np.testing.assert_allclose(curve, walked[1], rtol=2e-5)
    assert small.largest_difference(states[-1].params, walked[0][-1].params) < 2e-5
    frozen = 'encoder/layers/mlp/wi/kernel'
    assert np.array_equal(paths.leaves(states[-1].ema)[frozen][:2], paths.leaves(states[0].ema)[frozen][:2]), 'the average of what is frozen stays too'


def test_what_never_begins_or_matches_nothing_is_said():
    mesh = partitioning.make_mesh(staged(), small.one_device())
    for entry, said in (
        ((10, '.*', 1.0), "config.tune.unfreeze: '.*' begins at 10, and the run has 10 steps; give a step before its end, or a share of it"),
        ((-1, '.*', 1.0), 'begins at -1'),
        ((3, 'encoder/layer/.*', 1.0), "config.tune.unfreeze: 'encoder/layer/.*' matches no parameter"),
        ((3, '.*', 1.0), 'config.tune leaves nothing that learns'),
    ):
        with pytest.raises(UserError) as caught:
            make_program(staged(TuneConfig(unfreeze=(entry,))), mesh)
        assert said in str(caught.value)


def test_where_nothing_is_left_frozen_all_of_it_is_saved():
    params = make_program(staged(), partitioning.make_mesh(staged(), small.one_device())).abstract.params
    assert tuning.learnt(dataclasses.replace(STAGED, unfreeze=((3, '.*', 1.0),)), params, (), 10, ()) is None
    part = tuning.learnt(STAGED, params, (), 10, ('encoder/layers/attention_norm/bias',))
    assert part.layers['encoder/layers/mlp/wi/kernel'] == (2, 3) and part.layers['encoder/layers/attention_norm/bias'] is None
    assert part.layers.keys() == paths.leaves(params).keys()
