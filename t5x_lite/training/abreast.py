"""Runs that differ only in numbers (training/sharing.py), trained abreast: one program, `vmap` of the step, takes a step of all of them.

    for places in groups([run.config for run in runs]): train_abreast([runs[n] for n in places], [workdirs[n] for n in places], evaluations)

Everything else stays a run's own: workdir, batches, dropout, log, held-out scores, checkpoints, the end. Each workdir is as if its run had been trained
alone, but for rounding: XLA sums the products of several matrices in another order. A run whose loss is not finite stops, or passes over the step, for
itself.

Batches of a step have one shape for all runs, as length, size and stages are no numbers; but where config.data.length_buckets make them differ in length,
each run takes that step alone. (Padding to the longest would draw other dropout masks over attention.) To have all steps abreast, give runs one seed, or
no length_buckets.

Abreast is for accelerators that one small run leaves idle. Two processor cores are full with one: there a step of four takes four times that of one
(tests/benchmarks/abreast.py), and one after the other, sharing what is compiled, is as fast and takes less memory.

Resuming: repeat the call. Each run goes on from its own newest checkpoint; those that are behind go alone until they have caught up. A run that has ended
keeps its place in the program, unused, until all have.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import os
import sys
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import Interrupted, UserError
from t5x_lite.training import driving, processes, sharing, tuning
from t5x_lite.training.driving import Asked
from t5x_lite.training.step import Program, TrainState, make_train_step, numbers
from t5x_lite.training.trainer import Evaluate, Trainer


class Run(Protocol):
    """What t5x_lite.assemble makes of a config."""

    config: Config
    initial: dict[str, Any] | None
    tokenizer_path: str
    train: DataFunction
    base: dict[str, Any] | None


def groups(configs: Sequence[Config]) -> list[list[int]]:
    """Places of complete (assembled) configs that can be trained abreast, those of a group in their order."""
    found: dict[Any, list[int]] = {}
    for place, config in enumerate(configs):
        found.setdefault(_shape(config), []).append(place)
    return list(found.values())


def _shape(config: Config) -> Any:
    return sharing.key(config, tuple(tuning.stages(config.tune, config.steps)), config.log.profile_steps)


def train_abreast(
    runs: Sequence[Run], workdirs: Sequence[str], make_evaluate: Callable[[Run], Callable[[Program, int], Evaluate]]
) -> tuple[str, list[UserError | None]]:
    """Trains each run to the end of its steps in its own workdir.

    Args:
      make_evaluate: gives what `Trainer` takes as make_evaluate.

    Returns:
      (the signal that stopped all of them, saved, or ''; what each run failed of, or None). One that failed has not kept the others from their end.

    Raises:
      UserError: runs that cannot go together, a group that does not fit into memory.
    """
    _check(runs, workdirs)
    trainers = [
        Trainer(run.config, workdir, run.train, make_evaluate(run), run.tokenizer_path, run.initial, run.base)
        for run, workdir in zip(runs, workdirs, strict=True)
    ]

    def on_signal(number: int, frame: Any) -> None:
        for trainer in trainers:
            trainer.on_signal(number, frame)

    try:
        with processes.signals(on_signal), jax.set_mesh(trainers[0].mesh), contextlib.ExitStack() as stack:
            members = [_Member(stack.enter_context(contextlib.closing(trainer.steps())), label) for trainer, label in zip(trainers, _labels(workdirs))]
            _take_all(members)
    except KeyboardInterrupt as error:
        raise Interrupted('interrupted without saving; repeat the command to go on from the newest checkpoints') from error
    return trainers[0].stopped_by, [member.failure for member in members]


def _check(runs: Sequence[Run], workdirs: Sequence[str]) -> None:
    configs = [run.config for run in runs]
    if len(workdirs) != len(runs) or len({os.path.abspath(path) for path in workdirs}) < len(workdirs):
        raise UserError(f'{len(runs)} runs abreast need a --workdir each, all different; there are {", ".join(workdirs)}')
    for config in configs:
        if _shape(config) != _shape(configs[0]):
            ours, theirs = sharing.fixed(config), sharing.fixed(configs[0])
            fields = [name for name in ours if ours[name] != theirs[name]] or ['tune.unfreeze, of steps that differ']
            raise UserError(f'runs that differ in config.{fields[0]} cannot be trained abreast; train them one after the other')
        if config.log.profile_steps and len(configs) > 1:
            raise UserError('config.log.profile_steps is for a run by itself; leave it out of runs that are trained abreast')


def _labels(workdirs: Sequence[str]) -> list[str]:
    names = [os.path.basename(os.path.abspath(path)) for path in workdirs]
    return names if len(set(names)) == len(names) else list(workdirs)


class _Member:
    """A run of the group: the step that it asks for now, or how it ended."""

    def __init__(self, steps: Iterator[Asked], label: str):
        self._steps, self._label = steps, label
        self.alone = driving.One()  # until the group has begun
        self.asked: Asked | None = None
        self.failure: UserError | None = None
        self.go_on()

    def go_on(self) -> None:
        """Lets the run use what came of its step, and ask for the next."""
        self.asked = None
        try:
            with contextlib.redirect_stdout(_Labelled(sys.stdout, self._label)):
                self.asked = next(self._steps, None)
        except UserError as error:
            self.failure = error.with_traceback(None)  # which would keep the run's arrays
            print(f'[{self._label}] ended: {error}', flush=True)


class _Labelled:
    """A stream in which each line begins with the name of a run."""

    def __init__(self, stream: Any, label: str):
        self._stream, self._label, self._begins = stream, label, True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self._stream.write((f'[{self._label}] ' if self._begins else '') + line)
            self._begins = line.endswith('\n')
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def _take_all(members: Sequence[_Member]) -> None:
    """Steps until all runs have ended. Once runs are abreast they stay so: a step of one is a step of all that go on."""
    group: _Group | None = None
    while live := [member for member in members if member.asked is not None]:
        first = min(member.asked.step for member in live)
        now = [member for member in live if member.asked.step == first]
        if any(member.asked.state is not None for member in now):
            group = None  # they begin, or from here on other parameters learn
        alike = len({member.asked.shapes for member in now}) == 1
        if group is None and (len(now) < len(live) or len(now) == 1 or not alike):
            for member in now:
                member.alone.take(member.asked)
        else:
            group = group or _Group(now)
            group.take()
        # All have waited for what was compiled for any.
        compile_seconds = sum(member.asked.compile_seconds for member in now)
        for member in now:
            member.asked.compile_seconds = compile_seconds
        for member in now:
            member.go_on()


class _Group:
    """The stacked state of runs that are at the same step, [R, ...] of each array of a run's."""

    def __init__(self, members: Sequence[_Member]):
        self._members, self._program = members, members[0].asked.program
        programs = [member.asked.program for member in members]
        if len({program.key for program in programs}) > 1:
            raise UserError(
                'runs whose config.tune.rates or .layer_decay leave the learning rate alone cannot go abreast with others; train them one after the other'
            )
        self._numbers = driving.placed_numbers(self._program, jax.tree.map(lambda *values: np.stack(values), *map(numbers, programs)))
        self._shardings = jax.tree.map(_stacked, self._program.shardings)
        self._state: TrainState | None = None

    def take(self) -> None:
        """A step of every run that goes on, of whose batches one shape is the rule."""
        live = [(place, member) for place, member in enumerate(self._members) if member.asked is not None]
        asked = live[0][1].asked
        if len({member.asked.shapes for _, member in live}) > 1:
            for place, member in live:
                member.alone.state = self._of(place)
                member.alone.take(member.asked)
                self._put(place, member.alone.state)
                member.alone.state, member.asked.after = None, functools.partial(self._of, place)
            return
        batch = _placed([(member.asked or asked).batch for member in self._members], asked)
        function, asked.compile_seconds = self._compiled(batch)
        if self._state is None:
            self._begin()
        self._state, metrics = function(self._state, batch, self._numbers)
        fetched = functools.cache(lambda: jax.device_get(metrics))
        for place, member in live:
            member.asked.after = functools.partial(self._of, place)
            member.asked.taken = metrics['finite'].block_until_ready
            member.asked.metrics = functools.partial(lambda place: jax.tree.map(lambda x: x[place], fetched()), place)

    def _begin(self) -> None:
        states = []
        for member in self._members:
            states.append(member.alone.state if member.asked.state is None else member.asked.state)
            member.alone.state = member.asked.state = None
        stack = jax.jit(lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), out_shardings=self._shardings)
        self._state = stack(states)
        for leaf in jax.tree.leaves(states):
            leaf.delete()  # as a step that takes over its state does; who began with it may still name it

    def _of(self, place: int) -> TrainState:
        """A copy of the state of one run."""
        return self._kept('one', lambda state, place: jax.tree.map(lambda x: x[place], state), self._program.shardings)(self._state, np.int32(place))

    def _put(self, place: int, one: TrainState) -> None:
        def put(state: TrainState, one: TrainState, place: jax.Array) -> TrainState:
            return jax.tree.map(lambda x, new: x.at[place].set(new), state, one)

        self._state = self._kept('put', put, self._shardings, donate_argnums=0)(self._state, one, np.int32(place))

    def _kept(self, name: str, function: Callable[..., Any], shardings: Any, **options: Any) -> Callable[..., Any]:
        return sharing.kept((name, self._program.key, len(self._members)), lambda: jax.jit(function, out_shardings=shardings, **options))

    def _compiled(self, batch: dict[str, jax.Array]) -> tuple[Any, float]:
        program, count = self._program, len(self._members)

        def compile_step() -> Any:
            abstract = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=sharding), program.abstract, self._shardings
            )
            shardings = (self._shardings, {name: value.sharding for name, value in batch.items()}, None)
            jitted = jax.jit(jax.vmap(make_train_step(program)), donate_argnums=0, in_shardings=shardings, out_shardings=(self._shardings, None))
            return jitted.lower(abstract, batch, self._numbers).compile()

        shapes = tuple(sorted((name, value.shape, str(value.dtype)) for name, value in batch.items()))
        what = f'the step of {count} runs abreast for {" x ".join(map(str, batch["tokens"].shape[1:]))}'
        function, seconds = driving.timed(('abreast', program.key, shapes), compile_step, what, self._state)
        _check_memory(function, count)
        return function, seconds


