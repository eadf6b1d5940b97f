"""Runs commands as a person does, `python -m t5x_lite.NAME FLAGS`, without paying for their imports each time.

A server process imports JAX and what the commands need, once, and touches no device. Each command is a fork of it: a process of its own, with
its own flags, devices, standard streams and exit status. A few tests start the interpreter itself (`start`), to see that nothing depends on the
server.
"""

import atexit
import dataclasses
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
_IMPORTED = (
    'ml_collections.config_flags', 'bert_flax.bert', 'bert_flax.hf', 'bert_flax.losses', 'bert_flax.objectives', 't5x_lite.assemble', 't5x_lite.cli',
    't5x_lite.data.preparation', 't5x_lite.data.tables', 't5x_lite.dry_run', 't5x_lite.evaluation.baselines', 't5x_lite.evaluation.evaluator',
    't5x_lite.evaluation.predictor', 't5x_lite.interop.conversion', 't5x_lite.tasks.classification', 't5x_lite.training.trainer',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a refused command says; fails where it said more, or nothing, or succeeded."""
        lines = self.err.splitlines()
        assert self.status not in (0, 1), (self.status, self.out, self.err)  # 1 is Python's own, after a traceback
        assert len(lines) == 1 and lines[0].startswith('error: '), self.err
        return lines[0]

    @property
    def success(self) -> str:
        """What it printed; fails where the command did, or complained."""
        assert self.status == 0 and not self.err, (self.status, self.out, self.err)
        return self.out


def run(command: str, *flags: str, stdin: bytes | None = b'', devices: int = 1, timeout: float = 300) -> Result:
    """A fork of the server; `stdin` None: closed."""
    streams = [pathlib.Path(_folder(), name) for name in ('in', 'out', 'err')]
    streams[0].write_bytes(stdin or b'')
    request = {
        'module': f't5x_lite.{command}', 'flags': flags, 'streams': list(map(str, streams)), 'close_stdin': stdin is None, 'devices': devices,
        'timeout': timeout,
    }  # fmt: skip
    server = _server()
    server.stdin.write(json.dumps(request) + '\n')
    server.stdin.flush()
    status = json.loads(server.stdout.readline())
    return Result(status, *(path.read_text(encoding='utf-8') for path in streams[1:]))


def start(command: str, *flags: str) -> Result:
    """The same in an interpreter of its own: seconds of imports."""
    environment = os.environ | {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-m', f't5x_lite.{command}', *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    return Result(done.returncode, done.stdout, done.stderr)


@functools.cache
def _folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix='commands-')
    atexit.register(folder.cleanup)
    return folder.name


@functools.cache
def _server() -> subprocess.Popen:
    # Each fork finds what others compiled.
    environment = os.environ | {
        'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': os.path.join(_folder(), 'compiled'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, '-m', 'tests.commands.forked'], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.stdin.close)
    return server


def _serve() -> dict:
    """Forks for each request; returns the request in the fork."""
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each fork copies the whole heap when it ends
    answers = os.fdopen(os.dup(1), 'w')
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            answers = None
            return request
        end = time.monotonic() + request['timeout']
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(child, 9)
            time.sleep(0.01)
        print(os.waitstatus_to_exitcode(done[1]), file=answers, flush=True)
    sys.exit()


def _become(request: dict) -> None:
    for number, path in enumerate(request['streams']):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY, 0o644), number)
    if request['close_stdin']:
        os.close(0)
    os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={request["devices"]} --xla_backend_optimization_level=0'
    sys.stdin = None if request['close_stdin'] else open(0, encoding='utf-8')
    sys.argv = [request['module'], *request['flags']]
    runpy.run_module(request['module'], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    _become(_serve())
