"""Several processes on this machine train one run together: a rehearsal of many hosts, or all GPUs of one host with a process each.

  ./launch/local.sh --processes=4 --devices=2 -- --config=configs/bert.py:tiny --config.data.path=data/mine --workdir=runs/tiny

Each process has --devices CPU devices (collectives by gloo) and loads only its share of each batch. The terminal shows what process 0 says; the log of each is
WORKDIR/logs/process-N.log. When one ends with an error the others are ended too. Ctrl-C, or SIGTERM to this command or to one process, saves and stops all at
the same step; the same command goes on from there, with any number of processes.
"""

from collections.abc import Sequence
import ctypes
import dataclasses
import datetime
import os
import signal
import socket
import subprocess
import sys
import time

from t5x_lite.launching import command_lines

_LINES = 15  # of the log of a process that failed
_POLL_SECONDS = 0.05


@dataclasses.dataclass
class _Started:
    index: int
    popen: subprocess.Popen
    log: str


def main(argv: Sequence[str]) -> int:
    options = command_lines.parser(__doc__)
    options.add_argument('--processes', type=command_lines.at_least(1), default=2, help='processes (2)')
    options.add_argument('--devices', type=command_lines.at_least(1), default=1, help='CPU devices of each (1); with --gpus: not used')
    options.add_argument('--gpus', action='store_true', help='process N has GPU N of this machine, instead of CPU devices')
    options.add_argument('--logs', default='', help='folder of the logs (WORKDIR/logs)')
    options.add_argument('--grace', type=command_lines.seconds, default=10.0, help='seconds that processes have to end after one has failed (10); then SIGKILL')
    given, flags = command_lines.parsed(options, argv)
    flags = command_lines.checked_flags(flags)
    port = 0 if given.dry_run else free_port()
    environments = [of_process(index, given.processes, given.devices, port or 'PORT', given.gpus) for index in range(given.processes)]
    command = command_lines.train_line(flags, sys.executable)
    folder = given.logs or command_lines.logs(flags)
    logs = [os.path.join(folder, f'process-{index}.log') for index in range(given.processes)]
    if given.dry_run:
        for environment, log in zip(environments, logs):
            print(f'{command_lines.shown(command, environment)} >>{log} 2>&1 &')
        return 0
    os.makedirs(folder, exist_ok=True)
    return _run(command, environments, logs, given.grace)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        return listening.getsockname()[1]


def of_process(index: int, processes: int, devices: int, port: int | str, gpus: bool = False) -> dict[str, str]:
    """What tells a process of its place, added to the environment (t5x_lite/training/processes.py reads it)."""
    place = {
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}', 'JAX_COORDINATOR_BIND_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': str(processes), 'JAX_PROCESS_ID': str(index),
    }  # fmt: skip
    if gpus:
        return place | {'JAX_LOCAL_DEVICE_IDS': str(index)}
    given = [flag for flag in os.environ.get('XLA_FLAGS', '').split() if 'xla_force_host_platform_device_count' not in flag]
    return place | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join([*given, f'--xla_force_host_platform_device_count={devices}'])}


def _ends_with_parent() -> None:
    """In a child on Linux: SIGKILL when this launcher is killed, so that nothing is left that nobody watches."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


def _run(command: list[str], environments: list[dict[str, str]], logs: list[str], grace: float) -> int:
    asked: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: asked.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    started: list[_Started] = []
    try:
        began = f'=== {datetime.datetime.now():%Y-%m-%d %H:%M:%S} {command_lines.shown(command)}\n'
        places = []
        for index, (environment, log) in enumerate(zip(environments, logs)):
            with open(log, 'ab') as file:
                file.write(began.encode())
                file.flush()
                places.append(file.tell())
                # A session of its own: Ctrl-C on the terminal reaches this launcher alone, which asks them to save.
                popen = subprocess.Popen(
                    command, env=os.environ | environment | {'PYTHONUNBUFFERED': '1'}, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                    start_new_session=True, preexec_fn=_ends_with_parent,
                )  # fmt: skip
            started.append(_Started(index, popen, log))
        with open(logs[0], 'rb') as following:
            following.seek(places[0])
            return _watch(started, following, asked, grace)
    finally:
        for each in started:
            if each.popen.poll() is None:
                each.popen.kill()
        for number, before in handlers.items():
            signal.signal(number, before)


def _watch(started: list[_Started], following, asked: list[int], grace: float) -> int:
    """Shows what process 0 says until all have ended. Returns the exit status: 0, or that of the first that failed."""
    failed: list[_Started] = []  # in the order in which they ended, those that were killed here left out
    kill_at, forwarded = float('inf'), 0

    def show() -> None:
        sys.stdout.write(following.read().decode(errors='replace'))
        sys.stdout.flush()

    while any(each.popen.poll() is None for each in started):
        show()
        if len(asked) > forwarded:
            forwarded += 1
            for each in started:
                if each.popen.poll() is None:
                    each.popen.send_signal(signal.SIGTERM if forwarded == 1 else signal.SIGKILL)
            print(f'launch: {signal.Signals(asked[-1]).name}: ' + ('saving and stopping all processes' if forwarded == 1 else 'killing them'), file=sys.stderr)
        if time.monotonic() < kill_at:
            failed += [each for each in started if each.popen.poll() and each not in failed]
            if failed and kill_at == float('inf'):
                kill_at = time.monotonic() + grace
        else:
            for each in started:
                if each.popen.poll() is None:
                    each.popen.kill()
        time.sleep(_POLL_SECONDS)
    show()
    failed = failed or [each for each in started if each.popen.returncode]
    if not failed:
        return 0
    # What a process that has lost another does of itself is no cause.
    causes = [each for each in failed if each.popen.returncode not in (command_lines.GONE, -signal.SIGABRT)]
    return _said((causes or failed)[0], len(started))


def _said(failed: _Started, count: int) -> int:
    """Names the process that failed, shows the end of its log; its exit status, as a shell counts it."""
    status = failed.popen.returncode
    how = f'was ended by {signal.Signals(-status).name}' if status < 0 else f'ended with status {status}'
    if failed.index:
        with open(failed.log, 'rb') as file:
            lines = file.read().decode(errors='replace').splitlines()[-_LINES:]
        start = max((number for number, line in enumerate(lines) if line.startswith('=== ')), default=-1) + 1
        print('\n'.join(f'process {failed.index}: {line}' for line in lines[start:]), file=sys.stderr)
    others = '; the others were ended' if count > 1 else ''
    mend = '' if status == command_lines.MISTAKE else '. Repeat the command to go on from the newest checkpoint'
    print(f'error: process {failed.index} of {count} {how} (log: {failed.log}){others}{mend}', file=sys.stderr)
    return 128 - status if status < 0 else status


if __name__ == '__main__':
    command_lines.main(main)
