"""launch/tpu_vm.sh against a gcloud that only pretends: requests, preemptions, retries, and nothing deleted that nobody asked to delete."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from t5x_lite.launching import tpu_vm
from tests.launching.stand_ins import ROOT, Tools, one_error

FLAGS = ('--config=configs/bert.py:base', "--config.decode.stop=it's; $(touch here) \"quoted\"", '--workdir=/shared/runs/a b')
QUEUE = 'gcloud compute tpus queued-resources'
VM = 'gcloud compute tpus tpu-vm'
ABSENT = {'status': 1, 'err': 'ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found\n'}


def state(name):
    return {'out': f'{name}\n'}


def _git(clone, *arguments):
    identity = ('-c', 'user.name=a', '-c', 'user.email=a@b.c', '-c', 'commit.gpgsign=false')
    return subprocess.run(['git', '-C', str(clone), *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A checkout with the launchers in it."""
    root = tmp_path / 'a clone'
    for part in ('launch', 'configs', 't5x_lite/launching'):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('t5x_lite/__init__.py', 't5x_lite/errors.py'):
        shutil.copy(ROOT / name, root / name)
    (root / '.gitignore').write_text('__pycache__/\n')
    _git(tmp_path, 'init', '-q', str(root))
    _git(root, 'add', '-A')
    _git(root, 'commit', '-qm', 'first')
    return root


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path / 'tools', ('gcloud',))


@pytest.fixture
def launch(tools, clone):
    def run(*options, flags=FLAGS, place=('--name=t5', '--project=p', '--zone=us-east5-a', '--type=v5p-16', '--poll=0', '--backoff=0')):
        return tools.run('tpu_vm.sh', *place, *options, *(['--', *flags] if flags else []), root=clone)

    return run


def verbs(tools):
    """What was done, in order: 'describe', 'create', 'scp', 'ssh install', ..."""
    verbs = []
    for argv in tools.calls():
        command = next((word for word in argv if word.startswith('--command=')), '')
        verbs.append(argv[4] + (' install' if 'on_worker.sh install' in command else ' train' if 'on_worker.sh train' in command else ''))
    return verbs


def test_asks_waits_copies_installs_and_trains_on_all_workers(tools, launch, clone):
    tools.lay(f'{QUEUE} describe', ABSENT, state('CREATING'), state('WAITING_FOR_RESOURCES'), state('PROVISIONING'), state('ACTIVE'))
    done = launch('--spot', '--service_account=s@p.iam', '--network=n')
    assert done.returncode == 0, done.stderr
    assert verbs(tools) == ['describe', 'create', *['describe'] * 4, 'scp', 'ssh install', 'ssh train']
    create = tools.calls(f'{QUEUE} create')[0]
    assert create[5:] == [
        't5', '--project=p', '--zone=us-east5-a', '--node-id=t5', '--accelerator-type=v5p-16', '--runtime-version=v2-alpha-tpuv5', '--spot', '--network=n',
        '--service-account=s@p.iam',
    ]  # fmt: skip
    assert all('--worker=all' in argv for argv in tools.calls(VM))
    commit = _git(clone, 'rev-parse', 'HEAD')[:12]
    assert f't5:t5x_lite-{commit}.tar.gz' in tools.calls(f'{VM} scp')[0]
    # The flags arrive word for word after two shells.
    command = tools.calls(f'{VM} ssh')[-1][6].removeprefix('--command=')
    words = subprocess.run(['bash', '-c', f'bash() {{ printf "%s\\0" "$@"; }}; {command}'], capture_output=True, text=True, check=True).stdout.split('\0')[:-1]
    assert words == [f't5x_lite/{commit}/launch/on_worker.sh', 'train', 't5', 'python', '-m', 't5x_lite.train', *FLAGS]
    assert 'are left as they are; to delete them: gcloud compute tpus queued-resources delete t5' in done.stdout


