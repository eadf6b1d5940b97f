"""One cycle of a soak: a run is started, and one of its processes is ended at a moment that a seed chooses."""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import time

from t5x_lite.launching import local
from tests.soak.server import FLAGS, Server
from tests.training import runs

SAVE_EVERY = 4  # steps
_POLL_SECONDS = 0.002
_GRACE_SECONDS = 5.0  # that the others have when one was killed; then they are killed too, as launch/local.sh does
_SAVE_SECONDS = 300.0  # that all have when one was asked to end

# Where in a launch: before it has opened its data, while it restores, while it compiles, after a step, inside a save, as a save ends.
PHASES = ('start', 'restore', 'compile')
PLACES = {'start': 1, 'restore': 2, 'compile': 2, 'step': 5, 'save': 4, 'saved': 2}  # and how often
_SIGTERM_SHARE = 0.15
_COLD_SHARE = 0.5  # of the kills while compiling: with nothing compiled before


@dataclasses.dataclass(frozen=True)
class Plan:
    """A cycle. fraction: where in the phase, or in the steps that are due, from 0 to 1; process: which of them is signalled."""

    place: str
    fraction: float
    process: int
    signal: signal.Signals
    cold: bool

    def __str__(self) -> str:
        words = {'start': 'while starting', 'restore': 'while restoring', 'compile': 'while compiling', 'step': 'after a step', 'save': 'inside a save'}
        where = words[self.place] if self.place in words else 'as a save ended'
        return f'{self.signal.name} to process {self.process} {where}' + (', nothing compiled before' if self.cold else '')


def planned(seed: int, cycle: int, processes: int) -> Plan:
    """The plan of a cycle is a function of these alone, so that a soak that was stopped goes on as it would have."""
    rng = random.Random(f'{seed}/{cycle}')
    place = rng.choices(list(PLACES), list(PLACES.values()))[0]
    number = signal.SIGTERM if rng.random() < _SIGTERM_SHARE else signal.SIGKILL
    return Plan(place, rng.random(), rng.randrange(processes), number, place == 'compile' and rng.random() < _COLD_SHARE)


def environments(processes: int) -> list[dict[str, str]]:
    """Of processes with a device each."""
    if processes == 1:
        return [{}]
    port = local.free_port()
    return [each | {'XLA_FLAGS': f'{FLAGS} {each["XLA_FLAGS"]}'} for each in (local.of_process(index, processes, 1, port) for index in range(processes))]


class Launch:
    """The processes of one launch, and how far they are by what they write."""

    def __init__(self, server: Server, run: runs.Run, flags: Sequence[str], processes: int, logs: Sequence[pathlib.Path]):
        self._server, self._run, self.logs = server, run, logs
        self.newest, self._before = max(run.saved(), default=0), _inode(run.workdir / 'metrics.jsonl')
        for log in logs:
            log.write_text('')  # of a cycle that is repeated
        self.began = time.monotonic()
        self.entered = {'start': self.began}  # when it was first seen in a phase
        self.pids = [server.start([*flags, f'--workdir={run.workdir}'], each, log) for each, log in zip(environments(processes), logs)]

    def look(self) -> str:
        """The phase, or 'steps'."""
        self._server.look(_POLL_SECONDS)
        said = self.logs[0].read_text(errors='replace')
        phase = 'steps' if 'compiled the step' in said else 'compile' if 'resumed ' in said else 'restore' if '\nvalidation: ' in said else 'start'
        self.entered.setdefault(phase, time.monotonic())
        return phase

    @property
    def training(self) -> bool:
        """Whether it has cut its log to what is saved, and tidied up what the launch before left half done."""
        return _inode(self._run.workdir / 'metrics.jsonl') != self._before

    def step(self) -> int:
        """That of the last line that this launch has logged; 0 before."""
        return _last_step(self._run.workdir / 'metrics.jsonl') if self.training else 0

    @property
    def statuses(self) -> list[int | None]:
        return [self._server.statuses[pid] if pid in self._server.statuses else None for pid in self.pids]

    @property
    def running(self) -> bool:
        return None in self.statuses

    def signal(self, process: int, number: signal.Signals) -> None:
        if self.statuses[process] is None:
            _send(self.pids[process], number)

    def end(self, asked: bool) -> None:
        """Waits until all have ended, one of them having been asked to, or killed."""
        until = time.monotonic() + (_SAVE_SECONDS if asked else _GRACE_SECONDS)
        while self.running and time.monotonic() < until:
            self._server.look(_POLL_SECONDS)
            if asked and any(self.statuses):  # it was too early for it to be asked: it died of the signal
                until, asked = time.monotonic() + _GRACE_SECONDS, False
        for pid, status in zip(self.pids, self.statuses):
            if status is None:
                _send(pid, signal.SIGKILL)
        while self.running:
            self._server.look(_POLL_SECONDS)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def _inode(path: pathlib.Path) -> int:
    """Of a file that is replaced when it is begun anew; 0 where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _last_step(path: pathlib.Path) -> int:
    """Of the last whole line of metrics.jsonl; 0 where there is none."""
    try:
        with open(path, 'rb') as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 8192, 0))
            lines = file.read().split(b'\n')[:-1]
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])['step'] if lines else 0


def cut(
    server: Server, run: runs.Run, flags: Sequence[str], processes: int, logs: Sequence[pathlib.Path], plan: Plan, limit: int, seconds: dict[str, float]
) -> Launch:  # fmt: skip
    """Starts the run and ends it as planned; where that place does not come, after the step `limit`.

    Args:
      limit: steps that the run may be at when the cycle ends, for it must not finish before the soak does.
      seconds: that each of PHASES took the last time; changed.
    """
    launch = Launch(server, run, flags, processes, logs)
    due = launch.newest + 1 + int(plan.fraction * max(limit - launch.newest - 1, 0))
    while launch.running:
        phase, step, now = launch.look(), launch.step(), time.monotonic()
        if plan.place in PHASES:
            # When it is over, it was shorter than it used to be.
            order = [*PHASES, 'steps']
            over = order.index(phase) > order.index(plan.place)
            hit = over or plan.place in launch.entered and now - launch.entered[plan.place] >= plan.fraction * seconds[plan.place]
        elif plan.place == 'step':
            hit = step >= due
        elif plan.place == 'save':
            hit = launch.training and any(run.saving(number) for number in range(due, limit + SAVE_EVERY))
        else:
            hit = launch.training and any(number >= due for number in run.saved())
        if hit or step >= limit:
            launch.signal(plan.process, plan.signal)
            break
    launch.end(asked=plan.signal == signal.SIGTERM)
    entered = [(phase, launch.entered[phase]) for phase in [*PHASES, 'steps'] if phase in launch.entered]
    if not plan.cold:
        seconds |= {phase: end - began for (phase, began), (_, end) in zip(entered, entered[1:])}
    return launch
