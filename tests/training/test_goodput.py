"""Goodput: every second of a workdir's history is counted once, under its kind, whatever was killed and whatever its clocks say."""

import itertools
import json
import re
import shutil
import threading
import time

import pytest

from t5x_lite.data.pipeline import DataFunction
from t5x_lite.training import goodput
from tests.training import runs
from tests.training.test_stopping import a_config, trainer


class Machine:
    """Clocks that a test moves. Several processes of a machine share them; `skew_seconds` is what the clock of the wall is ahead."""

    def __init__(self):
        self.now, self.skew_seconds, self.booted = 1000.0, 0.0, 400.0

    @property
    def clocks(self):
        return goodput.Clocks(lambda: self.now - self.booted, lambda: 1.7e9 + self.now + self.skew_seconds)

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def machine():
    return Machine()


def launch(machine, workdir, first, restore=0.0):
    """A launch that has taken 4 s to its first step, and `restore` to read a checkpoint."""
    counts = goodput.Goodput(str(workdir), True, machine.clocks.monotonic(), machine.clocks)
    machine.spend(4.0)
    with counts.spent('restore'):
        machine.spend(restore)
    counts.begin(first)
    return counts


def steps(machine, counts, first, last, seconds=1.0):
    """Steps of a second each, all marked."""
    for step in range(first, last):
        machine.spend(seconds)
        counts.mark(step + 1, now=True)


def of(summary):
    return {kind: round(seconds, 6) for kind, seconds in summary.seconds.items() if round(seconds, 6)}


def test_one_launch(machine, tmp_path):
    counts = launch(machine, tmp_path, 0)
    counts.add('compile', 3.0)
    machine.spend(3.0)
    steps(machine, counts, 0, 5)
    with counts.spent('evaluate'):
        machine.spend(2.0)
    with counts.spent('save'):
        machine.spend(1.0)
    expected = {'step': 5.0, 'start_up': 4.0, 'compile': 3.0, 'evaluate': 2.0, 'save': 1.0}
    assert of(counts.summary()) == expected
    said = counts.end(5)
    counts.close()
    assert said == 'goodput 33.3% of 0:15 in 1 launch; start-up 26.7%, compile 20.0%, evaluation 13.3%, save 6.7%'
    found = goodput.read(str(tmp_path))
    assert of(found) == expected and found.goodput == pytest.approx(1 / 3) and found.wall_seconds == pytest.approx(15)


def test_the_time_of_a_first_launch_before_its_first_step_is_start_up(machine, tmp_path):
    assert of(launch(machine, tmp_path, 0, restore=2.5).summary()) == {'start_up': 6.5}


def test_steps_after_the_checkpoint_are_repeated_and_what_follows_a_kill_is_lost(machine, tmp_path):
    first = launch(machine, tmp_path, 0)
    steps(machine, first, 0, 8)
    first.close()  # as a kill does: nothing more is written
    machine.spend(100.0)
    second = launch(machine, tmp_path, 5, restore=2.0)
    steps(machine, second, 5, 10)
    assert of(second.summary()) == {'step': 10.0, 'repeated': 3.0, 'lost': 100.0, 'start_up': 8.0, 'restore': 2.0}
    second.end(10)
    second.close()
    machine.spend(50.0)
    third = launch(machine, tmp_path, 10, restore=2.0)
    steps(machine, third, 10, 12)
    assert of(third.summary()) == {'step': 12.0, 'repeated': 3.0, 'lost': 100.0, 'stopped': 50.0, 'start_up': 12.0, 'restore': 4.0}
    third.close()
    assert of(goodput.read(str(tmp_path))) == of(third.summary()) and goodput.read(str(tmp_path)).launches == 3


def test_going_back_to_an_older_checkpoint_takes_back_the_steps_of_all_launches_since(machine, tmp_path):
    for begin, end in ((0, 6), (4, 9)):
        counts = launch(machine, tmp_path, begin)
        steps(machine, counts, begin, end)
        counts.close()
    counts = launch(machine, tmp_path, 2)
    # Of the first, steps 3 to 6; of the second, all.
    assert of(counts.summary()) == {'step': 2.0, 'repeated': 9.0, 'start_up': 12.0}


def test_between_two_marks_the_steps_took_equally_long(machine, tmp_path):
    counts = launch(machine, tmp_path, 0)
    machine.spend(30.0)
    counts.mark(10)
    counts.close()
    assert of(launch(machine, tmp_path, 4).summary()) == {'step': 12.0, 'repeated': 18.0, 'start_up': 8.0}


def test_a_line_every_ten_seconds_unless_it_is_due(machine, tmp_path):
    counts = launch(machine, tmp_path, 0)
    for step in range(1, 26):
        machine.spend(1.0)
        counts.mark(step, now=step == 12)
    written = [json.loads(line)['step'] for line in (tmp_path / goodput.FILE).read_text().splitlines()]
    assert written == [0, 10, 12, 22]


@pytest.mark.parametrize('skew_seconds', [-1e6, -30.0, -0.5, 0.5, 1e6])
def test_skewed_clocks_give_shares_all_the_same(machine, tmp_path, skew_seconds):
    """The next launch is on a machine whose clock is wrong, and is set right while it trains."""
    steps_of = launch(machine, tmp_path, 0)
    steps(machine, steps_of, 0, 8)
    steps_of.close()
    machine.spend(10.0)
    machine.skew_seconds = skew_seconds
    counts = launch(machine, tmp_path, 5)
    steps(machine, counts, 5, 7)
    machine.skew_seconds = 0.0
    steps(machine, counts, 7, 10)
    gap = max(10.0 + skew_seconds, 0.0)
    assert of(counts.summary()) == {'step': 10.0, 'repeated': 3.0, 'start_up': 8.0} | ({'lost': gap} if gap else {})
    for summary in (counts.summary(), goodput.read(str(tmp_path))):
        assert all(0 <= share <= 1 for share in summary.shares.values()) and sum(summary.shares.values()) == pytest.approx(1)


