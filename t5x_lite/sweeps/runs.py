"""The runs of a sweep in one process, and what became of each.

    OUT/runs/NAME/outcome.json    {"kind": "failed", "reason": "..."}, beside what a run writes itself
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import gc
import json
import os
import time

from t5x_lite import remote, running
from t5x_lite.assemble import Run, assemble
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.errors import Interrupted, NotFinite, UserError, mendable
from t5x_lite.sweeps.plan import Planned, Sweep
from t5x_lite.training import abreast, checkpoint, workdirs
from t5x_lite.training.patience import Patience
from t5x_lite.training.telemetry import duration

OUTCOME = 'outcome.json'
FINISHED, FAILED, DIVERGED, BEGUN, WAITING = 'finished', 'failed', 'diverged', 'begun', 'waiting'


@dataclasses.dataclass(frozen=True)
class State:
    """Of a run: FINISHED; FAILED, and may do better when it is repeated; DIVERGED, and would do so again; BEGUN; WAITING."""

    kind: str
    reason: str = ''


def state_of(workdir: str) -> State:
    """By what is on disk, whoever trained it: this process, another, or a cluster's."""
    path, outcome = os.path.join(workdir, 'config.json'), os.path.join(workdir, OUTCOME)
    config = from_json(path) if remote.exists(path) else None
    if config is not None and (_is_saved(workdir, config.steps) or _stopped_early(workdir, config)):
        return State(FINISHED)
    if remote.exists(outcome):
        return State(**json.loads(remote.read(outcome)))
    return State(WAITING if config is None else BEGUN)


def _is_saved(workdir: str, step: int) -> bool:
    return step in checkpoint.steps_in(os.path.join(workdir, checkpoint.FOLDER))


def _stopped_early(workdir: str, config: Config) -> bool:
    """Whether config.eval.patience has ended, by the scores in metrics.jsonl, and the step is saved at which it did."""
    path = os.path.join(workdir, 'metrics.jsonl')
    if not config.eval.patience or not remote.exists(path):
        return False
    patience, step = Patience(config), 0
    for line in map(json.loads, remote.read(path).splitlines()):
        scores = {name.removeprefix('eval/'): float('nan') if value is None else value for name, value in line.items() if name.startswith('eval/')}
        if config.checkpoint.best_metric in scores:
            step = line['step']
            patience.add(step, scores)
    return patience.over and _is_saved(workdir, step)


def to_train(sweep: Sweep) -> list[Planned]:
    """What the command wants and has not got. A run that diverged is not repeated, for it would do so again; one that failed is."""
    return [run for run in sweep.wanted if state_of(run.workdir).kind not in (FINISHED, DIVERGED)]


def train(sweep: Sweep, runs: Sequence[Planned], say: Callable[[str], None] = print, together: int = 1) -> str:
    """Trains these, and records what failed. Returns the name of the signal that stopped it, else ''.

    Args:
      together: at most so many runs as one vmapped run (training/abreast.py), of those that differ in numbers alone.
    """
    began, ended = time.perf_counter(), set()

    def begins(index: int) -> None:
        spent = time.perf_counter() - began
        left = f', about {duration(spent / len(ended) * (len(runs) - len(ended)))} left' if ended else ''
        say(f'\nrun {index + 1:,} of {len(runs):,}: {runs[index].name}{left}')

    def ends(index: int, error: UserError | None) -> None:
        ended.add(index)
        if error is not None:
            say(f'run {runs[index].name} failed: {error}')
        _record(runs[index], error)

    with workdirs.disk_errors(sweep.folder), workdirs.locked(sweep.folder):
        return run_group([run.config for run in runs], [run.workdir for run in runs], begins, ends, together)


def run_group(
    configs: Sequence[Config],
    workdirs: Sequence[str],
    begins: Callable[[int], None],
    ends: Callable[[int, UserError | None], None],
    together: int = 1,
) -> str:
    """Trains configs, as they were given and have been checked, in their workdirs. Returns the name of the signal that stopped it, '' where none did.

    One after another, what is compiled shared (training/sharing.py); or up to `together` of them abreast.

    Args:
      begins: called with the number of a run before anything of it is done.
      ends: and when it has ended, with what it failed of or None; never for one that a signal stopped.

    Raises:
      Interrupted: by a second signal.
    """
    for places in abreast.groups(configs) if together > 1 else [list(range(len(configs)))]:
        for first in range(0, len(places), together):
            runs = {}
            for place in places[first : first + together]:
                begins(place)
                with _failing(place, ends):
                    runs[place] = assemble(configs[place], workdir=workdirs[place])
            while runs:
                # What data and weights fill in may still divide them.
                alike = [list(runs)[at] for at in abreast.groups([run.config for run in runs.values()])[0]] if len(runs) > 1 else list(runs)
                if signal := _train_alike({place: runs.pop(place) for place in alike}, workdirs, ends, baselines=not alike[0]):
                    return signal
                gc.collect()  # before the next take memory
    return ''


def _train_alike(runs: dict[int, Run], workdirs: Sequence[str], ends: Callable[[int, UserError | None], None], baselines: bool) -> str:
    """{place: run}, as one where there are several. Returns the signal that stopped it, or ''."""
    signal, failures = '', {}
    with _failing(list(runs), lambda place, failure: failures.update({place: failure})):
        if len(runs) == 1:
            (place, run), = runs.items()
            signal = running.train(run, workdirs[place], checked=True, baselines=baselines)
        else:
            signal, each = running.train_abreast(list(runs.values()), [workdirs[place] for place in runs], baselines=baselines)
            failures |= {place: failure for place, failure in zip(runs, each, strict=True) if failure is not None}
    for place in runs:
        if place in failures or not signal:
            ends(place, failures[place] if place in failures else None)
    return signal


@contextlib.contextmanager
def _failing(places: int | Sequence[int], ends: Callable[[int, UserError | None], None]) -> Iterator[None]:
    """Says of each of these runs what it failed of, where that is something that a person can mend."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if (failure := mendable(error)) is None:
            raise
        for place in [places] if isinstance(places, int) else places:
            ends(place, failure.with_traceback(None))  # which would keep the run's arrays


def _record(run: Planned, error: UserError | None) -> None:
    if not remote.is_remote(run.workdir):
        os.makedirs(run.workdir, exist_ok=True)
    state = State(FINISHED) if error is None else State(DIVERGED if isinstance(error, NotFinite) else FAILED, str(error))
    remote.write(os.path.join(run.workdir, OUTCOME), json.dumps(dataclasses.asdict(state)).encode())
