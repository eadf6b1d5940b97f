"""The state before the first step."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from t5x_lite.training import adapters, checkpoint, paths
from t5x_lite.training.step import Program, TrainState, begun_at


def begun(program: Program, initial: dict[str, Any] | None, say: Callable[[str], None] = print) -> TrainState:
    """The state that a run begins with.

    Args:
      initial: parameters of config.init_from (nested dict of numpy arrays), or None for random ones.
      say: is told where they are from, and which are random.
    """
    config = program.config
    if initial is None:
        return program.init()
    free = (*config.init_fresh, adapters.PATTERN)
    state = program.init(only=checkpoint.plan_merge(program.abstract.params, initial, free, config.init_from))
    drawn = paths.leaves(state.params)
    mixed = paths.map_paths(lambda path, leaf: drawn.get(path, leaf), program.abstract.params)
    params, fresh = checkpoint.merge(mixed, initial, free, config.init_from)
    ema = jax.tree.map(lambda x: x + 0, params) if config.ema_decay else {}
    added = [path for path in fresh if adapters.is_added(path)]
    groups = [_groups(path for path in fresh if path not in added), _groups(added)]
    kinds = ', '.join(sorted({path.rpartition('/')[2] for path in added}))
    said = [f'weights from {config.init_from}']
    said += [f'at random: {groups[0]}'] * bool(groups[0]) + [f'added: {kinds} in {groups[1]}'] * bool(added)
    say('; '.join(said))
    state = state.replace(params=params, ema=ema)
    remembers = config.optim.decay_to_init or config.tune.mixout
    return state.replace(opt_state=begun_at(program, params)) if remembers else state


def _groups(names: Iterable[str]) -> str:
    return ', '.join(sorted({'/'.join(name.split('/')[:2]) for name in names}))
