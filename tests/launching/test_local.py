"""launch/local.sh: several real processes are one run; what the launcher does when one of them dies."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from t5x_lite.errors import UserError
from t5x_lite.launching import command_lines
from t5x_lite.training import processes
from tests.launching.launched import Launched, assert_alike
from tests.launching.stand_ins import ROOT, Tools, one_error
from tests.training import runs

# The launcher alone, with processes that need no JAX.


def _launcher(logs, environments, code: str, grace: float) -> list[str]:
    """Of processes that run `code`. In an interpreter of its own, as always: a process with JAX's threads must not fork."""
    arguments = f'[sys.executable, "-S", "-c", {code!r}], {environments!r}, {list(map(str, logs))!r}, {grace}'
    return [sys.executable, '-S', '-c', f'import sys; from t5x_lite.launching import local; sys.exit(local._run({arguments}))']


def _launched(tmp_path, code: str, processes: int = 3, grace: float = 1.0):
    """(what ended, seconds) of processes that run `code` with their number in `n`."""
    logs = [tmp_path / f'process-{index}.log' for index in range(processes)]
    environments = [{'N': str(index)} for index in range(processes)]
    began, code = time.monotonic(), f'import os, signal, sys, time; n = int(os.environ["N"]); {code}'
    done = subprocess.run(_launcher(logs, environments, code, grace), cwd=ROOT, capture_output=True, text=True)
    return done, time.monotonic() - began


def test_all_end_well(tmp_path):
    done, _ = _launched(tmp_path, 'print("I am", n)')
    assert done.returncode == 0 and done.stdout == 'I am 0\n' and not done.stderr
    assert (tmp_path / 'process-2.log').read_text().endswith('I am 2\n')


@pytest.mark.parametrize('death, status, words', [('sys.exit(3)', 3, 'ended with status 3'), ('os.kill(os.getpid(), 9)', 137, 'was ended by SIGKILL')])
def test_one_that_dies_ends_the_others_in_bounded_time_and_is_named(tmp_path, death, status, words):
    done, seconds = _launched(tmp_path, f'print("last words", flush=True)\nif n == 2: {death}\ntime.sleep(600)')
    assert done.returncode == status and seconds < 300
    assert f'error: process 2 of 3 {words} (log: {tmp_path}/process-2.log); the others were ended' in done.stderr
    assert 'process 2: last words' in done.stderr


def test_what_follows_from_a_death_is_not_its_cause(tmp_path):
    # Process 0 notices first that 1 is hung up on, and says so as train does; only then does 1 end.
    done, _ = _launched(tmp_path, 'time.sleep(0.5 * n)\nif n == 1: os.kill(os.getpid(), 9)\nif n == 0: sys.exit(75)\ntime.sleep(60)', grace=5)
    assert done.returncode == 137 and 'process 1 of 3 was ended by SIGKILL' in done.stderr


def test_a_mistake_is_not_to_be_repeated(tmp_path):
    done, _ = _launched(tmp_path, 'sys.exit(2)')
    assert done.returncode == 2 and 'Repeat' not in done.stderr


