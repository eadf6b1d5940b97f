"""Goodput: how much of a run's time has trained it, and where the rest went.

    workdir/goodput.jsonl    what each launch has done so far: a line every ten seconds of training, before each save and at an orderly end

The time is that of the workdir's whole history, from the start of the first process that trained in it until now, whatever was killed in between. Each
second of it is of one kind:

    step       steps that the parameters still have in them: the goodput, as a share of all
    start_up   from the start of a process to its first step: imports, finding other processes, opening data, making parameters; restoring apart
    restore    reading a checkpoint
    compile    compiling the step
    data_wait  the devices had nothing to do, and the host waited for a batch
    evaluate   held-out data
    save       the loop waited for a checkpoint; what is written while steps go on costs nothing
    repeated   steps that came after the checkpoint which a later launch went on from, and were taken again
    lost       from the last sign of a launch that was killed, or failed, to the start of the next: its last, unwritten seconds and those in which nothing ran
    stopped    from the orderly end of a launch (asked to end, and saved) to the start of the next

Terms: goodput and badput of https://github.com/AI-Hypercomputer/ml-goodput-measurement, where `repeated` is wasted progress and `lost` is infrastructure
recovery. Of several processes the first counts, for all wait for the slowest; another host that waits for data shows as longer steps.

Within a process time is monotonic. Clocks of the wall are compared between processes alone, and a gap that skewed ones make negative counts as none: shares are
never below 0, and their sum is 1. (numpy only)
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import time
from typing import Any

import numpy as np

from t5x_lite.training import idling

FILE = 'goodput.jsonl'
KINDS = {
    'step': 'steps', 'start_up': 'start-up', 'restore': 'restore', 'compile': 'compile', 'data_wait': 'data wait', 'evaluate': 'evaluation', 'save': 'save',
    'repeated': 'steps repeated after a kill', 'lost': 'lost between a kill and the next launch', 'stopped': 'stopped between launches',
}  # fmt: skip
_EVERY_SECONDS = 10.0
_MOST_AGE_SECONDS = 86400.0  # of a process that begins to train; more is a clock that we misread
_IMPORTED = time.monotonic()


def metric(kind: str) -> str:
    """Its name in metrics.jsonl and TensorBoard; a share of all time."""
    return 'goodput' if kind == 'step' else f'badput/{kind}'


METRICS = tuple(map(metric, KINDS))


@dataclasses.dataclass(frozen=True)
class Clocks:
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


def process_began() -> float:
    """When this process started, by time.monotonic(). Where the system does not say (it is not Linux), when this module was imported."""
    try:
        with open('/proc/self/stat', 'rb') as file:
            ticks = int(file.read().rpartition(b')')[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED
    return time.monotonic() - age if 0 <= age < _MOST_AGE_SECONDS else _IMPORTED


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of a workdir's history. seconds: of each of KINDS."""

    seconds: dict[str, float]
    launches: int

    @property
    def wall_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """Of each of KINDS, from 0 to 1; their sum is 1."""
        wall = self.wall_seconds or 1.0
        return {kind: seconds / wall for kind, seconds in self.seconds.items()}

    @property
    def goodput(self) -> float:
        return self.shares['step']

    def __str__(self) -> str:
        """'goodput 91.2% of 1:02:03 in 2 launches; compile 3.0%, save 1.1%'."""
        minutes, seconds = divmod(int(self.wall_seconds), 60)
        wall = f'{minutes // 60}:{minutes % 60:02}:{seconds:02}' if minutes >= 60 else f'{minutes}:{seconds:02}'
        rest = sorted(((share, kind) for kind, share in self.shares.items() if kind != 'step' and share >= 0.0005), reverse=True)
        lost = ', '.join(f'{KINDS[kind]} {share:.1%}' for share, kind in rest)
        return f'goodput {self.goodput:.1%} of {wall} in {self.launches} launch{"es" if self.launches != 1 else ""}' + (f'; {lost}' if lost else '')


@dataclasses.dataclass
class _Launch:
    """What a launch wrote. A mark is (step, seconds of steps until then)."""

    from_step: int
    began: float  # by the clock of the wall
    marks: list[tuple[int, float]]
    last: dict[str, Any]

    @property
    def ended(self) -> bool:
        return bool(self.last['ended'])

    def until(self, step: float) -> float:
        """Seconds of the steps up to this one."""
        steps, seconds = zip(*self.marks)
        return float(np.interp(step, steps, seconds))


def _launches(path: str) -> list[_Launch]:
    found: list[_Launch] = []
    if not os.path.exists(path):
        return found
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            try:
                record = json.loads(line)
                steps = max(record['up'] - sum(record['seconds'].values()), 0.0)
                if 'from_step' in record:
                    found.append(_Launch(record['from_step'], record['time'] - record['up'], [(record['step'], steps)], record))
                elif found:
                    found[-1].marks.append((record['step'], steps))
                    found[-1].last = record
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a kill cut the line short
    return found


