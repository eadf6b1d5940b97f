"""Optimisers and schedules against the reference implementations' recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite.config import Config, OptimConfig, Optimizer, Schedule
from t5x_lite.training import optim
from tests import golden


def rate(step, steps=10**6, **fields):
    return float(optim.schedule(Config(steps=steps, optim=OptimConfig(**fields)))(jnp.int32(step)))


def close(found, case):
    tolerance = case['tolerance']
    tolerance = tolerance if isinstance(tolerance, dict) else {'absolute': tolerance}
    rtol, atol = tolerance.get('relative', 0), tolerance.get('absolute', 0)
    np.testing.assert_allclose(found, case['expected'], rtol=max(rtol, 2e-6), atol=atol)


# ---- schedules


def check_bert_schedule(case):
    given = case['input']
    fields = {'learning_rate': given['init_lr'], 'warmup_steps': given['num_warmup_steps'], 'schedule': Schedule.linear_from_start}
    close(rate(given['step'], given['num_train_steps'], **fields), case)


def check_linear_decay(case):
    """A run counts its steps from its own beginning: what theirs calls the offset."""
    given = case['input']
    close(rate(max(0, given['step'] - given['offset']), given['total_train_steps'], learning_rate=given['initial_lr'], schedule=Schedule.linear), case)


def check_inverse_sqrt(case):
    warmup = case['input']['warmup_steps']
    close(rate(case['input']['step'], learning_rate=warmup**-0.5, warmup_steps=warmup, schedule=Schedule.inverse_sqrt), case)


def check_factors(case):
    given = case['input']
    step, base, warmup = given['step'] - given['step_offset'], given['base_learning_rate'], given['warmup_steps']
    if case['expected'] == given['min_learning_rate']:
        return LEAST_RATE
    inverse = {'warmup_steps': warmup, 'schedule': Schedule.inverse_sqrt}
    match given['factors']:
        case 'constant':
            found = rate(step, learning_rate=base, schedule=Schedule.constant)
        case 'constant * rsqrt_decay':
            found = rate(step, learning_rate=base * warmup**-0.5, **inverse)
        case 'constant * rsqrt_normalized_decay':
            found = rate(step, learning_rate=base, **inverse)
        case 'constant * linear_warmup * rsqrt_decay' | 'constant * linear_warmup * rsqrt_normalized_decay':
            if step < warmup:
                return WARM_INVERSE
            found = rate(step, learning_rate=base if 'normalized' in given['factors'] else base * warmup**-0.5, **inverse)
        case 'linear_decay':
            found = rate(step, warmup + round(1 / given['decay_factor']), learning_rate=base, warmup_steps=warmup, schedule=Schedule.linear)
        case 'constant * linear_warmup * cosine_decay':
            if step > warmup + given['steps_per_cycle']:
                return RESTARTS
            found = rate(step, warmup + given['steps_per_cycle'], learning_rate=base, warmup_steps=warmup, schedule=Schedule.cosine)
        case 'constant * decay_every':
            return STAIRS
    return close(found, case)


def check_rising(case):
    given = case['input']
    fields = {'learning_rate': given['init'], 'end_fraction': given['end'] / given['init'], 'schedule': Schedule.linear}
    close([rate(step, given['transition_steps'], **fields) for step in range(15)], case)


def check_cosine(case):
    given = case['input']
    fields = {'learning_rate': given['init'], 'end_fraction': given['alpha'], 'schedule': Schedule.cosine}
    close([rate(step, given['decay_steps'], **fields) for step in range(len(case['expected']))], case)


# ---- optimisers


def check_bert_adam(case):
    """google-research/bert's AdamWeightDecayOptimizer, step by step."""
    given = case['input']
    fields = {'learning_rate': given['learning_rate'], 'schedule': Schedule.constant, 'bias_correction': given.get('bias_correction', False)}
    transformation = optim.optimizer(Config(steps=100, optim=OptimConfig(decay=(('.*', given['weight_decay_rate']),), **fields)))
    params, trajectory = {'w': jnp.asarray(given['w0'], jnp.float32)}, []
    target, state = jnp.asarray(given['x'], jnp.float32), transformation.init(params)
    for _ in range(given['steps']):
        updates, state = transformation.update({'w': 2 * (params['w'] - target) / 3}, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params['w'])
    close(params['w'] if given['steps'] == 100 else trajectory, case)


def adafactor(given):
    """That of config.optim.name=adafactor, factored from the case's size on. Theirs decays by the given rate alone, ours by rate x decay."""
    rate, decay = optax.constant_schedule(given['learning_rate']), (given.get('weight_decay_rate') or 0.0) / given['learning_rate']
    return optax.chain(
        optim.by_layer(optim.scale_by_adafactor(given['min_dim_size_to_factor'])), optax.scale_by_learning_rate(rate), optim.decay_by_rate((('.*', decay),), rate)
    )


def clipped(gradient, norm):
    """As the train step clips before it asks for updates."""
    return gradient * jnp.minimum(1.0, norm / jnp.sqrt(jnp.sum(jnp.square(gradient)))) if norm else gradient


