"""Leases: two launches on hosts that do not see each other's locks never train in one workdir, and one that was killed keeps nobody out for long."""

import json
import os

import pytest

from t5x_lite.errors import UserError
from t5x_lite.training import leases, workdirs


class Looker:
    """Time of a host. What happens elsewhere meanwhile is called once a second."""

    def __init__(self, meanwhile=lambda second: None):
        self.now, self._meanwhile = 5000.0, meanwhile

    def sleep(self, seconds):
        self.now += seconds
        self._meanwhile(self.now - 5000.0)


def lease(workdir, here, meanwhile=lambda second: None, lost=None):
    looker = Looker(meanwhile)
    made = leases.Lease(str(workdir), here, sleep=looker.sleep, monotonic=lambda: looker.now, lost=lost or leases._end)
    made.looker = looker
    return made


def held_by(workdir):
    path = workdir / leases.FILE
    return json.loads(path.read_text())['host'] if path.exists() else None


@pytest.mark.parametrize('clock_seconds', [-1e7, 0.0, 1e7])
def test_a_launch_that_lives_on_another_host_is_not_disturbed_whatever_its_clock_says(tmp_path, clock_seconds):
    first = lease(tmp_path, 'a')
    first.take(locked=False)

    def beats(second):
        if second % leases.BEAT_SECONDS == 0:
            assert first.beat()
            written = os.path.getmtime(tmp_path / leases.FILE) + clock_seconds
            os.utime(tmp_path / leases.FILE, (written, written))

    second = lease(tmp_path, 'b', beats)
    with pytest.raises(UserError, match=rf'^another process is training in {tmp_path}, on a; wait until it has ended, or give another --workdir$'):
        second.take(locked=True)  # by the kernel of b
    assert held_by(tmp_path) == 'a' and first.beat()


def test_one_that_was_killed_is_taken_over_when_it_has_not_moved_for_long_enough(tmp_path, capsys):
    lease(tmp_path, 'a').take(locked=True)
    second = lease(tmp_path, 'b')
    second.take(locked=True)
    assert held_by(tmp_path) == 'b' and second.looker.now - 5000.0 >= leases.LOOK_SECONDS > 3 * leases.BEAT_SECONDS
    assert f'{tmp_path}: looking for 90 s whether a launch on a still trains here' in capsys.readouterr().out


def test_one_that_ends_meanwhile_is_followed_at_once(tmp_path):
    first = lease(tmp_path, 'a')
    first.take(locked=False)
    second = lease(tmp_path, 'b', lambda second: first.release() if second == 7 else None)
    second.take(locked=False)
    assert held_by(tmp_path) == 'b' and second.looker.now - 5000.0 == 7


def test_on_one_host_the_lock_of_the_kernel_says_it_at_once(tmp_path):
    lease(tmp_path, 'a').take(locked=True)
    again = lease(tmp_path, 'a')
    again.take(locked=True)
    assert again.looker.now == 5000.0
    third = lease(tmp_path, 'a')
    third.take(locked=False)  # where it has none, by looking
    assert third.looker.now > 5000.0


def test_of_two_that_begin_together_one_goes_on(tmp_path, monkeypatch):
    first, second = lease(tmp_path, 'a'), lease(tmp_path, 'b')
    monkeypatch.setattr(second, '_read', lambda: None)  # it has looked before the first wrote
    first.take(locked=True)
    with pytest.raises(UserError, match='another process is training'):
        second.take(locked=True)
    assert held_by(tmp_path) == 'a'


def test_a_launch_that_was_taken_over_notices(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, 'BEAT_SECONDS', 0.01)
    said = []
    first = lease(tmp_path, 'a', lost=lambda workdir, other: said.append((workdir, other)))
    first.take(locked=False)
    lease(tmp_path, 'b').take(locked=False)
    assert not first.beat()
    first.keep()
    first._thread.join(60)
    assert said == [(str(tmp_path), 'b')]
    first.release()
    assert held_by(tmp_path) == 'b'


def test_a_lease_that_somebody_deleted_comes_back(tmp_path):
    one = lease(tmp_path, 'a')
    one.take(locked=True)
    os.remove(tmp_path / leases.FILE)
    assert one.beat() and held_by(tmp_path) == 'a'
    one.release()
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_half_written_is_looked_at_as_that_of_another_host(tmp_path, capsys):
    (tmp_path / leases.FILE).write_bytes(b'')
    lease(tmp_path, 'a').take(locked=True)
    assert held_by(tmp_path) == 'a' and 'a launch on another host' in capsys.readouterr().out


def test_a_workdir_is_held_and_let_go(tmp_path, monkeypatch):
    workdir = tmp_path / 'run'
    with workdirs.locked(str(workdir)):
        assert held_by(workdir) == leases.host()
        with pytest.raises(UserError, match='another process is training'), workdirs.locked(str(workdir)):
            pass
        assert held_by(workdir) == leases.host()
    assert not list(workdir.iterdir())

    def refuse(*arguments):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(workdirs.fcntl, 'flock', refuse)
    monkeypatch.setattr(leases, 'BEAT_SECONDS', 0.02)
    monkeypatch.setattr(leases, '_LOOK_EVERY_SECONDS', 0.1)
    with workdirs.locked(str(workdir)):
        with pytest.raises(UserError, match='another process is training'), workdirs.locked(str(workdir)):
            pass