def test_a_path_in_a_bucket_installs_what_it_needs(tools, launch):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    assert launch(flags=('--config=configs/bert.py:base', '--config.data.path=gs://b/data', '--workdir=gs://b/run')).returncode == 0
    installs = [argv[6] for argv in tools.calls(f'{VM} ssh') if 'on_worker.sh install' in argv[6]]
    assert len(installs) == 1 and installs[0].endswith('/launch/on_worker.sh install tpu,gcs')


def test_attaches_to_machines_that_are_there(tools, launch):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    assert launch().returncode == 0
    assert verbs(tools) == ['describe', 'scp', 'ssh install', 'ssh train']


@pytest.mark.parametrize('dead', ['SUSPENDED', 'FAILED'])
def test_asks_again_after_a_preemption(tools, launch, dead):
    states = [state('ACTIVE'), state('SUSPENDING'), state('SUSPENDING'), state(dead), ABSENT, state('ACTIVE')]
    tools.lay(f'{QUEUE} describe', *states)
    tools.lay(f'{VM} ssh', {}, {'status': 255}, {})
    done = launch('--spot')
    assert done.returncode == 0, done.stderr
    assert verbs(tools) == [
        'describe', 'scp', 'ssh install', 'ssh train', 'describe',  # SUSPENDING: preempted
        'describe', 'describe', 'delete', 'describe', 'create', 'describe', 'scp', 'ssh install', 'ssh train',
    ]  # fmt: skip
    assert 't5 is SUSPENDING; retry 1 of 5' in done.stdout


def test_a_lost_process_is_started_again_on_the_same_machines(tools, launch):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    tools.lay(f'{VM} ssh', {}, {'status': 75}, {})
    done = launch()
    assert done.returncode == 0 and 'a process of the run was lost; retry 1 of 5' in done.stdout
    assert not {'create', 'delete'} & set(verbs(tools))


def test_retries_end(tools, launch):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    tools.lay(f'{VM} ssh', {'status': 255})
    done = launch('--retries=3')
    assert 'the connection broke; given up after 3 retries' in one_error(done)
    assert verbs(tools).count('ssh install') == 4 and 'ssh train' not in verbs(tools)
    # A request that fails as soon as it is made is no better the next time, but for want of capacity.
    tools.lay(f'{QUEUE} describe', ABSENT, state('FAILED'), state('FAILED'), ABSENT, state('FAILED'))
    done = launch('--retries=1')
    assert re.search(r't5 is FAILED \(why: gcloud compute tpus queued-resources describe t5 .*\); given up after 1 retries', one_error(done))


def test_waits_double_and_are_bounded():
    assert [tpu_vm.pause(60.0, retry) for retry in range(8)] == [60, 120, 240, 480, 960, 960, 960, 960]


@pytest.mark.parametrize('status', [1, 2])
def test_a_mistake_is_not_repeated(tools, launch, status):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    tools.lay(f'{VM} ssh', {}, {'status': status})
    assert launch().returncode == status
    assert verbs(tools).count('ssh train') == 1


@pytest.mark.parametrize('status', [0, 2])
def test_deletes_at_the_end_if_asked(tools, launch, status):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    tools.lay(f'{VM} ssh', {}, {'status': status})
    assert launch('--delete').returncode == status
    assert tools.calls()[-1][4:] == ['delete', 't5', '--project=p', '--zone=us-east5-a', '--force', '--quiet']


def test_a_dry_run_prints_and_runs_nothing(tools, launch):
    done = launch('--dry_run', '--delete')
    assert done.returncode == 0 and not tools.calls()
    commands = [line for line in done.stdout.splitlines() if not line.startswith('#')]
    assert [line.split()[3:5] for line in commands if line.startswith('gcloud')] == [
        ['queued-resources', 'describe'], ['queued-resources', 'create'], ['queued-resources', 'describe'], ['tpu-vm', 'scp'], ['tpu-vm', 'ssh'],
        ['tpu-vm', 'ssh'], ['queued-resources', 'delete'],
    ]  # fmt: skip
    assert 'python -m t5x_lite.train' in commands[-2]


