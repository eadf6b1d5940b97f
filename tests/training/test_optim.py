"""Optimisers and schedules against formulas, optax, and the reference implementations' recorded numbers."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from t5x_lite.config import Config, DType, OptimConfig, Optimizer, Schedule
from t5x_lite.errors import UserError
from t5x_lite.training import optim, paths
from tests.training import small

DECAY = (('.*/(bias|scale)', 0.0), ('.*', 0.1))


def rates(steps, config):
    rate = optim.schedule(config)
    return np.array([float(rate(jnp.int32(step))) for step in steps])


def run(name, **fields):
    return Config(steps=100, optim=OptimConfig(name=name, learning_rate=0.01, schedule=Schedule.constant, decay=DECAY, **fields))


def tree(layers: int = 3):
    """A stack of layers, and arrays outside it; large enough for Adafactor to factor."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    scales = jnp.asarray([0.1, 1.0, 10.0])[:layers]  # layers of different size: mixing them would show
    return {
        'encoder': {'layers': {'wi': {'kernel': normal(layers, 130, 140) * scales[:, None, None], 'bias': normal(layers, 140)}}, 'table': {'embedding': normal(150, 130)}},
    }


def unstack(params):
    layers = params['encoder']['layers']
    return {
        'encoder': {f'layer_{i}': jax.tree.map(lambda x, i=i: x[i], layers) for i in range(3)} | {'table': params['encoder']['table']},
    }


@pytest.mark.parametrize('name', [Optimizer.adamw, Optimizer.adafactor])
def test_decay_towards_the_beginning(name):
    """At the beginning there is none of it; away from it, rate x decay x distance. What is new (init_fresh) or does not decay is drawn to 0, or nowhere."""
    config = run(name, decay_to_init=True)
    config.init_fresh = ('encoder/table/.*',)
    ours, plain = optim.optimizer(config), optim.optimizer(run(name))
    without = optim.optimizer(Config(steps=100, optim=OptimConfig(name=name, learning_rate=0.01, schedule=Schedule.constant, decay=(('.*', 0.0),))))
    start = tree()
    moved = jax.tree.map(lambda x: x + jnp.sin(x), start)
    states = [transformation.init(start) for transformation in (ours, plain, without)]
    gradient = jax.tree.map(jnp.cos, start)
    at_start, away = ([t.update(gradient, s, params)[0] for t, s in zip((ours, plain, without), states)] for params in (start, moved))
    for path, leaf in paths.leaves(start).items():
        (here, _, bare_here), (there, plain_there, bare_there) = (tuple(paths.leaves(tree)[path] for tree in trees) for trees in (at_start, away))
        if path == 'encoder/layers/wi/kernel':
            np.testing.assert_array_equal(here, bare_here)
            np.testing.assert_allclose(there - bare_there, -0.01 * 0.1 * jnp.sin(leaf), atol=1e-7)
        else:
            np.testing.assert_array_equal(there, plain_there)


@pytest.mark.parametrize('name', list(Optimizer))
def test_a_stack_of_layers_is_updated_as_its_layers_one_by_one(name):
    """Trust ratios, factors, clipping and scales belong to each layer."""
    transformation = optim.optimizer(run(name))
    stacked, single = tree(), unstack(tree())
    states = transformation.init(stacked), transformation.init(single)
    for step in range(3):
        gradient = jax.tree.map(lambda x, step=step: jnp.cos(x * (step + 1)), stacked)
        updates, state = transformation.update(gradient, states[0], stacked)
        single_updates, single_state = transformation.update(unstack(gradient), states[1], single)
        states = state, single_state
        stacked, single = optax.apply_updates(stacked, updates), optax.apply_updates(single, single_updates)
    for path, leaf in paths.leaves(unstack(stacked)).items():
        np.testing.assert_allclose(leaf, paths.leaves(single)[path], rtol=2e-6, atol=1e-7, err_msg=path)


