"""Competitors that take turns, on machines that are shared and change pace; what they took as a record, and a record as a table.

A speed is a ratio: the median over turns of that of neighbouring turns, of the work that both count (tokens, rows), or of their times where they count none. Seconds
stand beside it for orientation.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.errors import UserError

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # torch may be on the same accelerator; read when JAX first looks for one

_PAUSE = 0.1  # seconds between turns
_QUARTILES = (0.25, 0.5, 0.75)


@dataclasses.dataclass
class Competitor:
    """Who takes turns.

    Attributes:
      run: a turn, from beginning to end: it waits for its results.
      units: what a turn does, and how often: {'tokens': 840}. Each becomes a rate; speeds are compared by the first.
      flops: of a turn, those that the work needs and not those computed twice; 0: there is no share of the matmul rate.
      said: what else is known of it, by name: columns of the table.
    """

    run: Callable[[], Any]
    units: dict[str, float] = dataclasses.field(default_factory=dict)
    flops: float = 0.0
    said: dict[str, str] = dataclasses.field(default_factory=dict)


def matmul_rates(torch: Any = None, dtype: str = 'float32') -> Callable[[], float]:
    """A function that measures GFLOP/s of 1024 x 768 x 3072 (of 8192 x 8192 x 8192 on accelerators), accumulated in float32: the better of XLA's and
    torch's, which is measured on CPUs only."""
    n, k, m = (1024, 768, 3072) if jax.default_backend() == 'cpu' else (8192,) * 3
    x, y = np.ones((n, k), np.float32), np.ones((k, m), np.float32)
    ours, product = (jnp.asarray(x, dtype), jnp.asarray(y, dtype)), jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32))
    competitors = [lambda: product(*ours).block_until_ready()]
    competitors[0]()
    if torch is not None and jax.default_backend() == 'cpu':
        theirs = [torch.from_numpy(array).to(getattr(torch, dtype)) for array in (x, y)]
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


