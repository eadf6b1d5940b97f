"""Who trains in a workdir, told to launches on other hosts: a lock of the kernel (workdirs.py) may not be seen there, as on a mounted bucket or some NFS.

    workdir/launch.json    {"launch": ID, "host": NAME, "beat": 17}, written every 15 s by the launch that trains there, and removed at its end

A launch that finds the lease of another host looks at it for 90 s, which is longer than such file systems remember what they read. If it changes, somebody
trains; if not, its launch was killed. Time is counted by the looker's own monotonic clock: that of another host, or of the file system, may say anything.

In a bucket a lease is made only where there is none, which is a precondition that the bucket checks. A beat is written, and a dead lease removed, without one:
a launch that stood still, and was taken over, may write over the other's lease if it wakes between reading and writing, and the other's next beat then ends it.
"""

from collections.abc import Callable
import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid

from t5x_lite import remote
from t5x_lite.errors import UserError

FILE = 'launch.json'
BEAT_SECONDS, LOOK_SECONDS = 15.0, 90.0
_LOOK_EVERY_SECONDS = 1.0
_LENGTH = 400


def host() -> str:
    """Of this machine or container, until it is started again."""
    try:
        with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as file:
            return f'{socket.gethostname()} {file.read().strip()}'
    except OSError:
        return socket.gethostname()


def _end(workdir: str, other: str) -> None:
    print(f'error: a launch on {other} has taken over {workdir}, as this one did not move for {LOOK_SECONDS:.0f} s; this one ends', file=sys.stderr, flush=True)
    os._exit(2)


class Lease:
    """That of this launch.

    Args:
      here: this host.
      lost: called, by another thread, with the workdir and the host that has taken it over.
    """

    def __init__(
        self, workdir: str, here: str | None = None, *, sleep: Callable[[float], None] = time.sleep, monotonic: Callable[[], float] = time.monotonic,
        lost: Callable[[str, str], None] = _end,
    ):  # fmt: skip
        self._workdir, self._path, self._host = workdir, os.path.join(workdir, FILE), here or host()
        self._sleep, self._monotonic, self._lost = sleep, monotonic, lost
        self._launch, self._beats = uuid.uuid4().hex, 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, locked: bool) -> None:
        """
        Args:
          locked: the kernel has given its lock: nobody on this host trains here, whatever a lease says.

        Raises:
          UserError: another launch trains here.
        """
        while (found := self._read()) is not None:
            if not (locked and _host_in(found) == self._host):
                self._look(found)
            if self._read() in (found, None):
                self._remove()
        try:
            self._create()
        except FileExistsError as error:
            found = self._read()
            if self._launch.encode() not in (found or b''):  # a library that asks again when no answer came finds its own
                raise self._refused(found) from error

    def beat(self) -> bool:
        """Shows that this launch is alive. False: another has taken over."""
        self._beats += 1
        with contextlib.suppress(OSError, UserError):  # what cannot be read or written now may be the next time
            found = self._read()
            if found is None:
                self._create()
            elif self._launch.encode() not in found:
                return False
            else:
                remote.overwrite(self._path, self._text())
        return True

    def keep(self) -> None:
        """Beats from now on, in a thread of its own."""

        def beats() -> None:
            while not self._over.wait(BEAT_SECONDS):
                if not self.beat():
                    self._lost(self._workdir, _host_in(self._read()))
                    return

        self._thread = threading.Thread(target=beats, name='lease', daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._launch.encode() in (self._read() or b''):
            self._remove()

    def _look(self, found: bytes) -> None:
        print(f'{self._workdir}: looking for {LOOK_SECONDS:.0f} s whether a launch on {_host_in(found)} still trains here', flush=True)
        until = self._monotonic() + LOOK_SECONDS
        while self._monotonic() < until:
            self._sleep(_LOOK_EVERY_SECONDS)
            if (now := self._read()) is None:
                return  # it has ended
            if now != found:
                raise self._refused(now)

    def _refused(self, found: bytes | None) -> UserError:
        return UserError(f'another process is training in {self._workdir}, on {_host_in(found)}; wait until it has ended, or give another --workdir')

    def _read(self) -> bytes | None:
        try:
            return remote.read(self._path)
        except FileNotFoundError:
            return None

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            remote.remove(self._path)

    def _create(self) -> None:
        remote.create(self._path, self._text())

    def _text(self) -> bytes:
        """Always of one length: it is written over without being cut first, so that a kill leaves no empty one."""
        return json.dumps({'launch': self._launch, 'host': self._host, 'beat': self._beats}).ljust(_LENGTH).encode()


def _host_in(found: bytes | None) -> str:
    try:
        return str(json.loads(found or b'')['host'])
    except (ValueError, KeyError, TypeError):
        return 'another host'
