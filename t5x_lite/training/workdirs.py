"""The folder of a run: whose it is, one process at a time, and what its disk refuses."""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import time
import uuid

from t5x_lite import remote
from t5x_lite.config import Config
from t5x_lite.config_values import differences, from_json, to_json
from t5x_lite.errors import UserError
from t5x_lite.training import checkpoint, leases, processes

_DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
)  # fmt: skip


@contextlib.contextmanager
def disk_errors(workdir: str):
    """A disk that is full, or a place that cannot be written, is no bug of ours: a line says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        mend = 'mend that (checkpoints are whole) and repeat the command, or give another --workdir'
        raise UserError(f'{error.filename or workdir}: {error.strerror}; {mend}') from error


@contextlib.contextmanager
def locked(workdir: str):
    """Two runs in one workdir would write over each other. The kernel lets go of the lock when the process ends, however it ends; a lease tells other hosts.

    Of the processes of one run the first holds both for all.
    """
    held, leased = [], []

    def take() -> None:
        folder = _lock_folder(workdir)
        os.makedirs(folder, exist_ok=True)
        held.append(os.open(folder, os.O_RDONLY))
        try:
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_lock = True
        except BlockingIOError as error:
            raise UserError(f'another process is training in {workdir}; wait until it has ended, or give another --workdir') from error
        except OSError:
            has_lock = False  # a file system without locks
        lease = leases.Lease(workdir, _here(workdir, held[0]))
        lease.take(has_lock)
        leased.append(lease)
        lease.keep()

    try:
        processes.by_first(take)
        yield
    finally:
        for lease in leased:
            lease.release()
        for folder in held:
            os.close(folder)


def _lock_folder(workdir: str) -> str:
    """The folder whose lock keeps other runs of this machine out: the workdir, where the kernel knows it."""
    if not remote.is_remote(workdir):
        return workdir
    return os.path.join(tempfile.gettempdir(), f't5x_lite-{hashlib.sha256(remote.absolute(workdir).encode()).hexdigest()[:24]}.lock')


def _here(workdir: str, folder: int) -> str:
    """This host, as a lease names it. For a workdir in a bucket, with the folder that is locked: only who locks the same one knows that its holder is gone."""
    if not remote.is_remote(workdir):
        return leases.host()
    locked = os.fstat(folder)
    return f'{leases.host()} {locked.st_dev:x}:{locked.st_ino:x}'


def check_workdir(workdir: str, config: Config) -> str:
    """What there is to say of a workdir that this run is to go to, or UserError where it holds another one."""
    path = os.path.join(workdir, 'config.json')
    if remote.exists(path):
        changed = differences(config, from_json(path))
        if changed and not checkpoint.holds_checkpoints(workdir):
            return f'{workdir} held a run that saved nothing; this one takes its place'
        if changed:
            more = [f'and {len(changed) - 10} more fields'] if len(changed) > 10 else []
            raise UserError(f'{workdir} holds another run; it differs in {"; ".join(changed[:10] + more)}. Give another --workdir, or the same fields')
    elif remote.is_dir(os.path.join(workdir, checkpoint.FOLDER)):
        raise UserError(f'{workdir} has checkpoints but no config.json; give another --workdir')
    return ''


def claim(workdir: str, config: Config) -> None:
    """Writes config.json into a new workdir, or checks it in one that holds this run.

    Raises:
      UserError: it holds another run, or the processes of this one do not all see the same folder.
    """
    processes.by_first(lambda: _write(workdir, config))
    if processes.several():
        _check_shared(workdir)


def _check_shared(workdir: str, patience_seconds: float = 60.0) -> None:
    """A checkpoint of several processes lies in one folder: on disks of their own each would write its part where the others do not find it."""
    path = os.path.join(workdir, processes.by_first(lambda: f'.launch-{uuid.uuid4().hex}'))
    processes.by_first(lambda: remote.create(path, b''))
    until = time.monotonic() + patience_seconds  # network file systems remember for a while what was not there
    while not (seen := remote.exists(path)) and time.monotonic() < until:
        time.sleep(0.2)
    problem = '' if seen else f'{workdir} is not the folder that process 0 writes to; give a --workdir on a file system that all hosts share'
    try:
        processes.all_well(problem)
    finally:
        if processes.is_first():
            remote.remove(path)


def _write(workdir: str, config: Config) -> None:
    if said := check_workdir(workdir, config):
        print(said)
    path = os.path.join(workdir, 'config.json')
    remote.write(path, f'{to_json(config)}\n'.encode())
