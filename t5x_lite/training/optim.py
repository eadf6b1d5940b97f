"""Schedules and optimisers from config fields."""

from collections.abc import Callable
import re
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite.config import Config, OptimConfig, Optimizer, Schedule
from t5x_lite.errors import UserError
from t5x_lite.models.dropout import DropoutKey, random_bits
from t5x_lite.training import adapters, paths

Numbers = dict[str, Any]  # float32 [], or [rules] for 'decay': arrays of the host, or traced


def numbers(config: Config) -> Numbers:
    """What of schedule and optimiser is an input of a step, not a part of its program. Sums and differences are taken here, in float64.

    Raises:
      UserError: a warm-up that leaves no steps.
    """
    optim, steps = config.optim, config.steps
    warmup = optim.warmup_steps or round(optim.warmup_fraction * steps)
    if warmup >= steps and warmup > 0 and optim.schedule not in (Schedule.inverse_sqrt, Schedule.rising):
        raise UserError(f'the warm-up of {warmup} steps leaves none of config.steps={steps}; lower config.optim.warmup_steps')
    peak, end = optim.learning_rate, optim.learning_rate * optim.end_fraction
    values = {
        'peak': peak, 'end': end, 'fall': peak - end, 'steps': steps, 'warmup': warmup, 'rise': max(warmup, 1), 'left': max(steps - warmup, 1),
        'b1': optim.b1, 'b2': optim.b2, '1-b1': 1 - optim.b1, '1-b2': 1 - optim.b2, 'eps': optim.eps, 'decay': [decay for _, decay in optim.decay],
        'clip': optim.clip_norm, 'ema': config.ema_decay, '1-ema': 1 - config.ema_decay,
    }  # fmt: skip
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def schedule(config: Config, given: Numbers | None = None) -> optax.Schedule:
    """Learning rate at a step counted from 0: linear warm-up from 0 to `learning_rate`, then the schedule until `config.steps`.

    inverse_sqrt is T5's: constant where the others warm up, then falling by 1 / sqrt(step); T5's 1 / sqrt(max(step, 10000)) is a learning_rate of 0.01.

    Args:
      given: numbers in place of the config's own.
    """
    n = given or numbers(config)
    peak, end, fall = n['peak'], n['end'], n['fall']

    def rate(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        done = jnp.clip((step - n['warmup']) / n['left'], 0.0, 1.0)
        match config.optim.schedule:
            case Schedule.inverse_sqrt:
                return peak * jnp.sqrt(n['rise'] / jnp.maximum(step, n['rise']))
            case Schedule.rising:
                return peak * 1e-7 ** (1.0 - jnp.clip(step / n['rise'], 0.0, 1.0))
            case Schedule.constant:
                value = jnp.full_like(done, peak)
            case Schedule.linear:
                value = end + fall * (1.0 - done)
            case Schedule.linear_from_start:
                value = end + fall * (1.0 - jnp.clip(step / n['steps'], 0.0, 1.0))
            case Schedule.cosine:
                value = end + fall * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return jnp.where(step < n['warmup'], peak * step / n['rise'], value)

    return rate


Keep = Callable[[Any, Any], Any]  # (new, old) -> that of two trees which stays: a step may have come to nothing


def _new(new: Any, old: Any) -> Any:
    del old
    return new


def scale_by_adam(n: Numbers, optim: OptimConfig, keep: Keep = _new) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, 2015) with b1, b2 and eps of `numbers`; without bias correction, that of google-research/bert's optimization.py.

    The update is made of the moments that stay, as they are stored (`optim.moment_dtype`): one pass over them, and no old ones beside the new.
    """
    dtype = jnp.dtype(optim.moment_dtype.value)

    def init(params):
        mu, nu = (jax.tree.map(lambda p: jnp.zeros_like(p, dtype), params) for _ in range(2))
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=mu, nu=nu)

    def update(grads, state, params=None):
        del params
        count = state.count + 1

        def moment(name: str, which: int, power: int, old: Any) -> Any:
            def moved(path: str, m: jax.Array, g: jax.Array) -> jax.Array:
                new = n[name] * m.astype(jnp.float32) + n[f'1-{name}'] * g**power
                return keep(new if dtype == jnp.float32 else _rounded(new, path, which, count), m)

            return paths.map_paths(moved, old, grads)

        mu, nu = moment('b1', 0, 1, state.mu), moment('b2', 1, 2, state.nu)
        m_scale = v_scale = jnp.ones([], jnp.float32)
        if optim.bias_correction:
            m_scale, v_scale = (1.0 / (1.0 - b ** count.astype(jnp.float32)) for b in (n['b1'], n['b2']))
        updates = jax.tree.map(lambda m, v: m.astype(jnp.float32) * m_scale / (jnp.sqrt(v.astype(jnp.float32) * v_scale) + n['eps']), mu, nu)
        return updates, optax.ScaleByAdamState(count=keep(count, state.count), mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def _rounded(x: jax.Array, path: str, which: int, count: jax.Array) -> jax.Array:
    """float32 -> bfloat16, up or down at random, so that the mean is right: a second moment that moves by 0.1 % a step would stand still if it went to the
    nearest of numbers 0.4 to 0.8 % apart (Gupta et al., 2015, section 3).

    What is drawn is a function of the parameter's path, the place in it and the step, and so does not depend on the mesh.

    Args:
      which: of the two moments, which share a word of 32 bits.
    """
    shape = x.shape if x.ndim else (1,)
    key = DropoutKey.create(zlib.crc32(path.encode()), count, jnp.arange(shape[0]))
    places = [jax.lax.broadcasted_iota(jnp.uint32, tuple(size if i == axis else 1 for i, size in enumerate(shape)), axis) for axis in range(1, len(shape))]
    drawn = (random_bits(key, 0, shape[1:], places) >> jnp.uint32(16 * which)) & jnp.uint32(0xFFFF)
    word = jax.lax.bitcast_convert_type(x, jnp.uint32) + drawn.reshape(x.shape)
    return jax.lax.bitcast_convert_type((word >> jnp.uint32(16)).astype(jnp.uint16), jnp.bfloat16)


class Beginning(NamedTuple):
    start: Any  # {path of a parameter: what it was}, nested


Rules = tuple[tuple[str, float], ...]


def decayed(
    rules: Rules, returning: Callable[[str], bool] | None, amounts: Any = None
) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """(init, decay) of weight decay by path rules: init(params) is the state that decay(state, params) -> decay x (what of each is to go away) reads.

    Args:
      amounts: [rules], in place of those in the rules, which then only say by 0 what does not decay.
      returning: paths that are drawn to where they began instead of to 0 (L2-SP: Li et al., 2018; Wiese et al., 2017); None: none.
    """

    def init(params: Any) -> Any:
        if returning is None:
            return optax.EmptyState()
        decay = paths.leaves(paths.values(rules, params, 'config.optim.decay', part=True))
        return Beginning(paths.nested({path: leaf + 0 for path, leaf in paths.leaves(params).items() if decay[path] and returning(path)}))

    def amount(state: Any, params: Any) -> Any:
        # The place of each rule, or -1 where it is 0.
        places = [(pattern, place if value else -1) for place, (pattern, value) in enumerate(rules)]
        places = paths.values(places, params, 'config.optim.decay', part=True)
        start = {} if returning is None else paths.leaves(state.start)

        def away(path: str, p: jax.Array, place: int) -> jax.Array | None:
            if place < 0:
                return None
            rate = rules[place][1] if amounts is None else amounts[place]
            return rate * (p - start[path]) if path in start else rate * p

        return paths.map_paths(away, params, places)

    return init, amount


def returning(config: Config) -> Callable[[str], bool] | None:
    """What config.optim.decay_to_init draws to where it began: all but what is new or added, whose beginning means nothing."""
    return (lambda path: from_pretrained(config, path)) if config.optim.decay_to_init else None


def from_pretrained(config: Config, path: str) -> bool:
    """Whether a parameter began as something that means something: neither added nor new (config.init_fresh)."""
    return not adapters.is_added(path) and not any(re.fullmatch(pattern, path) for pattern in config.init_fresh)


def add_decay(rules: Rules, back: Callable[[str], bool] | None = None, amounts: Any = None) -> optax.GradientTransformation:
    """Decoupled weight decay (Loshchilov & Hutter, 2019); see `decayed`."""
    init, amount = decayed(rules, back, amounts)

    def update(updates, state, params):
        away = amount(state, params)
        return jax.tree.map(lambda u, a: u if a is None else u + a, updates, away), state

    return optax.GradientTransformation(init, update)


def by_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation that takes norms or means of a whole array to each layer of stacked parameters apart.

    LAMB's trust ratio and Adafactor's factors, clipping and parameter scale belong to a layer's array; over a stack [N, ...] they would mix layers.
    """

    def split(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        flat = paths.leaves(tree)
        return {p: x for p, x in flat.items() if paths.is_stacked(p)}, {p: x for p, x in flat.items() if not paths.is_stacked(p)}

    def init(params):
        stacked, single = split(params)
        return {'stacked': jax.vmap(transformation.init)(stacked) if stacked else {}, 'single': transformation.init(single)}

    def update(updates, state, params):
        (stacked_u, single_u), (stacked_p, single_p) = split(updates), split(params)
        single, single_state = transformation.update(single_u, state['single'], single_p)
        stacked, stacked_state = jax.vmap(transformation.update)(stacked_u, state['stacked'], stacked_p) if stacked_u else ({}, {})
        merged = single | stacked
        return paths.map_paths(lambda path, _: merged[path], updates), {'stacked': stacked_state, 'single': single_state}

    return optax.GradientTransformation(init, update)


def trust_ratio(rules: Rules) -> optax.GradientTransformation:
    """LAMB's layer-wise trust ratio |param| / |update| (You et al., 2020), for those parameters that decay, as the authors' code does."""
    scale = by_layer(optax.scale_by_trust_ratio())

    def update(updates, state, params):
        scaled, state = scale.update(updates, state, params)
        decay = paths.values(rules, params, 'config.optim.decay', part=True)
        return jax.tree.map(lambda s, u, d: s if d else u, scaled, updates, decay), state

    return optax.GradientTransformation(scale.init, update)


def optimizer(config: Config, given: Numbers | None = None, keep: Keep = _new) -> optax.GradientTransformation:
    """Updates to add to the parameters, from gradients that are already clipped (the step clips, for it reports the norm).

    Args:
      given: numbers in place of the config's own; they may be traced.
      keep: which of a new state and an old one stays.
    """
    optim: OptimConfig = config.optim
    n = given or numbers(config)
    rate = schedule(config, n)
    adam, decay = scale_by_adam(n, optim, keep), add_decay(optim.decay, returning(config), n['decay'])
    by_rate = optax.scale_by_learning_rate(rate)
    match optim.name:
        case Optimizer.adamw:
            return optax.chain(adam, _keeping(decay, keep), _keeping(by_rate, keep))
        case Optimizer.lamb:
            return optax.chain(adam, _keeping(decay, keep), _keeping(trust_ratio(optim.decay), keep), _keeping(by_rate, keep))
        case Optimizer.adafactor:
            away = decay_by_rate(optim.decay, rate, returning(config), n['decay'])
            return optax.chain(_keeping(by_layer(scale_by_adafactor(128)), keep), _keeping(by_rate, keep), _keeping(away, keep))


def _keeping(transformation: optax.GradientTransformation, keep: Keep) -> optax.GradientTransformation:
    def update(updates, state, params):
        updates, new = transformation.update(updates, state, params)
        return updates, keep(new, state)

    return optax.GradientTransformation(transformation.init, update)


def scale_by_adafactor(factored_from: int) -> optax.GradientTransformation:
    """T5's Adafactor (Shazeer & Stern, 2018): decay 1 - step^-0.8, clipped at 1.0, scaled by the parameter's RMS, no momentum.

    `factored_from`: second moments are kept by row and column where both sides are at least as long.
    """
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=factored_from, decay_rate=0.8, epsilon=1e-30),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(min_scale=1e-3),
    )


def decay_by_rate(
    rules: Rules, rate: optax.Schedule, back: Callable[[str], bool] | None = None, amounts: Any = None
) -> optax.GradientTransformation:
    """Weight decay of rate x decay x parameter, after a scaled update (Adafactor's own update is relative to the parameter already); see `decayed`."""
    begin, amount = decayed(rules, back, amounts)

    def init(params):
        count = optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))
        return count if back is None else (count, begin(params))

    def update(updates, state, params):
        counted, start = (state, None) if back is None else state
        step_rate = rate(counted.count)
        updated = jax.tree.map(lambda u, a: u if a is None else u - step_rate * a, updates, amount(start, params))
        counted = optax.ScaleByScheduleState(count=counted.count + 1)
        return updated, counted if back is None else (counted, start)

    return optax.GradientTransformation(init, update)