def test_a_workdir_that_nothing_mounts_is_pointed_out(tools, launch):
    said = 'launch: /shared/runs/a b must be on a disk that all workers share, and nothing mounts one here'
    assert f'# {said}' in launch('--dry_run').stdout
    assert said not in launch('--dry_run', '--setup=sudo mount 10.0.0.2:/share /shared').stdout
    assert said not in launch('--dry_run', flags=('--config=configs/bert.py:base', '--workdir=gs://b/x')).stdout


def test_stop_asks_the_workers(tools, launch):
    done = launch('--stop', flags=())
    assert done.returncode == 0 and len(tools.calls()) == 1 and 'on_worker.sh' in tools.calls()[0][6]


@pytest.mark.parametrize(
    'options, flags, words',
    [
        ({'--project': None}, FLAGS, '--project is missing'),
        ({'--project': None, '--zone': None}, FLAGS, '--project and --zone are missing'),
        ({'--type': 'v5p-9'}, FLAGS, 'no v5p of that size; there are v5p-8, v5p-16'),
        ({'--type': 'v5e-16'}, FLAGS, 'v5e is called v5litepod there'),
        ({'--type': 'v66-16'}, FLAGS, "did you mean 'v6e'?"),
        ({'--retries': '-1'}, FLAGS, "--retries: '-1' is no whole number of at least 0"),
        ({'--sport': ''}, FLAGS, "--sport=: no such option, did you mean '--spot'?"),
        ({'--config.steps': '3'}, FLAGS, '--config.steps is a flag of train; flags of train follow after --'),
        ({}, ('--config=a.py',), '--workdir is missing among the flags of train'),
        ({}, ('--workdir=a', 'b'), "'b' after --: flags of train are written --name=value"),
        ({}, (), 'no flags of train'),
        ({'--commit': 'nowhere'}, FLAGS, '--commit=nowhere: no such commit'),
        ({'--name': 't 5'}, FLAGS, '--name=t 5: expected lower case letters'),
        ({'--name': 'T5'}, FLAGS, '--name=T5: expected lower case letters'),
        ({'--zone': 'us-east5'}, FLAGS, '--zone=us-east5: expected a zone, such as us-east5-a'),
        ({'--project': 'my project'}, FLAGS, '--project=my project: expected the ID of a project'),
        ({'--type': 'v5p-24'}, FLAGS, 'no v5p of that size; there are v5p-8, v5p-16, v5p-32, v5p-64, and multiples of v5p-128 up to v5p-12288'),
        ({}, ('--config=configs/bert.py:base', '--workdir=runs/x'), '--workdir=runs/x: would be a folder of each worker, and lost with its machine'),
        ({}, ('--config=configs/brt.py:base', '--workdir=gs://b/x'), '--config=configs/brt.py: not in commit '),
    ],
)
def test_bad_options_are_one_line(tools, launch, options, flags, words):
    place = {'--name': 't5', '--project': 'p', '--zone': 'us-east5-a', '--type': 'v5p-16'} | options
    done = launch(place=[f'{name}={value}' for name, value in place.items() if value is not None], flags=flags)
    assert words in one_error(done) and not tools.calls()


def test_only_committed_code_is_launched(tools, launch, clone):
    (clone / 'new.py').write_text('')
    (clone / 'configs' / 'bert.py').write_text('')
    assert 'uncommitted changes in configs/bert.py, new.py would not be launched; commit them, or name what to launch: --commit=HEAD' in one_error(launch())
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    assert launch('--commit=HEAD').returncode == 0
    shutil.rmtree(clone / '.git')
    assert 'is not a git checkout' in one_error(launch())


def test_what_gcloud_cannot_say_is_one_line(tools, launch):
    tools.lay(f'{QUEUE} describe', {'status': 1, 'err': 'ERROR: PERMISSION_DENIED: no\nmore\n'})
    done = launch()
    assert 'error: gcloud cannot look at t5: ERROR: PERMISSION_DENIED: no' in one_error(done)
    (tools.folder / 'gcloud').unlink()
    assert 'gcloud is not on the PATH' in one_error(launch())


# What workers do.