def pin(threads: int) -> None:
    """This process on so many cores: XLA has as many threads as it sees. Call it before JAX starts."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))


def parity(*names: str) -> tuple[Any, ...]:
    """Modules of the extra `parity`. Raises UserError where they are not installed."""
    try:
        return tuple(importlib.import_module(name) for name in names)
    except ImportError as error:
        raise UserError(f"{error}; this comparison needs the reference: pip install '.[parity]'") from error


def measure(
    benchmark: str,
    what: str,
    competitors: dict[str, Competitor],
    rate: Callable[[], float] | None,
    count: int,
    *,
    before: int = 2,
    packages: Sequence[str] = ('jax', 'flax'),
) -> dict[str, Any]:
    """A record of `count` turns of each; the first competitor is what the others are compared with.

    Args:
      what: was measured, in words.
      rate: of matrix products, in GFLOP/s, measured after each turn.
      before: turns that precede those that count.
      packages: whose versions are recorded.

    Returns:
      what json can write; see `table`.
    """
    spent, rates, idle = {name: [] for name in competitors}, [], []
    for turn in range(-before, count):
        for name, competitor in competitors.items():
            used = timed(competitor.run)
            time.sleep(_PAUSE)  # OpenMP's and Eigen's threads spin a little before they sleep
            idle.append(timed(lambda: time.sleep(_PAUSE))[1] / _PAUSE)
            if turn >= 0:
                spent[name].append(used)
        if rate is not None:
            rates.append(rate())
            time.sleep(_PAUSE)
        if turn >= 0:
            print(f'  turn {turn + 1}: ' + '  '.join(f'{name} {spent[name][-1][0]:.2f} s' for name in competitors), file=sys.stderr, flush=True)
    return {
        'benchmark': benchmark,
        'what': what,
        'command': f'python -m tests.benchmarks.{benchmark} {shlex.join(part for part in sys.argv[1:] if not part.startswith("--output"))}'.rstrip(),
        'machine': cpu() if jax.default_backend() == 'cpu' else jax.devices()[0].device_kind,
        'cores': len(os.sched_getaffinity(0)),
        'versions': {'python': platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        'turns': count,
        'matmul_gflops': float(np.median(rates)) if rates else None,
        'idle': float(np.median(idle)),
        'peak_memory_mib': _peak_memory_mib(),
        'competitors': {
            name: {
                'seconds': [wall for wall, _ in spent[name]],
                'cpu_seconds': [used for _, used in spent[name]],
                'units': {unit: float(many) for unit, many in one.units.items()},
                'flops': float(one.flops),
                'said': one.said,
            }
            for name, one in competitors.items()
        },
    }


def _peak_memory_mib() -> float:
    """Of this process with all competitors in it; on an accelerator, of its memory as JAX has used it."""
    if jax.default_backend() != 'cpu':
        return jax.devices()[0].memory_stats()['peak_bytes_in_use'] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(record: dict[str, Any]) -> str:
    """A record of `measure` in Markdown: what was measured and how, then a row a competitor."""
    competitors = record['competitors']
    base_name, first = next(iter(competitors.items()))
    versions = ', '.join(f'{name} {version}' for name, version in record['versions'].items())
    lines = [f'{record["what"]}; medians (quartiles) of {record["turns"]} turns.', '', f'    {record["command"]}', '']
    about = f'{record["machine"]}, {record["cores"]} cores, {versions}; peak memory {record["peak_memory_mib"]:,.0f} MiB'
    if record['matmul_gflops']:
        about += f'; matmul {record["matmul_gflops"]:,.0f} GFLOP/s'
    lines += [f'{about}; idle between turns {record["idle"]:.1%} of a core.', '']
    longest = max(np.median(one['seconds']) for one in competitors.values())
    unit, scale = ('ms', 1000) if longest < 1 else ('s', 1)
    units = list(dict.fromkeys(unit for one in competitors.values() for unit in one['units']))
    said = list(dict.fromkeys(name for one in competitors.values() for name in one['said']))
    shares = bool(record['matmul_gflops']) and any(one['flops'] for one in competitors.values())
    heads = ['', unit, f'speed against {base_name}', *(f'{unit}/s' for unit in units), *['of the matmul rate'] * shares, *said]
    lines += [f'| {" | ".join(heads)} |', '|' + '---|' * len(heads)]
    for name, one in competitors.items():
        seconds = np.array(one['seconds'])
        low, middle, high = np.quantile(seconds, _QUARTILES)
        slow, ratio, fast = _work(one, first) * np.quantile(np.array(first['seconds']) / seconds, _QUARTILES)
        cells = [
            name,
            f'{_short(scale * middle)} ({_short(scale * low)}-{_short(scale * high)})',
            f'{ratio:.2f} ({slow:.2f}-{fast:.2f})' if name != base_name else '1.00',
            *(_short(one['units'][unit] / middle) if unit in one['units'] else '' for unit in units),
        ]
        if shares:
            cells.append(f'{one["flops"] / middle / record["matmul_gflops"] / 1e9:.0%}' if one['flops'] else '')
        lines.append(f'| {" | ".join(cells + [one["said"][name] if name in one["said"] else "" for name in said])} |')
    return '\n'.join(lines)


def _work(one: dict[str, Any], first: dict[str, Any]) -> float:
    """Of a turn, in that of the first competitor."""
    unit = next(iter(first['units']), None)
    return one['units'][unit] / first['units'][unit] if unit in one['units'] else 1.0


def _short(number: float) -> str:
    """Three digits that say something."""
    return f'{number:,.0f}' if number >= 100 else f'{number:.3g}'


def write(record: dict[str, Any], path: str) -> None:
    """Prints the table; appends the record to a jsonl file where one is named."""
    print(f'\n{table(record)}')
    if path:
        with open(path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(record) + '\n')


def cpu() -> str:
    """Its name, and whether it has AVX-512: some kinds of one name have, others not, and their ratios differ."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            known = dict(line.split(':', 1) for line in file.read().split('\n\n')[0].splitlines())
        known = {key.strip(): value for key, value in known.items()}
        return known['model name'].strip() + (f" ({'with' if 'avx512f' in known['flags'].split() else 'without'} AVX-512)" if 'flags' in known else '')
    except (OSError, KeyError, ValueError):
        return platform.processor() or 'unknown processor'
