"""launch/slurm.sh: the batch script that sbatch gets, and what that script does with an srun that only pretends."""

from pathlib import Path
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from t5x_lite.launching import slurm
from tests.launching.stand_ins import DIRECTIVES, ROOT, Tools, complaint, one_error

FLAGS = ('--config=configs/gpt.py:gpt2', "--config.decode.stop=it's; $(touch here)")


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path / 'tools', ('sbatch', 'srun', 'scancel', 'scontrol'))


@pytest.fixture
def submit(tools, tmp_path):
    def run(*options):
        tools.lay('sbatch', {'out': '1234;cluster\n'})
        return tools.run('slurm.sh', '--python=/env/bin/python', *options, '--', *FLAGS, f'--workdir={tmp_path}/w', cwd=tmp_path)

    return run


def _directives(text: str) -> dict[str, str]:
    found = dict(line.removeprefix('#SBATCH ').partition('=')[::2] for line in text.splitlines() if line.startswith('#SBATCH'))
    assert found.keys() <= DIRECTIVES
    return found


def _srun(text: str) -> list[str]:
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith('srun'))
    return shlex.split(lines[first].rstrip('\\') + lines[first + 1].rstrip('&'))


def test_a_process_a_gpu(submit, tools, tmp_path):
    done = submit('--nodes=4', '--gpus_per_node=8', '--partition=gpu', '--time=1-00:00:00', '--cpus_per_task=12', '--option=--constraint=h100')
    assert done.returncode == 0 and 'job 1234; its processes write' in done.stdout, done.stderr
    path = tmp_path / 'w' / 'logs' / 't5x_lite.sbatch'
    assert tools.calls() == [['sbatch', '--parsable', str(path)]]
    text = path.read_text()
    assert text.startswith('#!') and subprocess.run(['bash', '-n', str(path)]).returncode == 0
    found = _directives(text)
    asked = {'--nodes': '4', '--ntasks-per-node': '8', '--gpus-per-node': '8', '--cpus-per-task': '12', '--partition': 'gpu', '--time': '1-00:00:00'}
    assert asked.items() <= found.items() and found['--constraint'] == 'h100'
    assert '--requeue' in found and found['--open-mode'] == 'append' and found['--signal'] == 'B:USR1@300'
    words = _srun(text)
    assert not complaint(words) and '--kill-on-bad-exit=1' in words
    assert words[words.index('/env/bin/python') :] == ['/env/bin/python', '-m', 't5x_lite.train', *FLAGS, f'--workdir={tmp_path}/w']
    assert 'T5X_LITE_CLUSTER=slurm\n' in text  # JAX gives each process the GPU of its number


def test_a_process_a_node_has_all_gpus(submit, tmp_path):
    assert submit('--gpus_per_node=4', '--process_per=node').returncode == 0
    text = (tmp_path / 'w' / 'logs' / 't5x_lite.sbatch').read_text()
    assert _directives(text)['--ntasks-per-node'] == '1' and 'JAX_LOCAL_DEVICE_IDS=0,1,2,3\n' in text


def test_a_dry_run_prints_and_runs_nothing(submit, tools, tmp_path):
    done = submit('--dry_run')
    assert done.returncode == 0 and not tools.calls() and not (tmp_path / 'w').exists()
    assert '#SBATCH --nodes=1' in done.stdout and done.stdout.splitlines()[-1].startswith('sbatch --parsable ')


def test_bad_options_are_one_line(submit, tools):
    for option, words in (
        ('--nodes=0', "--nodes: '0' is no whole number of at least 1"),
        ('--process_per=core', "--process_per: invalid choice: 'core'"),
        ('--time=soon', '--time=soon: expected minutes'),
        ('--option=-p gpu', '--option=-p gpu: expected an option of sbatch'),
        ('--name=a b', '--name=a b: expected letters'),
        ('--logs=a b', 'Slurm reads no such character'),
        ('--partition=a b', '--partition=a b: Slurm reads no spaces there'),
        ('--notice=70000', '--notice=70000: Slurm counts to 65535 at most'),
        ('--time=5:00', '--notice=300 is not less than --time=5:00'),
        ('--notice=1', "--notice: '1' is no whole number of at least 30"),
    ):
        assert words in one_error(submit(option)), option
    assert not tools.calls()
    (tools.folder / 'sbatch').unlink()
    assert 'sbatch is not on the PATH' in one_error(submit())


def test_limits_are_read_as_slurm_reads_them():
    limits = {'90': 5400, '5:30': 330, '24:00:00': 86400, '2-12': 216000, '1-00:30': 88200, '1-00:00:01': 86401}
    assert {limit: slurm._seconds(limit) for limit in limits} == limits


@pytest.fixture
def batch(submit, tools, tmp_path):
    """The batch script, started as Slurm would on the first node."""

    def start(**environment):
        assert submit().returncode == 0
        path = tmp_path / 'w' / 'logs' / 't5x_lite.sbatch'
        given = tools.environment(SLURM_JOB_ID='1234') | environment
        return subprocess.Popen(['bash', str(path)], env=given, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(
    'status, restarts, ends, requeued',
    [(0, 0, 0, False), (2, 0, 2, False), (1, 0, 1, False), (75, 0, 0, True), (134, 3, 0, True), (137, 9, 0, True), (75, 10, 75, False)],
)
def test_goes_back_into_the_queue_when_something_was_lost(batch, tools, status, restarts, ends, requeued):
    tools.lay('srun', {'status': status})
    process = batch(SLURM_RESTART_COUNT=str(restarts))
    out, err = process.communicate(timeout=30)
    assert process.returncode == ends, (out, err)
    assert (['scontrol', 'requeue', '1234'] in tools.calls()) == requeued
    assert ('given up after 10 restarts' in err) == (restarts == 10)


# An srun that runs until the processes are asked to end.
_WAITS = '#!/bin/bash\necho $$ >{folder}/pid; touch {folder}/running\nfor _ in $(seq 200); do [ -e {folder}/asked ] && exit 0; sleep 0.05; done; exit 9\n'


@pytest.mark.parametrize('number, requeued', [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_ahead_of_the_limit_it_saves_and_goes_back_into_the_queue(batch, tools, tmp_path, number, requeued):
    """At SIGTERM, a preemption or a person's scancel, Slurm itself knows what comes next."""
    for name in ('seq', 'touch', 'sleep'):
        (tools.folder / name).symlink_to(shutil.which(name))
    (tools.folder / 'srun').write_text(_WAITS.format(folder=tmp_path))
    if requeued:  # what scancel would have the processes do; they may have ended before it has
        gone = f'for _ in $(seq 200); do kill -0 "$(cat {tmp_path}/pid)" || exit 0; sleep 0.05; done'
        (tools.folder / 'scancel').write_text(f'#!/bin/bash\n[ "$*" = "--signal=TERM 1234" ] && touch {tmp_path}/asked\n{gone} 2>/dev/null\n')
    process = batch()
    end = time.monotonic() + 20
    while not (tmp_path / 'running').exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    if not requeued:
        Path(tmp_path, 'asked').touch()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and 'ended with status 0' in out, (out, err)
    assert (['scontrol', 'requeue', '1234'] in tools.calls()) == requeued


def test_the_script_names_the_clone(submit, tmp_path):
    assert submit().returncode == 0
    assert f'PYTHONPATH={ROOT}' in (tmp_path / 'w' / 'logs' / 't5x_lite.sbatch').read_text()