PYTHON = """#!/bin/bash
printf '%s\\0' "$@" >>"$HOME/arguments"
echo "cluster $T5X_LITE_CLUSTER"
echo "in $PWD"
trap 'echo saved; exit $T5X_LITE_STOPPED' TERM
[ -e "$HOME/status" ] && exit "$(cat "$HOME/status")"
for _ in $(seq 400); do [ -e "$HOME/go" ] && exit 0; sleep 0.05; done
exit 9
"""


@pytest.fixture
def worker(tmp_path):
    """A worker's home with the code and its environment."""
    home = tmp_path / 'home'
    root = home / 't5x_lite' / 'abc'
    shutil.copytree(ROOT / 'launch', root / 'launch')
    (root / '.venv' / 'bin').mkdir(parents=True)
    (root / '.venv' / 'bin' / 'python').write_text(PYTHON)
    (root / '.venv' / 'bin' / 'python').chmod(0o755)
    (home / 'bin').mkdir()
    (home / 'bin' / 'hostname').write_text('#!/bin/sh\ncat "$HOME/hostname"\n')
    (home / 'bin' / 'hostname').chmod(0o755)
    (home / 'hostname').write_text('t1v-n-1-w-0')
    return home


def _worker(home, *arguments, **kwargs) -> subprocess.Popen:
    environment = os.environ | {'HOME': str(home), 'PATH': f'{home}/bin:{os.environ["PATH"]}'}
    command = ['bash', str(home / 't5x_lite/abc/launch/on_worker.sh'), *arguments]
    return subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


TRAIN = ('train', 't5', 'python', '-m', 't5x_lite.train', '--config.decode.stop=a b; "c"', '--workdir=w')


def _until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_worker_trains_apart_from_the_connection_and_is_attached_to(worker):
    first = _worker(worker, *TRAIN, start_new_session=True)
    _until(lambda: (worker / 'arguments').exists())
    os.killpg(first.pid, signal.SIGKILL)  # the connection breaks
    first.communicate(timeout=30)
    again = _worker(worker, *TRAIN)
    assert 'attached to process' in again.stdout.readline()
    other = _worker(worker, *TRAIN, '--config.steps=3')
    assert 'another command runs here under this name' in other.communicate()[1] and other.returncode == 1
    (worker / 'go').touch()
    out, err = again.communicate(timeout=30)
    assert again.returncode == 0 and 'cluster auto' in out, (out, err)
    words = (worker / 'arguments').read_text().split('\0')[:-1]
    assert words == list(TRAIN[3:])  # once, word for word
    assert f'in {worker}/t5x_lite/abc\n' in (worker / 't5x_lite' / 'runs' / 't5' / 'log').read_text(), 'where --config=configs/FILE.py is'


@pytest.mark.parametrize('host, quiet, shown', [('t1v-n-1-w-0', False, True), ('t1v-n-1-w-12', False, False), ('t1v-n-1-w-0', True, False)])
def test_the_first_worker_shows_its_log_the_others_what_went_wrong(worker, monkeypatch, host, quiet, shown):
    monkeypatch.setenv('QUIET', str(int(quiet)))  # as in every slice but the first
    (worker / 'hostname').write_text(host)
    (worker / 'go').touch()
    out, _ = _worker(worker, *TRAIN).communicate(timeout=30)
    assert ('cluster auto' in out) == shown
    (worker / 'status').write_text('2')
    done = _worker(worker, *TRAIN)
    _, err = done.communicate(timeout=30)
    assert done.returncode == 2 and f'{host}: ended with status 2' in err and 'cluster auto' in err


def test_stop_saves_and_is_no_preemption(worker):
    running = _worker(worker, *TRAIN)
    _until(lambda: (worker / 'arguments').exists())
    stop = _worker(worker, 'stop', 't5')
    assert 'saved' in stop.communicate(timeout=30)[0] and stop.returncode == 0
    running.communicate(timeout=30)
    assert running.returncode == 0
    assert 'nothing is running' in _worker(worker, 'stop', 't5').communicate()[0]
    # One that nobody asked for is a preemption.
    (worker / 'status').write_text('75')
    done = _worker(worker, *TRAIN)
    done.communicate(timeout=30)
    assert done.returncode == 75