def test_sigterm_reaches_all(tmp_path):
    logs = [tmp_path / f'process-{index}.log' for index in range(3)]
    child = 'import signal, sys, time; signal.signal(15, lambda *a: sys.exit(0)); print(1, flush=True); time.sleep(60)'
    process = subprocess.Popen(_launcher(logs, [{}] * 3, child, 1.0), cwd=ROOT)
    end = time.monotonic() + 60
    while not all(log.exists() and log.read_text().endswith('1\n') for log in logs):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_dry_run_prints_a_command_a_process_and_runs_nothing(tmp_path):
    tools = Tools(tmp_path / 'tools', ())
    done = tools.run('local.sh', '--processes=3', '--devices=2', '--dry_run', '--', '--config=c.py', '--workdir=a b', cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 3 and not (tmp_path / 'a b').exists()
    for index, line in enumerate(lines):
        assert f'JAX_NUM_PROCESSES=3 JAX_PROCESS_ID={index} ' in line and '--xla_force_host_platform_device_count=2' in line
        assert "-m t5x_lite.train --config=c.py '--workdir=a b'" in line and line.endswith(f'a b/logs/process-{index}.log 2>&1 &')


def test_bad_options_are_one_line(tmp_path):
    tools = Tools(tmp_path / 'tools', ())
    for options, words in (
        (('--processes=0', '--', '--workdir=w'), "--processes: '0' is no whole number of at least 1"),
        (('--devices=two', '--', '--workdir=w'), "--devices: 'two' is no whole number"),
        (('--process=2', '--', '--workdir=w'), "did you mean '--processes'?"),
        (('2', '--', '--workdir=w'), "'2': every option is written --name=value"),
        (('--', '--config=c.py'), '--workdir is missing among the flags of train'),
        (('--', '--workdir=gs://bucket/run'), '--workdir=gs://bucket/run: logs are written to a folder of a file system; name one before the --: --logs=DIR'),
        (('--', '--workdir=s3://bucket/run'), '--workdir=s3://bucket/run: a folder of a file system, or gs://BUCKET/FOLDER, is needed; mount it on the machines'),
        (('--grace=never', '--', '--workdir=w'), "--grace: 'never' is no number of seconds"),
    ):
        assert words in one_error(tools.run('local.sh', *options, cwd=tmp_path))


def test_launchers_need_python_alone():
    names = [path.stem for path in (ROOT / 't5x_lite' / 'launching').glob('*.py') if path.stem != '__init__']
    assert {'local', 'tpu_vm', 'slurm', 'jobset'} <= set(names)
    code = '; '.join(f'import t5x_lite.launching.{name}' for name in names)
    done = subprocess.run([sys.executable, '-S', '-c', code], cwd=ROOT, env={'PATH': os.environ['PATH']}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    'environment, words',
    [
        ({'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0'}, 'JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, and JAX_COORDINATOR_ADDRESS not'),
        ({'JAX_NUM_PROCESSES': 'two', 'JAX_PROCESS_ID': '0', 'JAX_COORDINATOR_ADDRESS': '127.0.0.1:1'}, 'JAX_NUM_PROCESSES=two: expected a whole number'),
        ({'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '2', 'JAX_COORDINATOR_ADDRESS': '127.0.0.1:1'}, 'JAX_PROCESS_ID=2 of JAX_NUM_PROCESSES=2'),
        ({'T5X_LITE_CLUSTER': 'slurm'}, 'did not find each other (as T5X_LITE_CLUSTER=slurm has it'),
    ],
)
def test_a_place_that_is_none_is_one_line(monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(words)):
        processes.join()


def test_launchers_and_runs_mean_the_same_by_an_exit_status(monkeypatch):
    assert command_lines.GONE == processes.GONE
    assert processes.stopped_status() == 0
    monkeypatch.setenv('T5X_LITE_STOPPED', '75')
    assert processes.stopped_status() == 75


def test_alone_a_process_asks_nobody():
    problems = iter(['', 'no'])
    assert processes.told('hello') == ['hello'] and processes.by_first(lambda: {'a': 1}) == {'a': 1}
    processes.all_well(next(problems))
    with pytest.raises(UserError, match='^no$'):
        processes.all_well(next(problems))
    assert not processes.asked_to_stop(3)


# Real runs.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('local')


@pytest.fixture(scope='module')
def corpus(folder):
    return runs.prepare_corpus(folder / 'data')


@pytest.fixture(scope='module')
def reference(folder, corpus):
    """One process with four devices, undisturbed."""
    return Launched(folder, corpus, 'reference').alone(4)


def test_two_processes_are_one_run_stopped_and_resumed(folder, corpus, reference):
    # Once in some hundred launches two processes on a CPU have been seen to stand still between two steps, it is not known where: `stall_seconds` says it, and
    # as after any GONE they are launched again.
    for number in range(2):
        run = Launched(folder, corpus, f'two{number}', **{'log.stall_seconds': 60.0})
        launcher = run.launch(2, 2)
        said = run.signal_when(launcher, 6, 1, signal.SIGTERM)  # to the second alone
        if launcher.returncode != processes.GONE:
            break
    assert launcher.returncode == 0, said
    stopped = re.search(r'stopped by SIGTERM at step (\d+), which is saved', said)
    assert stopped and run.saved()[-1] == int(stopped[1]), said
    logs = [(run.workdir / 'logs' / f'process-{index}.log').read_text() for index in range(2)]
    assert all(stopped[0] in log for log in logs)  # both at the same step
    # Each loads its half of the rows of every batch, and together they load them all.
    for split, whole in (('train', 16), ('validation', 8)):
        first, second = (run.rows(split, index, whole) for index in range(2))
        assert len(first) == len(second) > 0 and not first & second
        assert first | second <= reference.rows(split, 'alone')
    assert sum(line.count(',') == 15 for line in (run.asked_for / 'train-1.jsonl').read_text().splitlines()) == 1  # and whole batches: one, for its shapes
    again = run.launch(2, 2)
    assert run.wait(again) == 0 and f'resumed {run.workdir} from step {stopped[1]}' in run.output, run.output
    assert_alike(run, reference)
    first, second = (run.rows('train', index, 16) for index in range(2))
    assert first | second == reference.rows('train', 'alone')


@pytest.mark.slow
def test_other_numbers_of_processes_go_on_with_a_run(folder, corpus, reference):
    run = Launched(folder, corpus, 'many', **{'checkpoint.every_steps': 3})
    launcher = run.launch(4, 1, '--grace=2')
    said = run.signal_when(launcher, 3, 2, signal.SIGKILL)
    assert launcher.returncode == 137 and 'error: process 2 of 4 was ended by SIGKILL' in said
    for count, devices, step in ((1, 4, 6), (2, 2, 9)):
        launcher = run.launch(count, devices)
        run.signal_when(launcher, step, 0, signal.SIGTERM)
        assert launcher.returncode == 0, run.output
    assert run.wait(run.launch(4, 1)) == 0, run.output
    assert_alike(run, reference)


@pytest.mark.slow
def test_a_second_launch_in_the_same_workdir_is_refused(folder, corpus):
    run = Launched(folder, corpus, 'busy', steps=400)
    run._environment['T5X_LITE_STOPPED'] = '75'  # as launchers set it whose schedulers start again what failed
    first = run.launch(2, 2)
    end = time.monotonic() + 240
    while not run.logged(3):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.05)
    second = run.launch(2, 2)
    out = second.communicate(timeout=240)[0]
    assert second.returncode == 2 and f'error: another process is training in {run.workdir}' in out
    assert run.signal_when(first, 3, 0, signal.SIGTERM) and first.returncode == 75, run.output
    assert 'stopped by SIGTERM' in run.output
