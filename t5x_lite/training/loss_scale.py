"""Dynamic loss scaling for float16, whose smallest numbers gradients fall below (Micikevicius et al., 2018, section 3.2).

The loss is multiplied by a scale before gradients are taken, and they, in float32, are divided by it after. Where one of them is not finite the scale was too
large: the step leaves everything as it was, and the scale is halved. After `config.optim.loss_scale_steps` finite steps in a row it is doubled. The constants
are those of torch.amp.GradScaler (65,536, x 2, x 0.5, 2,000 steps), which flax.training.dynamic_scale has too. Scales are powers of two: nothing is rounded.

Not all that is not finite is the scale's fault. A loss that is not finite itself comes of the data or the weights, and gradients that are not with a scale
of 1 do too; these are what config.optim.nonfinite is about.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import Config, DType

_GROWTH, _BACKOFF = 2.0, 0.5


@struct.dataclass
class LossScale:
    scale: jax.Array  # float32 []
    finite: jax.Array  # int32 []: steps since it changed


def begin(config: Config) -> LossScale | dict[str, Any]:
    """What a run begins with; {} where nothing is scaled."""
    if config.model.dtype is not DType.float16:
        return {}
    return LossScale(jnp.float32(config.optim.loss_scale), jnp.int32(0))


def factor(state: LossScale | dict[str, Any]) -> jax.Array | None:
    """What the loss is multiplied by; None where it is not."""
    return state.scale if state else None


def overflowed(state: LossScale | dict[str, Any], loss: jax.Array, finite: jax.Array) -> jax.Array:
    """bool: a smaller scale may mend what is not finite of a step.

    Args:
      finite: whether its loss and gradients are.
    """
    return ~finite & jnp.isfinite(loss) & (state.scale > 1.0) if state else jnp.zeros([], bool)


def after(state: LossScale | dict[str, Any], config: Config, finite: jax.Array) -> LossScale | dict[str, Any]:
    """The state for the next step."""
    if not state:
        return state
    count = jnp.where(finite, state.finite + 1, 0)
    grows = count >= config.optim.loss_scale_steps
    scale = jnp.where(finite, jnp.where(grows, state.scale * _GROWTH, state.scale), jnp.maximum(state.scale * _BACKOFF, 1.0))
    return LossScale(scale, jnp.where(grows, 0, count))
