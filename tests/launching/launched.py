"""Runs of several real processes, started by launch/local.sh, and what is alike of two of them."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np

from t5x_lite.training.processes import GONE
from tests.launching.stand_ins import ROOT
from tests.training import runs

# Metrics are sums over rows, added up in another order where they lie on other devices: float32 has 1.2e-7 a rounding.
TOLERANCE = 2e-6


class Launched(runs.Run):
    """A run that launch/local.sh starts."""

    def __init__(self, folder: Path, corpus: str, name: str, **fields):
        settings = {'data.source': 'tests.launching.recorded:Recorded', 'data.stages': ((0, 16, 16, 3),), 'steps': 12}
        super().__init__(folder / name, runs.small_config(corpus, **settings | fields), folder / 'cache')
        self.asked_for = folder / f'{name}-asked'
        self.asked_for.mkdir(exist_ok=True)
        # Most of the time of a run is compiling, which LLVM need not optimise.
        self._environment |= {'PYTHON': sys.executable, 'RECORDED': str(self.asked_for), 'XLA_FLAGS': '--xla_backend_optimization_level=0'}

    def launch(self, processes: int, devices: int, *options: str) -> subprocess.Popen:
        flags = [f'--config={self.config_file}', f'--workdir={self.workdir}']
        command = ['bash', 'launch/local.sh', f'--processes={processes}', f'--devices={devices}', *options, '--', *flags]
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def go_on(self, processes: int, devices: int) -> 'Launched':
        """Launches it until it has ended well, as people and schedulers do after GONE (processes that are too late for each other on a busy machine)."""
        for _ in range(3):
            self.output = ''
            if (status := self.wait(self.launch(processes, devices), 600)) != GONE:
                break
        assert status == 0, self.output
        return self

    def alone(self, devices: int) -> 'Launched':
        self._environment['XLA_FLAGS'] += f' --xla_force_host_platform_device_count={devices}'
        self.finish()
        return self

    def rows(self, split: str, process: int | str, whole: int = 0) -> set[int]:
        """The examples that a process read; batches of `whole` rows left out, which are looked at before training (their shapes, the vocabulary)."""
        lines = map(json.loads, (self.asked_for / f'{split}-{process}.jsonl').read_text().splitlines())
        return {number for line in lines if len(line) != whole for number in line}

    def children(self, launcher: subprocess.Popen) -> list[int]:
        return list(map(int, Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()))

    def _ask_where(self, process: subprocess.Popen) -> None:
        children = self.children(process)
        for child in children:
            os.kill(child, signal.SIGUSR1)
        time.sleep(2)  # for the stacks to reach the logs
        self.output += ''.join(f'\nlog of process {index}:\n{self.log(index)}' for index in range(len(children)))

    def late(self, process: int, seconds: float) -> 'Launched':
        """Makes one process wait before each of its batches."""
        self._environment |= {'LATE_PROCESS': str(process), 'LATE_SECONDS': str(seconds)}
        return self

    def injected(self, folder: Path, **environment: str) -> 'Launched':
        """Runs FOLDER/sitecustomize.py in each process before anything else, with these variables in the environment."""
        self._environment |= {'PYTHONPATH': str(folder)} | environment
        return self

    def log(self, process: int) -> str:
        return (self.workdir / 'logs' / f'process-{process}.log').read_text(errors='replace')

    def logs_step(self, launcher: subprocess.Popen, step: int) -> None:
        """Waits for a line of this step."""
        end = time.monotonic() + 240
        while not self.logged(step):
            assert time.monotonic() < end and launcher.poll() is None, self.wait(launcher) or self.output
            time.sleep(0.01)

    def signal_when(self, launcher: subprocess.Popen, step: int, process: int, number: int) -> str:
        """Signals one process once a line of this step is there; what the launcher said."""
        self.logs_step(launcher, step)
        os.kill(self.children(launcher)[process], number)
        self.wait(launcher)
        return self.output


def assert_alike(run: runs.Run, reference: runs.Run) -> None:
    """The same lines, and numbers to rounding."""
    ours, theirs = run.lines(), reference.lines()
    assert [sorted(line) for line in ours] == [sorted(line) for line in theirs]
    for one, other in zip(ours, theirs):
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], rtol=TOLERANCE, atol=1e-7, err_msg=f'step {one["step"]}: {name}')
    ours, theirs = (each.contents(each.saved()[-1]) for each in (run, reference))
    for path, value in ours.items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-4, atol=2e-6, err_msg=path)