def test_a_line_that_a_kill_cut_short_is_passed_over_and_nothing_is_written_behind_it(machine, tmp_path):
    first = launch(machine, tmp_path, 0)
    steps(machine, first, 0, 3)
    first.close()
    with open(tmp_path / goodput.FILE, 'a') as file:
        file.write('{"step": 4, "ti')
    second = launch(machine, tmp_path, 3)
    steps(machine, second, 3, 5)
    assert of(goodput.read(str(tmp_path))) == {'step': 5.0, 'start_up': 8.0}


def test_a_workdir_without_history_has_none(tmp_path):
    assert goodput.read(str(tmp_path)) is None
    (tmp_path / goodput.FILE).write_text('')
    assert goodput.read(str(tmp_path)) is None


def test_another_process_counts_nothing(machine, tmp_path):
    counts = goodput.Goodput(str(tmp_path), False, 0.0, machine.clocks)
    counts.begin(0)
    counts.under_way(lambda: None)
    assert list(counts.waits(iter('ab'))) == ['a', 'b']
    counts.mark(1, now=True)
    assert counts.end(2) == '' and counts.metrics() == {} and not list(tmp_path.iterdir())
    counts.close()


# Waiting for data.


def _waited(machine, counts, seconds, before=lambda: None):
    """A batch that comes after so many seconds; what is called in between."""

    def batches():
        before()
        machine.spend(seconds)
        yield 'batch'

    taken = counts.waits(batches())
    assert next(taken) == 'batch'
    taken.close()


def _until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_waiting_is_counted_where_the_devices_had_nothing_to_do(machine, tmp_path):
    counts = launch(machine, tmp_path, 0)
    _waited(machine, counts, 7.0)  # the first batch
    assert counts.summary().seconds['data_wait'] == 7.0
    over = threading.Event()
    counts.under_way(over.wait)
    _waited(machine, counts, 5.0)  # while the step is taken: it costs nothing
    assert counts.summary().seconds['data_wait'] == 7.0

    def step_ends():
        machine.spend(2.0)
        over.set()
        _until(lambda: counts._devices.idle_since is not None)

    _waited(machine, counts, 3.0, before=step_ends)  # 2 s of it under way, 3 s idle
    assert counts.summary().seconds['data_wait'] == 10.0
    counts.close()


def test_a_step_that_fails_keeps_nobody(machine, tmp_path):
    counts = launch(machine, tmp_path, 0)

    def fail():
        raise RuntimeError('the other process is gone')

    counts.under_way(fail)
    _waited(machine, counts, 5.0)
    counts.close()
    assert not counts._devices._thread.is_alive()


def test_batches_are_let_go_of_when_the_loop_ends(machine, tmp_path):
    counts, closed = launch(machine, tmp_path, 0), []

    def batches():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    for number in counts.waits(batches()):
        if number == 3:
            break
    del number
    assert closed or not counts.close()


def test_the_age_of_this_process_is_known():
    assert 0 <= time.monotonic() - goodput.process_began()


# Of real runs.


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return runs.prepare_corpus(tmp_path_factory.mktemp('goodput'))


def test_a_run_logs_its_goodput_and_goes_on_counting_when_resumed(corpus, tmp_path, capsys):
    config = a_config(corpus, **{'checkpoint.every_steps': 4})
    trainer(tmp_path / 'run', config).run()
    first = goodput.read(str(tmp_path / 'run'))
    assert first.launches == 1 and first.seconds['compile'] > 0 and first.seconds['save'] > 0 and first.seconds['evaluate'] > 0
    assert first.seconds['step'] > 0 and not first.seconds['repeated'] and not first.seconds['lost'] and not first.seconds['restore']
    assert re.search(r'^goodput \d+\.\d% of \d+:\d\d in 1 launch; .*start-up', capsys.readouterr().out, re.MULTILINE)
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    logged = [{name: line[name] for name in goodput.METRICS if name in line} for line in lines if 'loss' in line]
    assert all(0 < line['goodput'] < 1 and sum(line.values()) == pytest.approx(1, abs=1e-4) for line in logged) and 'badput/compile' in logged[-1]
    # Finished: nothing is added.
    before = (tmp_path / 'run' / goodput.FILE).read_bytes()
    trainer(tmp_path / 'run', config).run()
    assert (tmp_path / 'run' / goodput.FILE).read_bytes() == before
    # As if its last checkpoint had been lost with a kill.
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
    trainer(tmp_path / 'run', config).run()
    second = goodput.read(str(tmp_path / 'run'))
    assert second.launches == 2 and second.seconds['repeated'] > 0 and second.seconds['restore'] > 0
    assert second.wall_seconds > first.wall_seconds and 'in 2 launches' in capsys.readouterr().out


class Late(DataFunction):
    """Its batches come later than steps need them."""

    def batch(self, step, rows=None):
        time.sleep(0.3)
        return super().batch(step, rows)


def test_a_run_that_waits_for_its_data_says_so(corpus, tmp_path):
    config = a_config(corpus, **{'data.prefetch': 1, 'steps': 6, 'eval.every_steps': 0})
    trainer(tmp_path / 'run', config, Late).run()
    found = goodput.read(str(tmp_path / 'run'))
    assert found.seconds['data_wait'] >= 0.299  # the first batch, at least: no step is under way then
