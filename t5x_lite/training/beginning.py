"""The state before the first step."""

from collections.abc import Callable
from typing import Any

import jax

from t5x_lite.training import adapters, checkpoint
from t5x_lite.training.step import Program, TrainState, begun_at


def begun(program: Program, initial: dict[str, Any] | None, say: Callable[[str], None] = print) -> TrainState:
    """The state that a run begins with.

    Args:
      initial: parameters of config.init_from (nested dict of numpy arrays), or None for random ones.
      say: is told where they are from, and which are random.
    """
    config, state = program.config, program.init()
    if initial is None:
        return state
    params, fresh = checkpoint.merge(state.params, initial, (*config.init_fresh, adapters.PATTERN), config.init_from)
    ema = jax.tree.map(lambda x: x + 0, params) if config.ema_decay else {}
    groups = sorted({'/'.join(path.split('/')[:2]) for path in fresh})
    say(f'weights from {config.init_from}' + (f'; at random: {", ".join(groups)}' if fresh else ''))
    state = state.replace(params=params, ema=ema)
    remembers = config.optim.decay_to_init or config.tune.mixout
    return state.replace(opt_state=begun_at(program, params)) if remembers else state
