"""What happens to runs of many hosts: one is slow, its disk is full, the first is lost, clocks differ, two launches meet. Real processes."""

import re
import resource
import signal
import time

import pytest

from t5x_lite.training import checkpoint, goodput, leases
from t5x_lite.training.processes import GONE
from tests.launching.launched import Launched, assert_alike
from tests.training import runs

pytestmark = pytest.mark.slow

# What a process of another host, or one whose clock is wrong, sees. Before all imports, as the system has it from the start.
ELSEWHERE = """
import fcntl, os, socket, time

if 'CLOCK_AHEAD_SECONDS' in os.environ:
    ahead = [float(seconds) for seconds in os.environ['CLOCK_AHEAD_SECONDS'].split(',')][int(os.environ.get('JAX_PROCESS_ID', 0))]
    real = time.time
    time.time = lambda: real() + ahead
    time.time_ns = lambda: int(time.time() * 1e9)
if 'HOST_NAME' in os.environ:

    def flock(*arguments):
        raise OSError(37, 'No locks available')

    fcntl.flock = flock
    socket.gethostname = lambda: os.environ['HOST_NAME']
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('faults')


@pytest.fixture(scope='module')
def corpus(folder):
    return runs.prepare_corpus(folder / 'data')


@pytest.fixture(scope='module')
def elsewhere(folder):
    (folder / 'elsewhere').mkdir()
    (folder / 'elsewhere' / 'sitecustomize.py').write_text(ELSEWHERE)
    return folder / 'elsewhere'


@pytest.fixture(scope='module')
def reference(folder, corpus):
    """One process with four devices, undisturbed."""
    return Launched(folder, corpus, 'reference').alone(4)


def test_a_slow_host_changes_nothing(folder, corpus, reference):
    run = Launched(folder, corpus, 'slow').late(1, 0.3)
    assert_alike(run.go_on(2, 2), reference)


def test_a_full_disk_of_one_host_is_said_in_a_line_and_costs_no_checkpoint(folder, corpus, reference):
    run = Launched(folder, corpus, 'full', **{'checkpoint.every_steps': 3, 'mesh.fsdp': 2}).late(1, 0.5)
    launcher = run.launch(2, 2)
    run.logs_step(launcher, 4)
    while 3 not in run.saved():
        time.sleep(0.01)
    # Parts of a checkpoint are longer, the log is not.
    resource.prlimit(run.children(launcher)[1], resource.RLIMIT_FSIZE, (4000, 4000))
    assert run.wait(launcher) == 2, run.output
    assert re.search(r'^(process 1: )?error: the checkpoint of step 6 could not be saved in .*File too large', run.output, re.MULTILINE), run.output
    assert 'the checkpoints of steps 3 are whole' in run.output and 'Traceback' not in run.output
    assert 3 in run.saved() and 6 not in run.saved() and (run.checkpoints / '3.files').exists()
    assert f'resumed {run.workdir} from step 3' in run.go_on(2, 2).output
    assert_alike(run, reference)


def test_when_the_coordinator_is_lost_the_others_end_and_the_relaunch_goes_on(folder, corpus, reference):
    run = Launched(folder, corpus, 'lost', **{'checkpoint.every_steps': 3}).late(1, 0.3)
    launcher = run.launch(2, 2, '--grace=280')  # the other must end by itself
    said = run.signal_when(launcher, 5, 0, signal.SIGKILL)
    assert launcher.returncode == 137 and 'error: process 0 of 2 was ended by SIGKILL' in said
    assert re.search('another process of this run is gone|JAX distributed service detected fatal errors|coordination', run.log(1)), run.log(1)
    assert f'resumed {run.workdir} from step 3' in run.go_on(2, 2).output
    assert_alike(run, reference)


def test_one_that_is_alive_and_stuck_is_ended_with_the_others_and_the_relaunch_goes_on(folder, corpus, reference):
    run = Launched(folder, corpus, 'stuck', **{'checkpoint.every_steps': 3, 'log.stall_seconds': 20.0}).late(1, 0.3)
    launcher = run.launch(2, 2, '--grace=1')
    said = run.signal_when(launcher, 5, 1, signal.SIGSTOP)
    assert launcher.returncode == GONE and 'error: nothing was done for 20 s (config.log.stall_seconds)' in run.log(0), said
    assert f'resumed {run.workdir} from step 3' in run.go_on(2, 2).output
    assert_alike(run, reference)


def test_clocks_that_differ_by_days_and_go_back_change_nothing(folder, corpus, reference, elsewhere):
    run = Launched(folder, corpus, 'skewed').injected(elsewhere, CLOCK_AHEAD_SECONDS='86400,-3600').late(1, 0.3)
    said = run.signal_when(launcher := run.launch(2, 2), 6, 1, signal.SIGTERM)
    assert launcher.returncode == 0 and 'stopped by SIGTERM at step' in said, said
    run.injected(elsewhere, CLOCK_AHEAD_SECONDS='-86400,3600')
    assert_alike(run.go_on(2, 2), reference)
    found = goodput.read(str(run.workdir))
    assert found.launches >= 2 and not found.seconds['stopped'] and all(0 <= share <= 1 for share in found.shares.values())
    assert sum(found.shares.values()) == pytest.approx(1)


def test_two_launches_on_hosts_that_do_not_see_each_others_locks(folder, corpus, elsewhere):
    run = Launched(folder, corpus, 'both', steps=400).injected(elsewhere, HOST_NAME='a').late(1, 0.3)
    first = run.launch(2, 2)
    run.logs_step(first, 2)
    second = run.injected(elsewhere, HOST_NAME='b').launch(2, 2, f'--logs={folder}/logs_of_b')
    said = second.communicate(timeout=400)[0]
    assert second.returncode == 2 and re.search(rf'^error: another process is training in {run.workdir}, on a ', said, re.MULTILINE), said
    assert first.poll() is None, 'it goes on undisturbed'
    first.send_signal(signal.SIGTERM)
    assert run.wait(first) == 0 and 'stopped by SIGTERM' in run.output and not (run.workdir / leases.FILE).exists(), run.output
    again = run.launch(2, 2)
    run.output = ''
    run.signal_when(again, max(run.saved()) + 2, 0, signal.SIGTERM)
    assert again.returncode == 0 and 'looking for' not in run.output, run.output
    assert checkpoint.holds_checkpoints(str(run.workdir))
