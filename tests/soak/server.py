"""Starts `python -m t5x_lite.train` by forking: JAX and what the command needs are imported once. No device is touched here.
(tests/commands/forked.py waits for what it starts; here it is killed.)

A request is a line of JSON, {"flags": [...], "environment": {...}, "output": FILE}; the answers are {"pid": N} at once, and {"pid": N, "status": S} when it
ends.
"""

from collections.abc import Mapping, Sequence
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import subprocess
import sys
from typing import Any

from t5x_lite.launching import local
from tests.commands import forked

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MODULE = 't5x_lite.train'
FLAGS = '--xla_backend_optimization_level=0'  # of XLA: what runs for milliseconds need not be optimised by LLVM


class Server:
    """The other end.

    Attributes:
      statuses: {process id: exit status} of those that have ended; that of a signal is negative.
    """

    def __init__(self):
        # What takes moments to compile is kept too.
        kept = {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
        environment = os.environ | kept | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': FLAGS, 'PYTHONUNBUFFERED': '1'}
        self._popen = subprocess.Popen(
            [sys.executable, '-m', 'tests.soak.server'], cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            start_new_session=True, preexec_fn=local._ends_with_parent,
        )  # fmt: skip
        self._rest = b''
        self._pids: list[int] = []
        self.statuses: dict[int, int] = {}

    def start(self, flags: Sequence[str], environment: Mapping[str, str], output: pathlib.Path) -> int:
        """The process id of a command that has been started."""
        self._popen.stdin.write(json.dumps({'flags': list(flags), 'environment': dict(environment), 'output': str(output)}).encode() + b'\n')
        known = len(self._pids)
        while len(self._pids) == known:
            self.look(60.0)
        return self._pids[-1]

    def look(self, seconds: float) -> None:
        """Waits at most so long for something to be said."""
        if not select.select([self._popen.stdout], [], [], seconds)[0]:
            return
        if not (said := os.read(self._popen.stdout.fileno(), 1 << 16)):
            raise RuntimeError(f'the process that forks has ended, with status {self._popen.wait()}')
        *lines, self._rest = (self._rest + said).split(b'\n')
        for answer in map(json.loads, lines):
            if 'status' in answer:
                self.statuses[answer['pid']] = answer['status']
            else:
                self.statuses.pop(answer['pid'], None)  # of an earlier one: numbers are used again
                self._pids.append(answer['pid'])

    def close(self) -> None:
        """Ends it and, with it, what it has started."""
        self._popen.kill()
        self._popen.wait()


def _serve() -> dict[str, Any]:
    """Forks for each request; returns the request in the fork."""
    for name in (*forked._IMPORTED, 't5x_lite.running', 't5x_lite.finding_rates', 'tests.soak.paced', 'tests.training.runs'):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each fork copies the whole heap when it ends
    asked = b''
    while True:
        if select.select([0], [], [], 0.005)[0]:
            if not (said := os.read(0, 1 << 16)):
                sys.exit()
            *lines, asked = (asked + said).split(b'\n')
            for request in map(json.loads, lines):
                if not (child := os.fork()):
                    return request
                _say({'pid': child})
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _say({'pid': ended[0], 'status': os.waitstatus_to_exitcode(ended[1])})
        except ChildProcessError:
            pass


def _say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b'\n')


def _become(request: dict[str, Any]) -> None:
    local._ends_with_parent()
    os.setsid()  # Ctrl-C is for the soak alone
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(request['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(request['environment'])
    sys.argv = [_MODULE, *request['flags']]
    runpy.run_module(_MODULE, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    _become(_serve())
