"""The soak (tests/soak/__main__.py): a short form always, the long ones with -m slow; and that it would notice what it is for."""

from collections import Counter
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.soak import cycles, judging

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _start(output, count, processes=1, *flags):
    command = [sys.executable, '-m', 'tests.soak', f'--output={output}', f'--cycles={count}', f'--processes={processes}', *flags]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {'XLA_FLAGS': ''}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finished(process):
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def _soaked(output, count, processes):
    said = _finished(_start(output, count, processes))
    assert len((output / 'cycles.jsonl').read_text().splitlines()) == count
    assert f'{count} cycles (' in said and 'arrays bit for bit' in said and 'goodput' in said


def test_a_short_soak_stopped_and_carried_on(tmp_path):
    output = tmp_path / 'soak'
    process = _start(output, 4)
    journal, end = output / 'cycles.jsonl', time.monotonic() + 600
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 2):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    before = journal.read_text().splitlines()
    said = _finished(_start(output, 4))
    first = int(re.search(r'^cycle (\d+)/4 ', said, re.MULTILINE)[1])
    assert first == len(before) + 1 and journal.read_text().splitlines()[: len(before)] == before
    assert '4 cycles (' in said and 'arrays bit for bit' in said
    assert [json.loads(line)['cycle'] for line in journal.read_text().splitlines()] == [0, 1, 2, 3]
    refused = _start(output, 5)
    assert 'holds another soak' in refused.communicate()[0] and refused.returncode == 2


@pytest.mark.slow
def test_two_hundred_cycles_of_one_process(tmp_path):
    _soaked(tmp_path / 'soak', 200, 1)


@pytest.mark.slow
def test_forty_cycles_of_four_processes(tmp_path):
    _soaked(tmp_path / 'soak', 40, 4)


def test_plans_are_of_their_seed_and_go_everywhere():
    plans = [cycles.planned(0, cycle, 4) for cycle in range(200)]
    assert plans == [cycles.planned(0, cycle, 4) for cycle in range(200)] != [cycles.planned(1, cycle, 4) for cycle in range(200)]
    assert set(Counter(plan.place for plan in plans)) == set(cycles.PLACES) and {plan.process for plan in plans} == set(range(4))
    assert 10 < sum(plan.signal == signal.SIGTERM for plan in plans) < 60 and any(plan.cold for plan in plans)


KILLED = cycles.Plan('save', 0.5, 0, signal.SIGKILL, False)
ASKED = cycles.Plan('step', 0.5, 1, signal.SIGTERM, False)
LINES = [{'step': 4, 'loss': 2.0}, {'step': 4, 'eval/loss': 1.0}, {'step': 5, 'loss': 1.5}]
WENT_ON = 'resumed runs/killed from step 4\ncompiled the step for 16 x 16 in 0.1 s\n'


def _judged(plan, **changed):
    stopped = f'{WENT_ON}stopped by SIGTERM at step 8, which is saved; repeat the command to go on\n'
    asked = plan.signal == signal.SIGTERM
    given = {
        'statuses': [0, 0] if asked else [-9, 75], 'said': [stopped if asked else WENT_ON] * 2, 'before': 4, 'saved': [4, 8], 'folders': ['4', '8', '8.files'],
        'lines': LINES, 'reference': judging.by_step(LINES),
    }  # fmt: skip
    return judging.faults(plan, **given | changed)


def test_what_goes_well_is_no_fault():
    assert not _judged(KILLED) and not _judged(ASKED)
    assert not _judged(ASKED, statuses=[75, -15], said=['', ''])  # too early for it to be asked


@pytest.mark.parametrize(
    'plan, changed, words',
    [
        (KILLED, {'saved': [], 'before': 4}, 'the checkpoint of step 4 is lost'),
        (KILLED, {'folders': ['4', 'torn-8']}, 'set aside: torn-8'),
        (KILLED, {'before': 8}, 'went on from step 4, and step 8 was saved'),
        (KILLED, {'said': ['compiled the step', '']}, 'began anew, and step 4 was saved'),
        (KILLED, {'said': [WENT_ON, 'Traceback (most recent call last):']}, "process 1 says 'Traceback"),
        (KILLED, {'said': [f'warning: the checkpoint of step 4 cannot\n{WENT_ON}', '']}, "process 0 says 'warning: the checkpoint"),
        (KILLED, {'statuses': [-9, 1]}, 'process 1 ended with status 1'),
        (KILLED, {'statuses': [0, 75]}, 'process 0 ended with status 0'),
        (ASKED, {'statuses': [75, 0]}, 'process 0 ended with status 75'),
        (ASKED, {'saved': [4]}, 'asked to end, it said to have saved step 8, and the newest is that of step 4'),
        (ASKED, {'said': [WENT_ON, WENT_ON]}, 'asked to end, it said to have saved step none'),
        (KILLED, {'lines': [{'step': 4, 'loss': 2.5}]}, 'step 4: the line'),
        (KILLED, {'lines': [*LINES, {'step': 6, 'loss': 1.0}]}, 'step 6: the line'),
    ],
)
def test_what_goes_wrong_is_a_fault(plan, changed, words):
    assert any(words in fault for fault in _judged(plan, **changed))