def check_adafactor_trajectory(case):
    """Theirs may count from an offset: ours from 0. At 128, the whole optimiser as the config makes it."""
    given = case['input']
    if not given['multiply_by_parameter_scale']:
        return NO_SCALE
    assert given['first_step'] == given['step_offset'] and given['beta1'] is None and given['decay_rate'] == 0.8
    if given['min_dim_size_to_factor'] == 128:
        fields = {'name': Optimizer.adafactor, 'learning_rate': given['learning_rate'], 'schedule': Schedule.constant, 'decay': (('.*', 0.0),)}
        transformation = optim.optimizer(Config(steps=100, optim=OptimConfig(**fields)))
    else:
        transformation = adafactor(given)
    params = {'w': jnp.asarray(given['params'], jnp.float32)}
    state = transformation.init(params)
    for gradient, expected in zip(given['grads'], case['expected']['params_after_step'], strict=True):
        gradient = clipped(jnp.asarray(gradient, jnp.float32), given['global_norm_clip_threshold'])
        updates, state = transformation.update({'w': gradient}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params['w'], expected, atol=case['tolerance'])


def moments(state):
    """optax's state of the factored second moments."""
    (found,) = [leaf for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.FactoredState)) if isinstance(leaf, optax.FactoredState)]
    return found


def begun(transformation, params, count, **values):
    """The state after `count` steps that left these moments."""

    def replaced(leaf):
        if not isinstance(leaf, optax.FactoredState):
            return leaf
        found = {name: {'w': jnp.asarray(value, jnp.float32)} for name, value in values.items()}
        assert all(getattr(leaf, name)['w'].shape == value['w'].shape for name, value in found.items())
        return leaf._replace(count=jnp.int32(count), **found)

    return jax.tree.map(replaced, transformation.init(params), is_leaf=lambda x: isinstance(x, optax.FactoredState))


def check_adafactor_update(case):
    """Ours keeps no momentum, which with beta1=0 changes nothing but what is kept."""
    given, expected = case['input'], case['expected']
    transformation, params = adafactor(given), {'w': jnp.asarray(given['params'], jnp.float32)}
    state = begun(transformation, params, given['step'], **{name: value for name, value in given['state'].items() if name != 'm'})
    gradient = clipped(jnp.asarray(given['grads'], jnp.float32), given.get('global_norm_clip_threshold'))
    updates, state = transformation.update({'w': gradient}, state, params)
    tolerance = case['tolerance']['relative']
    np.testing.assert_allclose(optax.apply_updates(params, updates)['w'], expected['params'], rtol=tolerance)
    for name in expected.keys() - {'params', 'm'}:
        np.testing.assert_allclose(getattr(moments(state), name)['w'], expected[name], rtol=2 * tolerance)


def check_adafactor_shapes(case):
    given = case['input']
    state = moments(optim.scale_by_adafactor(given['min_dim_size_to_factor']).init({'w': jnp.zeros(given['shape'])}))
    for name in ('v', 'v_row', 'v_col'):
        assert list(getattr(state, name)['w'].shape) == case['expected'][name], name


def check_moment_decay(case):
    """Seen in what a gradient of ones leaves of moments of zero."""
    given = case['input']
    if given['exponent'] != 0.8:
        return OTHER_EXPONENT
    transformation, params = optim.scale_by_adafactor(128), {'w': jnp.ones(2)}
    _, state = transformation.update({'w': jnp.ones(2)}, begun(transformation, params, given['step'], v=jnp.zeros(2)), params)
    close(1 - moments(state).v['w'], case)


LEAST_RATE = 'the least rate of 1e-8: ours begins and ends at 0'
WARM_INVERSE = 'a linear warm-up before the inverse square root: as in T5, ours is constant there'
RESTARTS = 'cosine that begins again after a cycle: ours ends with config.steps'
STAIRS = 'stairs (a factor every so many steps): there is no field for them'
NO_SCALE = 'Adafactor not scaled by the parameter: ours always is, as in T5'
OTHER_EXPONENT = 'a decay of second moments other than step^-0.8, which is fixed, as in T5'
CHECKS = {
    'linear warmup then linear decay to 0 (warmup replaces, does not multiply)': check_bert_schedule,
    'linear decay learning rate': check_linear_decay,
    'inverse square root 1/sqrt(max(step, warmup)) (T5 pre-training, constant until warmup)': check_inverse_sqrt,
    'learning-rate schedule from factors': check_factors,
    'linear schedule 10 to 20 over 10 steps, counts 0..14': check_rising,
    'cosine decay 0.1 over 10, counts 0..9': check_cosine,
    'cosine decay 0.1 over 5, counts 0..11': check_cosine,
    'AdamWeightDecay, lr 0.2, loss mean((x-w)^2): w after 100 steps': check_bert_adam,
    'AdamWeightDecay trajectory (no bias correction, decoupled decay)': check_bert_adam,
    'Adafactor trajectory: parameters after each of 5 steps': check_adafactor_trajectory,
    'Adafactor update, factored': check_adafactor_update,
    'Adafactor update, not factored, momentum 0.0': check_adafactor_update,
    'Adafactor update, factored, global norm clip 1': check_adafactor_update,
    'Adafactor state shapes': check_adafactor_shapes,
    'second-moment decay': check_moment_decay,
}
NOT_OURS = {
    'Adafactor state shapes, explicit rule per dimension': 'which sides are factored is not a field: the two longest are, within a layer',
    'polynomial power 2, 25 to 10': 'schedules of a power have no field: linear and cosine do',
    'polynomial power 2, 30 to 10, begins at 4': 'schedules of a power have no field: linear and cosine do',
    'piecewise constant': 'stairs have no field: constant, linear and cosine do',
}


def test_the_reference_implementations():
    golden.hold(
        'optimizers_schedules', CHECKS, NOT_OURS,
        {LEAST_RATE: 6, WARM_INVERSE: 5, RESTARTS: 2, STAIRS: 8, NO_SCALE: 1, OTHER_EXPONENT: 6},
    )  # fmt: skip
