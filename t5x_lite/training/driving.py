"""Who takes the steps that a run asks for.

A trainer reads, logs, evaluates and saves; what it asks for is computed here, for it alone (`One`), or for several runs in one program (abreast.py).
"""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from t5x_lite.models import kernels
from t5x_lite.training import partitioning, processes, sharing
from t5x_lite.training.step import Program, TrainState, make_train_step, numbers


@dataclasses.dataclass
class Asked:
    """A step that a run is about to take. Whoever takes it answers in `after`, `metrics`, `taken` and `compile_seconds`."""

    step: int  # counted from 0
    program: Program
    batch: dict[str, np.ndarray]  # this process's rows
    rows: slice  # which of the global batch those are
    size: int  # of the global batch
    state: TrainState | None  # before the step, where it is not what the step before it left
    after: Callable[[], TrainState] | None = None
    metrics: Callable[[], dict[str, Any]] | None = None  # of the host; waits for the step
    taken: Callable[[], Any] | None = None  # returns when the devices have taken the step; for another thread
    compile_seconds: float = 0.0
    before: Callable[[], None] | None = None  # called once the step is compiled

    @property
    def shapes(self) -> tuple[Any, ...]:
        return tuple(sorted((name, value.shape[1:], str(value.dtype)) for name, value in self.batch.items()))

    @property
    def shardings(self) -> dict[str, NamedSharding]:
        return partitioning.batch_shardings(self.batch, self.program.mesh, self.batch['tokens'].shape[-1])


def placed_numbers(program: Program, stacked: Any = None) -> Any:
    """Those of a program, or given ones, on every device."""
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    return jax.tree.map(lambda value: processes.placed(value, everywhere), numbers(program) if stacked is None else stacked)


class One:
    """Takes the steps of one run."""

    def __init__(self):
        self.state: TrainState | None = None
        self._program: Program | None = None
        self._numbers: Any = None

    def take(self, asked: Asked) -> None:
        program = asked.program
        if program is not self._program:
            self._program, self._numbers = program, placed_numbers(program)
        if asked.state is not None:
            self.state, asked.state = asked.state, None
        batch = partitioning.to_devices(asked.batch, asked.shardings, asked.rows, asked.size)
        function, asked.compile_seconds = compiled(program, self.state, batch)
        if asked.before is not None:
            asked.before()
        self.state, metrics = function(self.state, batch, self._numbers)
        asked.after = lambda: self.state
        asked.metrics = functools.partial(processes.fetched, metrics)
        asked.taken = metrics['finite'].block_until_ready


def compiled(program: Program, state: TrainState, batch: dict[str, jax.Array]) -> tuple[Callable[..., Any], float]:
    """(the step for batches of these shapes, seconds that compiling it took: 0 where another run of this process has done it)."""

    def compile_step() -> Any:
        found, picked = checked(program, batch)
        for kind, said in picked.items():
            if kind not in told:
                told[kind] = said
                print(said, flush=True)
        return found.lower().compile(compiler_options(program))

    told = sharing.kept('attention that was told of', dict)
    return timed(('step', program.key, _shapes(batch)), compile_step, f'the step for {" x ".join(map(str, batch["tokens"].shape))}', state)


def compiler_options(program: Program) -> dict[str, str]:
    """What the compiler of a run's devices is told: that of TPUs, where config.mesh.gather_ahead sends messages beside what is computed.

    It holds back all but a few that could be under way at once, and takes each for as fast as if it were alone on its links: so many may be, and what is
    computed counts for a fiftieth of its time, so that messages begin as early in a turn of the loop over layers as they can. Where layers are not looped over
    for a tenth, which hides more (tests/benchmarks/EVIDENCE.md has both).
    """
    config = program.config
    if program.mesh.devices.flat[0].platform != 'tpu' or not config.mesh.gather_ahead:
        return {}
    computing = '0.02' if config.model.scan_layers else '0.1'
    return {
        'xla_max_concurrent_async_collective_permutes': '32',
        'xla_lhs_output_fusion_latency_multiplier': computing,
        'xla_lhs_loop_fusion_latency_multiplier': computing,
    }


def checked(program: Program, batch: dict[str, Any]) -> tuple[jax.stages.Traced, dict[Any, str]]:
    """(`traced` for batches of these shapes, what there is to say of the attention that it picked), from when this was last asked: what is traced to see whether
    a run can start is what it compiles."""

    def make() -> tuple[jax.stages.Traced, dict[Any, str]]:
        picked: dict[Any, str] = {}
        with kernels.telling(lambda said: None, picked):
            return traced(program, batch), picked

    return sharing.kept(('traced', program.key, _shapes(batch)), make)


def _shapes(batch: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, value.shape, str(value.dtype)) for name, value in batch.items()))


def traced(program: Program, batch: dict[str, Any]) -> jax.stages.Traced:
    """The step, for a global batch of these shapes: what trains is what is planned (t5x_lite/planning)."""
    shardings = partitioning.batch_shardings(batch, program.mesh, batch['tokens'].shape[-1])
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    given = jax.tree.map(lambda value: jax.ShapeDtypeStruct(np.shape(value), np.asarray(value).dtype, sharding=everywhere), numbers(program))
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=shardings[name]) for name, value in batch.items()}
    jitted = jax.jit(make_train_step(program), donate_argnums=0, in_shardings=(program.shardings, shardings, None), out_shardings=(program.shardings, None))
    return jitted.trace(program.abstract, shapes, given)


def timed(name: Any, compile_step: Callable[[], Any], what: str, state: Any) -> tuple[Any, float]:
    """(what is kept under a name, seconds that compiling it took: 0 where that was done before).

    Args:
      state: of the steps that are under way. Compiling waits for them: seconds in which steps are taken too would be missing from theirs.
    """
    spent = []

    def make() -> Any:
        jax.block_until_ready(state)
        began = time.perf_counter()
        with kernels.telling(lambda said: print(said, flush=True), sharing.kept('attention that was told of', dict)):
            made = compile_step()
        spent.append(time.perf_counter() - began)
        print(f'compiled {what} in {spent[0]:.1f} s', flush=True)
        return made

    function = sharing.kept(name, make)
    return function, sum(spent)
