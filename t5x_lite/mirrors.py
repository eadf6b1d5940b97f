"""What a run writes into a workdir in a bucket: its files stand in a folder of this machine, and are uploaded whole where they have changed.

    with mirrors.kept('gs://BUCKET/RUN'):                      uploads every 20 s, and at the end
        folder = mirrors.folder_of('gs://BUCKET/RUN')          what is there already has been copied to it: metrics.jsonl is appended to
        ...
        mirrors.upload('gs://BUCKET/RUN')                      before a checkpoint: a run that goes on from it finds every line up to it

A launch that is killed leaves there what was uploaded last; the next cuts off what came after the checkpoint that it goes on from, as in any workdir, so that
nothing is lost and nothing stands there twice. A workdir of a file system is its own folder, and none of this happens. (What other commands write:
t5x_lite/outgoing.py.)
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time

from t5x_lite import remote
from t5x_lite.errors import UserError

_EVERY_SECONDS, _SAID_SECONDS = 20.0, 30.0
_OWN = ('launch.json',)  # who trains there: a lease is no file to be copied (training/leases.py)
_PARTIAL = ('.tmp', '.partial', '.part')


class Mirror:
    """A folder of this machine whose files are to be those of a folder in a bucket.

    Args:
      path: the folder in the bucket.
      folder: here; '': a temporary one, to which the files that are there are copied.
    """

    def __init__(self, path: str, folder: str = ''):
        self.path, self._lock = path, threading.Lock()
        self.folder = folder or tempfile.mkdtemp(prefix='t5x_lite-')
        self._known: dict[str, tuple[int, int]] = {}  # what each file was when it was last the same there
        self._seen: dict[str, list[str]] = {}  # and what the bucket said of it
        if not folder:
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
            self.pull()

    def pull(self) -> None:
        """Brings the files of the workdir here, those in its folders left out, unless they were changed here."""
        with self._lock:
            for name, info in remote.files_in(self.path).items():
                here, seen = os.path.join(self.folder, name), remote.identity(info)
                changed = os.path.exists(here) and (name not in self._known or self._known[name] != _state(here))
                if name in _OWN or changed or name in self._seen and self._seen[name] == seen:
                    continue
                with open(here, 'wb') as file:
                    file.write(remote.read(f'{self.path}/{name}'))
                self._known[name], self._seen[name] = _state(here), seen

    def names(self) -> list[str]:
        """Of the files below the folder, those that are being written left out."""
        found = (os.path.relpath(os.path.join(parent, name), self.folder) for parent, _, names in os.walk(self.folder) for name in names)
        return sorted(name for name in found if not name.endswith(_PARTIAL))

    def is_there(self, name: str) -> None:
        """A file need not be uploaded while it stays as it is."""
        self._known[name] = _state(os.path.join(self.folder, name))

    def push(self, last: str = '', before_last: Callable[[], None] = lambda: None) -> None:
        """Uploads the files that have changed, whole, and removes there those that are gone here.

        Args:
          last: the name of the one that is uploaded after all others.
          before_last: called just before that.
        """
        with self._lock:
            here, said, done_bytes = self.names(), time.monotonic(), 0
            for name in sorted(here, key=lambda name: (name == last, name)):
                path = os.path.join(self.folder, name)
                if name == last:
                    before_last()
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    state = _state(path)
                    if name not in self._known or self._known[name] != state:
                        remote.upload(path, f'{self.path}/{name}')
                        self._known[name] = state
                        done_bytes += state[1]
                if time.monotonic() - said > _SAID_SECONDS:
                    said = time.monotonic()
                    print(f'{self.path}: {done_bytes / 1e9:,.2f} GB are uploaded, up to {name}', file=sys.stderr, flush=True)
            for name in self._known.keys() - set(here):
                with contextlib.suppress(FileNotFoundError):
                    remote.remove(f'{self.path}/{name}')
                del self._known[name]


def _state(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


_mirrors: dict[str, Mirror] = {}


def _of(workdir: str) -> Mirror:
    workdir = remote.absolute(workdir)
    if workdir not in _mirrors:
        _mirrors[workdir] = Mirror(workdir)
    return _mirrors[workdir]


def folder_of(workdir: str) -> str:
    """Where to write what is to be in a workdir, and to read what is."""
    return _of(workdir).folder if remote.is_remote(workdir) else workdir


def upload(workdir: str) -> None:
    """Uploads what has changed in `folder_of`.

    Raises:
      UserError: it could not be written there.
    """
    if remote.is_remote(workdir):
        _of(workdir).push()


def named(text: str) -> str:
    """A line with what it says of `folder_of` a workdir said of the workdir."""
    for mirror in _mirrors.values():
        text = text.replace(mirror.folder, mirror.path)
    return text


@contextlib.contextmanager
def kept(workdir: str) -> Iterator[None]:
    """Uploads what changes meanwhile, and what has changed at the end, however that comes; but not after a kill."""
    if not remote.is_remote(workdir):
        yield
        return
    mirror, over = _of(workdir), threading.Event()
    mirror.pull()  # as those left it who were waited for

    def uploads() -> None:
        said = ''
        while not over.wait(_EVERY_SECONDS):
            try:
                mirror.push()
            except (OSError, UserError) as error:  # the next time, or the next save, may be better off
                if said != str(error):
                    print(f'warning: {error}', flush=True)
                said = str(error)

    thread = threading.Thread(target=uploads, name='mirror', daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, UserError):  # what went wrong first is to be said
            mirror.push()
        raise
    else:
        mirror.push()
    finally:
        over.set()
        thread.join()