def test_adamw_is_optax_adamw():
    ours = optim.optimizer(run(Optimizer.adamw))
    theirs = optax.adamw(0.01, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.1, mask=lambda p: paths.map_paths(lambda path, _: not path.endswith('bias'), p))
    params = [tree(), tree()]
    states = [ours.init(params[0]), theirs.init(params[1])]
    for _ in range(3):
        for i, transformation in enumerate((ours, theirs)):
            with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer power
                updates, states[i] = transformation.update(jax.tree.map(jnp.sin, params[i]), states[i], params[i])
            params[i] = optax.apply_updates(params[i], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *params)


def test_lamb_is_optax_lamb_where_parameters_decay():
    ours = optim.optimizer(run(Optimizer.lamb))
    theirs = optax.lamb(0.01, eps=1e-6, weight_decay=0.1)
    params = {'kernel': tree()['encoder']['table']['embedding']}
    rules_fit = {'a': {'bias': jnp.ones(3)}} | params
    gradient = jax.tree.map(jnp.sin, rules_fit)
    updates, _ = ours.update(gradient, ours.init(rules_fit), rules_fit)
    with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer power
        expected, _ = theirs.update({'kernel': gradient['kernel']}, theirs.init(params), params)
    np.testing.assert_allclose(updates['kernel'], expected['kernel'], rtol=1e-5)
    # Biases neither decay nor scale: Adam's first step is the learning rate.
    np.testing.assert_allclose(updates['a']['bias'], -0.01, rtol=1e-4)


def test_without_bias_correction_the_first_step_is_small():
    """m / sqrt(v) = (1 - b1) g / sqrt((1 - b2) g^2) = 0.1 / sqrt(0.001)."""
    adam = optim.scale_by_adam(optim.numbers(Config(optim=OptimConfig(eps=0.0))), OptimConfig(bias_correction=False))
    updates, _ = adam.update(jnp.full(3, 2.0), adam.init(jnp.zeros(3)))
    np.testing.assert_allclose(updates, 0.1 / np.sqrt(0.001), rtol=1e-5)


