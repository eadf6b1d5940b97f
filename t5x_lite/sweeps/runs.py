"""The runs of a sweep in one process, and what became of each.

    OUT/runs/NAME/outcome.json    {"kind": "failed", "reason": "..."}, beside what a run writes itself
"""

from collections.abc import Callable, Sequence
import dataclasses
import gc
import json
import os
import time

from t5x_lite import running
from t5x_lite.assemble import assemble
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.errors import Interrupted, NotFinite, UserError, mendable
from t5x_lite.sweeps.plan import Planned, Sweep
from t5x_lite.training import checkpoint, workdirs
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
    config, outcome = os.path.join(workdir, 'config.json'), os.path.join(workdir, OUTCOME)
    saved = os.path.join(workdir, checkpoint.FOLDER, str(from_json(config).steps)) if os.path.exists(config) else ''
    if saved and os.path.isdir(saved):
        return State(FINISHED)
    if os.path.exists(outcome):
        with open(outcome, encoding='utf-8') as file:
            return State(**json.load(file))
    return State(BEGUN if saved else WAITING)


def to_train(sweep: Sweep) -> list[Planned]:
    """What the command wants and has not got. A run that diverged is not repeated, for it would do so again; one that failed is."""
    return [run for run in sweep.wanted if state_of(run.workdir).kind not in (FINISHED, DIVERGED)]


def train(sweep: Sweep, runs: Sequence[Planned], say: Callable[[str], None] = print) -> str:
    """Trains these, and records what failed. Returns the name of the signal that stopped it, else ''."""
    began = time.perf_counter()

    def begins(index: int) -> None:
        spent = time.perf_counter() - began
        left = f', about {duration(spent / index * (len(runs) - index))} left' if index else ''
        say(f'\nrun {index + 1:,} of {len(runs):,}: {runs[index].name}{left}')

    def ends(index: int, error: UserError | None) -> None:
        if error is not None:
            say(f'run {runs[index].name} failed: {error}')
        _record(runs[index], error)

    with workdirs.disk_errors(sweep.folder), workdirs.locked(sweep.folder):
        return run_group([run.config for run in runs], [run.workdir for run in runs], begins, ends)


def run_group(
    configs: Sequence[Config], workdirs: Sequence[str], begins: Callable[[int], None], ends: Callable[[int, UserError | None], None]
) -> str:
    """Trains configs, as they were given and have been checked, in their workdirs: one after another.

    Returns the name of the signal that stopped it, '' where none did.

    The one place that knows how several runs are trained: whoever lets them share what is compiled, or trains some of them as one, does it here.

    Args:
      begins: called with the number of a run before anything of it is done.
      ends: and when it has ended, with what it failed of or None; never for one that a signal stopped.

    Raises:
      Interrupted: by a second signal.
    """
    for index, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
        begins(index)
        failure = None
        try:
            if signal := running.train(assemble(config, workdir=workdir), workdir, checked=True, baselines=not index):
                return signal
        except Interrupted:
            raise
        except Exception as error:
            if (failure := mendable(error)) is None:
                raise
            failure = failure.with_traceback(None)  # which would keep the run's arrays
        gc.collect()  # before the next takes memory
        ends(index, failure)
    return ''


def _record(run: Planned, error: UserError | None) -> None:
    path = os.path.join(run.workdir, OUTCOME)
    os.makedirs(run.workdir, exist_ok=True)
    state = State(FINISHED) if error is None else State(DIVERGED if isinstance(error, NotFinite) else FAILED, str(error))
    with open(path + '.tmp', 'w', encoding='utf-8') as file:
        json.dump(dataclasses.asdict(state), file)
    os.replace(path + '.tmp', path)