def _stacked(sharding: NamedSharding) -> NamedSharding:
    """Runs are not divided: each device has its part of all of them."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def _placed(batches: Sequence[dict[str, np.ndarray]], asked: Asked) -> dict[str, jax.Array]:
    """Global arrays [R, B, ...] from this process's rows of each batch."""

    def place(name: str, sharding: NamedSharding) -> jax.Array:
        values = np.stack([batch[name] for batch in batches])

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[1].indices(asked.size)
            return values[(index[0], slice(start - asked.rows.start, stop - asked.rows.start), *index[2:])]

        return jax.make_array_from_callback((len(batches), asked.size, *values.shape[2:]), sharding, piece)

    return {name: place(name, _stacked(sharding)) for name, sharding in asked.shardings.items()}


def _check_memory(compiled: Any, count: int) -> None:
    """Raises UserError where the step of so many runs cannot fit, before a step is taken."""
    room, sizes = _memory(), compiled.memory_analysis()
    if room is None or sizes is None:
        return
    needed = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if needed > room:
        fit = int(room // (needed / count))
        mend = f'train at most {fit} at a time' if fit > 1 else 'train them one after the other'
        raise UserError(f'{count} runs abreast need {needed / 2**30:.1f} GiB a device, which has {room / 2**30:.1f} GiB; {mend}')


def _memory() -> float | None:
    """Bytes that a device has, of the host's memory its share; None where it does not say."""
    device = jax.local_devices()[0]
    if device.platform == 'cpu':
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / jax.local_device_count()
    stats = device.memory_stats()
    return stats['bytes_limit'] if stats and 'bytes_limit' in stats else None