class TestMomentsInBf16:
    @staticmethod
    def stepped(config: Config, gradient, steps, sharding=None):
        ours = optim.optimizer(config)
        params = jax.device_put(jnp.zeros_like(gradient), sharding)
        update = jax.jit(lambda state: ours.update({'kernel': jax.device_put(gradient, sharding)}, state, {'kernel': params}))
        state = ours.init({'kernel': params})
        for _ in range(steps):
            updates, state = update(state)
        return updates['kernel'], state[0]

    def test_a_second_moment_that_moves_by_less_than_it_is_stored_to_keeps_its_mean(self):
        gradient = jnp.ones((64, 32))
        low, high = (self.stepped(run(Optimizer.adamw, moment_dtype=dtype), gradient, 700) for dtype in (DType.bfloat16, DType.float32))
        assert low[1].nu['kernel'].dtype == low[1].mu['kernel'].dtype == jnp.bfloat16
        # To the nearest it stands still at about 0.25: 0.1 % of what is left to go is below half of the distance of neighbours there.
        assert float(jnp.mean(high[1].nu['kernel'])) == pytest.approx(1 - 0.999**700, rel=1e-4)
        assert float(jnp.mean(low[1].nu['kernel'].astype(jnp.float32))) == pytest.approx(1 - 0.999**700, rel=2e-3)
        ratio = np.asarray(low[0] / high[0])
        assert np.mean(ratio) == pytest.approx(1, abs=5e-3) and np.std(ratio) < 0.03, 'one that is a little off, in each place by chance'

    def test_what_is_drawn_for_a_place_does_not_depend_on_the_mesh(self):
        gradient = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 8)), jnp.float32)
        mesh = jax.make_mesh((2, 4), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        config = run(Optimizer.adamw, moment_dtype=DType.bfloat16)
        alone, sharded = (self.stepped(config, gradient, 3, place) for place in (None, NamedSharding(mesh, PartitionSpec(None, 'a', 'b'))))
        for moment in ('mu', 'nu'):
            one, other = (np.asarray(getattr(state, moment)['kernel'].astype(jnp.float32)) for _, state in (alone, sharded))
            np.testing.assert_array_equal(one, other)
        exact = self.stepped(run(Optimizer.adamw), gradient, 3)[1].mu['kernel']
        off = np.asarray(alone[1].mu['kernel'].astype(jnp.float32) - exact)
        assert 0 < np.max(np.abs(off) / np.abs(exact)) < 3 * 2**-7
        assert np.unique(np.sign(off[0] - off[1])).size > 1, 'each layer of a stack draws its own'

    @pytest.mark.parametrize('fields', [{'moment_dtype': DType.float16}, {'moment_dtype': DType.bfloat16, 'name': Optimizer.adafactor}], ids=str)
    def test_what_it_cannot_be_is_said(self, fields):
        with pytest.raises(UserError, match='config.optim.moment_dtype=.*adamw and lamb'):
            small.config(optim=fields)


def test_adafactor_decays_by_rate_times_parameter():
    config = run(Optimizer.adafactor)
    without = optim.optimizer(Config(steps=100, optim=OptimConfig(name=Optimizer.adafactor, learning_rate=0.01, schedule=Schedule.constant, decay=(('.*', 0.0),))))
    params = tree()
    gradient = jax.tree.map(jnp.sin, params)
    both = [t.update(gradient, t.init(params), params)[0] for t in (optim.optimizer(config), without)]
    kernel = [u['encoder']['table']['embedding'] for u in both]
    np.testing.assert_allclose(kernel[0] - kernel[1], -0.01 * 0.1 * params['encoder']['table']['embedding'], atol=1e-6)
    np.testing.assert_array_equal(both[0]['encoder']['layers']['wi']['bias'], both[1]['encoder']['layers']['wi']['bias'])


class TestSchedules:
    def config(self, schedule, **fields):
        return Config(steps=1000, optim=OptimConfig(learning_rate=1.0, schedule=schedule, **({'warmup_steps': 100} | fields)))

    @pytest.mark.parametrize('schedule', [s for s in Schedule if s not in (Schedule.inverse_sqrt, Schedule.rising)])
    def test_warm_up_rises_linearly_from_zero(self, schedule):
        np.testing.assert_allclose(rates([0, 1, 50, 99], self.config(schedule)), [0, 0.01, 0.5, 0.99], rtol=1e-6)

    def test_values(self):
        steps = [100, 550, 1000]
        np.testing.assert_allclose(rates(steps, self.config(Schedule.constant)), [1, 1, 1])
        np.testing.assert_allclose(rates(steps, self.config(Schedule.linear)), [1, 0.5, 0], atol=1e-6)
        np.testing.assert_allclose(rates(steps, self.config(Schedule.linear_from_start)), [0.9, 0.45, 0], atol=1e-6)
        np.testing.assert_allclose(rates(steps, self.config(Schedule.cosine, end_fraction=0.1)), [1, 0.55, 0.1], rtol=1e-5)
        np.testing.assert_allclose(rates([1, 100, 400], self.config(Schedule.inverse_sqrt)), [1, 1, 0.5], rtol=1e-6)
        np.testing.assert_allclose(rates([0, 50, 100, 400], self.config(Schedule.rising)), [1e-7, 10**-3.5, 1, 1], rtol=1e-5)

    def test_fraction_of_steps(self):
        np.testing.assert_allclose(rates([50], self.config(Schedule.linear, warmup_steps=0, warmup_fraction=0.1)), [0.5])

    def test_a_warm_up_as_long_as_the_run_is_refused(self):
        with pytest.raises(UserError, match='warm-up of 1000 steps'):
            optim.schedule(self.config(Schedule.linear, warmup_steps=1000))
