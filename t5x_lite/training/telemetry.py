"""What a run says of itself: metrics.jsonl, TensorBoard events, lines on the terminal."""

from collections.abc import Iterator
import contextlib
import json
import math
import os
import sys
import time
from typing import Any

import jax

from t5x_lite import mirrors
from t5x_lite.config import LogConfig
from t5x_lite.training import goodput, processes

# Keys of metrics.jsonl that measure the machine; everything else repeats exactly when a run is repeated or resumed.
TIMING = ('tokens_per_second', 'seconds_per_step', 'mfu', 'compile_seconds', 'eval_seconds', *goodput.METRICS)

# Dense bf16 FLOP/s of one device, from the vendors' data sheets; MFU is reported against these.
PEAK_FLOPS = {
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5p': 459e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
    'NVIDIA A100': 312e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H200': 989e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """bf16 FLOP/s of a device, or None where it is not known (a CPU)."""
    kinds = sorted((kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)), key=len)
    return PEAK_FLOPS[kinds[-1]] if kinds else None


def as_json(value: Any) -> Any:
    """The same with null for numbers that are not finite (a correlation of constants), which JSON has no word for."""
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsLog:
    """Appends to workdir/metrics.jsonl, one object a line with its `step`, and to TensorBoard events.

    On resuming, lines of steps after the checkpoint are cut off, for they will be written again: none is lost, none doubled. Of several processes, who all know
    the same numbers, the first writes.
    """

    def __init__(self, workdir: str, config: LogConfig, resume_step: int):
        self._file = self._board = None
        if not processes.is_first():
            return
        path = os.path.join(workdir, 'metrics.jsonl')
        kept = []
        if os.path.exists(path):
            with open(path, encoding='utf-8', errors='replace') as file:
                for line in file:
                    try:
                        step = json.loads(line)['step']
                    except (json.JSONDecodeError, KeyError, TypeError):
                        break  # the line that a kill cut short
                    if step <= resume_step:
                        kept.append(line.rstrip('\n') + '\n')
        temporary = path + '.tmp'
        with open(temporary, 'w', encoding='utf-8') as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._file = open(path, 'a', encoding='utf-8', buffering=1)  # a line is there to be read when it is written
        self._board = _Board(os.path.join(workdir, 'tensorboard'), resume_step) if config.tensorboard else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(as_json({'step': step} | values), allow_nan=False) + '\n')
        if self._board is not None:
            self._board.write(step, {name: value for name, value in values.items() if isinstance(value, (int, float))})

    def flush(self) -> None:
        """On disk when it returns: before a checkpoint, so that a resumed run finds every line up to it."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Never raises: a line that could not be written has made `write` or `flush` raise."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Imports go as if a module that nobody has imported yet were not installed."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


class _Board:
    """TensorBoard events, written by the caller: tensorboardX's own thread dies of a full disk, and the run then waits for it for ever."""

    _FLUSH_SECONDS = 10.0

    def __init__(self, folder: str, resume_step: int):
        with _without('torch'):  # which tensorboardX imports where it is installed, and that takes seconds
            from tensorboardX import event_file_writer
            from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary, self._flushed = event_pb2.Event, summary_pb2.Summary, time.monotonic()
        os.makedirs(folder, exist_ok=True)
        self._file = event_file_writer.EventsWriter(os.path.join(folder, 'events'), f'.{os.getpid()}.{resume_step}')
        if resume_step:  # hides what was written after the checkpoint
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._file.write_event(self._event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        if time.monotonic() - self._flushed > self._FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


class Window:
    """Sums over the steps since the last line of metrics.jsonl; saved with a checkpoint, so that a resumed run writes the same means."""

    def __init__(self, saved: dict[str, Any] | None = None):
        self.sums: dict[str, list[float]] = {name: list(pair) for name, pair in (saved or {}).items()}

    def add(self, name: str, total: float, weight: float = 1.0) -> None:
        pair = self.sums.setdefault(name, [0.0, 0.0])
        pair[0] += total
        pair[1] += weight

    def means(self) -> dict[str, float]:
        return {name: total / weight if weight else 0.0 for name, (total, weight) in self.sums.items()}


class Clock:
    """Time, steps and tokens since the last line of metrics.jsonl, in this process: a window that a checkpoint restored began in another."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._began, self.aside_seconds, self.steps, self.tokens = time.perf_counter(), 0.0, 0, 0.0

    def seconds(self, compile_seconds: float) -> float:
        """Of training: what was spent aside (evaluating, saving) and on compiling left out."""
        return max(time.perf_counter() - self._began - self.aside_seconds - compile_seconds, 1e-9)


class Profile:
    """The trace of config.log.profile_steps, (first, last) or () for none; a run that resumes inside them traces the rest."""

    def __init__(self, steps: tuple[int, ...], workdir: str, resume_step: int):
        self._folder, self._running = os.path.join(workdir, 'profile'), False
        self._first, self._last = (max(steps[0], resume_step + 1), steps[1]) if steps else (0, 0)
        if steps and self._last <= resume_step:
            print(f'no profile: config.log.profile_steps={steps} lie before step {resume_step:,}, from which this run goes on')

    def begins_with(self, step: int) -> bool:
        return step == self._first

    def ends_with(self, step: int) -> bool:
        return self._running and step == self._last

    def start(self) -> None:
        jax.profiler.start_trace(self._folder)
        self._running = True

    def stop(self, step: int) -> None:
        """Ends a trace that is running, after `step`."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            print(mirrors.named(f'profile of steps {self._first} to {step} in {self._folder}'))


def duration(seconds: float) -> str:
    """'1:02:03' or '4:05'."""
    hours, rest = divmod(int(seconds), 3600)
    return f'{hours}:{rest // 60:02}:{rest % 60:02}' if hours else f'{rest // 60}:{rest % 60:02}'


class Console:
    """A line every few seconds of training: after a pause the steps of too short a time would say nothing of the rate."""

    def __init__(self, steps: int, config: LogConfig):
        self._steps, self._every_seconds = steps, config.console_seconds
        self._began = self._last = time.perf_counter()
        self._first_step: int | None = None
        self._tokens, self._last_step = 0.0, 0
        self._paused_seconds = 0.0
        self._before = 0.0, 0.0, 0  # seconds, tokens and steps of the line before

    def pause(self, seconds: float) -> None:
        """Leaves time spent on compiling, evaluating or saving out of rates."""
        self._paused_seconds += seconds

    def step(self, step: int, tokens_of_step: float, values: dict[str, float], flops_per_second_peak: float | None, step_flops: float) -> None:
        now = time.perf_counter()
        if self._first_step is None:
            self._first_step, self._began, self._last, self._last_step, self._paused_seconds = step, now, now, step, 0.0
            self._tokens = 0.0
            return
        self._tokens += tokens_of_step
        busy = max(now - self._last - self._paused_seconds, 1e-9)
        if busy < self._every_seconds and step < self._steps:
            return
        steps, tokens = step - self._last_step, self._tokens
        if busy < 0.1 * self._every_seconds:  # at the end of a run: too short a time to tell a rate by
            busy, tokens, steps = (now + before for now, before in zip((busy, tokens, steps), self._before))
        self._before = busy, tokens, steps
        per_step = busy / max(steps, 1)
        rate = f'{tokens / busy:,.0f} tokens/s'
        if flops_per_second_peak:
            rate += f', MFU {step_flops / per_step / flops_per_second_peak:.1%}'
        shown = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
        print(f'step {step:,}/{self._steps:,}  {shown}  {rate}  {duration((self._steps - step) * per_step)} left', flush=True)
        self._last, self._last_step, self._tokens, self._paused_seconds = now, step, 0.0, 0.0