def _folded(launches: list[_Launch], from_step: float = float('inf'), began: float | None = None) -> dict[str, float]:
    """Seconds of each of KINDS, of launches in their order.

    Args:
      from_step: that the launch after them goes on from.
      began: when it began, by the clock of the wall.
    """
    seconds, kept = dict.fromkeys(KINDS, 0.0), from_step
    for launch in reversed(launches):
        whole, useful = launch.until(float('inf')), launch.until(kept)
        seconds['step'] += useful
        seconds['repeated'] += whole - useful
        for kind, spent in launch.last['seconds'].items():
            if kind in seconds:
                seconds[kind] += spent
        kept = min(kept, launch.from_step)
    starts = [launch.began for launch in launches[1:]] + ([] if began is None else [began])
    for before, start in zip(launches, starts):
        seconds['stopped' if before.ended else 'lost'] += max(start - before.last['time'], 0.0)
    return seconds


def read(workdir: str) -> Summary | None:
    """Of the launches of a workdir; None where none has trained there, or all were before there was a goodput.jsonl."""
    launches = _launches(os.path.join(workdir, FILE))
    return Summary(_folded(launches), len(launches)) if launches else None


class Goodput:
    """Counts the time of one launch, and adds it to the history of its workdir. What no kind was named for is `start_up` before `begin`, and steps after it.

    Args:
      writes: False: another process counts. Nothing is measured here then.
      began: when the launch began, by clocks.monotonic.
    """

    def __init__(self, workdir: str, writes: bool, began: float, clocks: Clocks = Clocks()):
        self._path, self._writes, self._began, self._clocks = os.path.join(workdir, FILE), writes, began, clocks
        self._seconds: dict[str, float] = {}
        self._before, self._launches = dict.fromkeys(KINDS, 0.0), 0
        self._file: Any = None
        self._marked = began
        self._devices = idling.Devices(clocks.monotonic) if writes else None

    def begin(self, step: int) -> None:
        """The launch is about to go on from here. Until now nothing is written: one that finds nothing to do leaves no trace."""
        if not self._writes:
            return
        now, wall = self._clocks.monotonic(), self._clocks.wall()
        up = now - self._began
        if not step:
            self._seconds.pop('restore', None)  # there was nothing to restore: parameters were made
        self._seconds['start_up'] = max(up - sum(self._seconds.values()), 0.0)
        launches = _launches(self._path)
        self._before, self._launches = _folded(launches, step, wall - up), len(launches) + 1
        torn = launches and not _ends_with_line(self._path)
        self._file = open(self._path, 'a', encoding='utf-8', buffering=1)
        if torn:
            self._file.write('\n')
        self._write({'from_step': step} | self._record(step))

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        began = self._clocks.monotonic()
        yield
        self.add(kind, self._clocks.monotonic() - began)

    def add(self, kind: str, seconds: float) -> None:
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def waits(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; what the devices stood idle for them is counted."""
        if not self._writes:
            yield from batches
            return
        nothing = object()
        with contextlib.closing(batches):
            while True:
                began = self._clocks.monotonic()
                batch = next(batches, nothing)
                idle_since = self._devices.idle_since
                if idle_since is not None:
                    self.add('data_wait', max(self._clocks.monotonic() - max(began, idle_since), 0.0))
                if batch is nothing:
                    return
                yield batch

    def under_way(self, wait: Callable[[], Any]) -> None:
        """The devices have a step to take. `wait` returns when they have taken it; another thread calls it."""
        if self._devices is not None:
            self._devices.given(wait)

    def mark(self, step: int, *, now: bool = False) -> None:
        """Writes how far the launch is, if `now` or after ten seconds."""
        if self._file is not None and (now or self._clocks.monotonic() - self._marked >= _EVERY_SECONDS):
            self._write(self._record(step))

    def end(self, step: int) -> str:
        """The launch has saved, and ends: the last line. Returns what a person should see of all of them, '' where another process counts."""
        if self._file is None:
            return ''
        self._write(self._record(step) | {'ended': True})
        return str(self.summary())

    def summary(self) -> Summary:
        """Until now, the launches before this one included."""
        now = self._seconds | {'step': self._steps(self._clocks.monotonic() - self._began)}
        return Summary({kind: seconds + (now[kind] if kind in now else 0.0) for kind, seconds in self._before.items()}, self._launches)

    def metrics(self) -> dict[str, float]:
        """{'goodput': 0.93, 'badput/compile': 0.02, ...}, kinds that there were none of left out; {} where another process counts."""
        if self._file is None:
            return {}
        return {metric(kind): share for kind, share in self.summary().shares.items() if share or kind == 'step'}

    def close(self) -> None:
        """Never raises: a line that could not be written has made `mark` raise."""
        if self._devices is not None:
            self._devices.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _steps(self, up: float) -> float:
        return max(up - sum(self._seconds.values()), 0.0)

    def _record(self, step: int) -> dict[str, Any]:
        up = self._clocks.monotonic() - self._began
        seconds = {kind: round(spent, 3) for kind, spent in self._seconds.items()}
        return {'step': step, 'time': round(self._clocks.wall(), 3), 'up': round(up, 3), 'seconds': seconds, 'ended': False}

    def _write(self, record: dict[str, Any]) -> None:
        self._marked = self._clocks.monotonic()
        self._file.write(json.dumps(record) + '\n')


def _ends_with_line(path: str) -> bool:
    with open(path, 'rb') as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b'\n'
