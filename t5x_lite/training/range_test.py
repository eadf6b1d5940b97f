"""A learning-rate range test (Smith, 2017): a few hundred steps at rates that rise from 1e-7 to 1, and what their losses say.

A rate that is too low leaves the loss where it is, a good one lets it fall, one that is too high drives it up. The test says where each begins for these
weights, data and batch size. It is too short to see what is forgotten slowly, so recipes for pretrained weights lie below the rate of the steepest fall.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from t5x_lite.config import Config, Schedule
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.training import driving, partitioning
from t5x_lite.training.beginning import begun
from t5x_lite.training.step import TrainState, make_program
from t5x_lite.training.telemetry import Console

LOWEST, HIGHEST = 1e-7, 1.0
ABOVE = 1.25  # times the lowest loss is too high
_HOPELESS = 4.0  # times the lowest loss ends the test


def rising(config: Config, steps: int) -> Config:
    """The config of a test of so many steps."""
    optim = dataclasses.replace(config.optim, schedule=Schedule.rising, learning_rate=HIGHEST, warmup_steps=max(steps - 1, 1), warmup_fraction=0.0)
    return dataclasses.replace(config, optim=optim)


def measure(
    config: Config, data: DataFunction, initial: dict[str, Any] | None, steps: int, say: Callable[[str], None] = print
) -> tuple[np.ndarray, np.ndarray]:
    """(rates, losses), float64 [n <= steps], from the weights that a run of `config` begins with, on its first batches, with what learns at its first step.

    The test ends before the last step where a loss is not finite, or many times the lowest. Nothing is written.
    """
    config = rising(config, steps)
    mesh = partitioning.make_mesh(config)
    stage = data.stages[0]
    partitioning.check_batch(mesh, stage.batch_size, stage.seq_len, config.optim.microbatches)
    program, rows = make_program(config, mesh), partitioning.local_rows(mesh, stage.batch_size)
    # Later stages of the data have other lengths; their losses would not compare.
    first_stage = data.stages[1].first_step if len(data.stages) > 1 else steps
    one, console = driving.One(), Console(steps, config.log)
    rates, losses, mean, lowest = [], [], 0.0, math.inf
    with jax.set_mesh(mesh):
        state: TrainState | None = begun(program, initial, say)
        for step in range(steps):
            asked = driving.Asked(step, program, data.batch(step % first_stage, rows), rows, stage.batch_size, state)
            state = None  # whoever takes the step holds it
            one.take(asked)
            metrics = asked.metrics()
            loss = float(metrics['loss'])
            console.pause(asked.compile_seconds)
            console.step(step + 1, float(metrics['tokens']), {'loss': loss, 'lr': float(metrics['learning_rate'])}, None, 0.0)
            if 'overflowed' in metrics and bool(metrics['overflowed']):
                continue  # the loss scale is still finding its place
            if not bool(metrics['finite']):
                break
            rates.append(float(metrics['learning_rate']))
            losses.append(loss)
            mean = loss if len(losses) == 1 else 0.8 * mean + 0.2 * loss
            lowest = min(lowest, mean)
            if step > steps // 10 and mean > _HOPELESS * lowest:
                break
    return np.array(rates), np.array(losses)


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Means with the weights of a bell curve over neighbours (a fortieth of all steps wide, two at least), which do not lag as running means do."""
    losses = np.asarray(losses, np.float64)
    places = np.arange(len(losses))
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / max(len(losses) / 40, 2.0)) ** 2)
    return weights @ losses / weights.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Rates of the smoothed losses; None where there is no such."""

    steepest: float | None  # of the steepest fall by the logarithm of the rate: where to begin
    lowest: float | None
    too_high: float | None  # the first beyond which losses are above `ABOVE` times the lowest


def find(rates: Sequence[float], losses: Sequence[float]) -> Finding:
    """What losses at rising rates say; nothing where they never clearly fall."""
    if len(losses) < 10:
        return Finding(None, None, None)
    rates, smooth = np.asarray(rates, np.float64), smoothed(losses)
    bottom = int(np.argmin(smooth))
    # Of a smoothed loss, where nothing has blown up yet.
    spread = float(np.std((np.asarray(losses) - smooth)[: bottom + 1]))
    noise = spread / math.sqrt(max(len(losses) / 40, 2.0) * 2 * math.sqrt(math.pi))
    high = np.flatnonzero((np.arange(len(smooth)) > bottom) & (smooth > ABOVE * smooth[bottom] + 3 * noise))
    too_high = float(rates[high[0]]) if len(high) else None
    before = smooth[: bottom + 1]
    # Losses that fall by less than their noise, or by next to nothing, show where they blow up, and no more.
    if bottom < 3 or before[0] - smooth[bottom] < max(5 * noise, 0.01 * before[0]):
        return Finding(None, None, too_high)
    slopes = np.gradient(before, np.log(rates[: bottom + 1]))
    return Finding(float(rates[int(np.argmin(slopes))]), float(rates[bottom]), too_high)
