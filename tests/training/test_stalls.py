"""A run that stands still ends, and says where it stood."""

import subprocess
import sys

from t5x_lite.training import stalls
from t5x_lite.training.processes import GONE
from tests.training import runs

CODE = """
import sys, threading, time
from t5x_lite.training import stalls

def goes_on(going_on):
    for _ in range(8):
        time.sleep(0.25)
        going_on()

def stands_still():
    print('all done', flush=True)
    time.sleep(600)

with stalls.watched(1.0) as going_on:
    goes_on(going_on)
    if len(sys.argv) > 1:
        stands_still()
time.sleep(1.5)
print('ended', flush=True)
"""


def _run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', CODE, *arguments], cwd=runs.ROOT, capture_output=True, text=True, timeout=120)


def test_what_goes_on_is_left_alone():
    done = _run()
    assert (done.returncode, done.stdout, done.stderr) == (0, 'ended\n', '')


def test_what_stands_still_ends_and_says_where():
    done = _run('still')
    assert done.returncode == GONE and done.stdout == 'all done\n'
    assert done.stderr.startswith('error: nothing was done for 1 s (config.log.stall_seconds)') and 'in stands_still' in done.stderr


def test_without_a_time_nothing_is_watched():
    with stalls.watched(0.0) as going_on:
        going_on()


def test_a_run_whose_data_do_not_come(tmp_path):
    corpus = runs.prepare_corpus(tmp_path)
    fields = {'data.source': 'tests.launching.recorded:Recorded', 'data.stages': ((0, 16, 16, 3),), 'log.stall_seconds': 15.0, 'steps': 400}
    run = runs.Run(tmp_path / 'run', runs.small_config(corpus, **fields), tmp_path / 'cache')
    (tmp_path / 'asked').mkdir()
    run._environment |= {'RECORDED': str(tmp_path / 'asked'), 'LATE_PROCESS': 'alone', 'LATE_SECONDS': '600', 'LATE_AFTER': '60'}
    assert run.wait(run.start()) == GONE and 'error: nothing was done for 15 s' in run.output and 'in _loop' in run.output, run.output
