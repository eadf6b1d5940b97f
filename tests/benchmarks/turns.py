"""Competitors that take turns, on machines that are shared and change pace."""

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PAUSE = 0.1  # seconds between turns


def matmul_rates(torch: Any = None, dtype: str = 'float32') -> Callable[[], float]:
    """A function that measures GFLOP/s of 1024 x 768 x 3072 (of 8192 x 8192 x 8192 on accelerators), accumulated in float32: XLA's, or the better of its
    float32 and torch's."""
    n, k, m = (1024, 768, 3072) if jax.default_backend() == 'cpu' else (8192,) * 3
    x, y = np.ones((n, k), np.float32), np.ones((k, m), np.float32)
    ours, product = (jnp.asarray(x, dtype), jnp.asarray(y, dtype)), jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32))
    competitors = [lambda: product(*ours).block_until_ready()]
    competitors[0]()
    if torch is not None:
        theirs = torch.from_numpy(x), torch.from_numpy(y)
        competitors.append(lambda: torch.matmul(*theirs))

    def rate(function: Callable[[], Any]) -> float:
        began = time.perf_counter()
        for _ in range(4):
            function()
        return 4 * 2 * n * k * m / (time.perf_counter() - began) / 1e9

    return lambda: max(map(rate, competitors))


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of the whole process)."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(turns: dict[str, Callable[[], Any]], rate: Callable[[], float], steps: int) -> tuple[dict[str, np.ndarray], list[float], list[float]]:
    """({name: [steps, 2] wall and CPU seconds}, matmul rates, CPU shares of the pauses)."""
    times, rates, idle = {name: [] for name in turns}, [], []
    for turn in range(-2, steps):
        for name, run in turns.items():
            used = timed(run)
            time.sleep(_PAUSE)  # OpenMP's and Eigen's threads spin a little before they sleep
            idle.append(timed(lambda: time.sleep(_PAUSE))[1] / _PAUSE)
            if turn >= 0:
                times[name].append(used)
        rates.append(rate())
        time.sleep(_PAUSE)
        if turn >= 0:
            print(f'  turn {turn + 1}: ' + '  '.join(f'{name} {times[name][-1][0]:.2f} s' for name in turns), file=sys.stderr, flush=True)
    return {name: np.array(values) for name, values in times.items()}, rates, idle


def cpu() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or 'unknown processor'
