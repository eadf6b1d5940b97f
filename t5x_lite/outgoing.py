"""What a command writes to gs://: it is made on this machine and uploaded whole, the file that makes it a result last.

    with outgoing.to('gs://BUCKET/data/mine', 'manifest.json', new=True) as folder:     a folder below remote.cache(), which is empty
        ...                                                                             what is written there is uploaded at the end

A folder without its last file is no result to anybody. While it is being made, FOLDER/unfinished-upload.json says so, and names what an upload has begun to put
there: the next command for that place replaces these files, and nothing else. Made before all work, that file also shows that the bucket can be written to. An
upload that fails leaves on this machine what was made. A place of a file system is given as it stands, and none of this happens.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import json
import os
import posixpath
import shutil
import sys
from typing import Any
import uuid

from t5x_lite import mirrors, remote
from t5x_lite.errors import UserError

MARK = 'unfinished-upload.json'
_SAID_BYTES = 64 << 20


@contextlib.contextmanager
def to(output: str, last: str = '', *, new: bool = False, goes_on: bool = False) -> Iterator[str]:
    """Where to write what is to stand at `output` when the block has ended without an error.

    Args:
      output: a folder; without `last`, a file.
      last: the file of the folder that is uploaded after all others.
      new: the folder must not exist, or be empty, or hold nothing but what an upload that broke has left.
      goes_on: likewise; and what the block had made before an error or a kill is there again the next time. Where the bucket has `last`, the block finds a copy
        of it and is to end without writing: nothing is uploaded.

    Raises:
      UserError: the bucket cannot be written to, the folder is not empty, or another command writes there: before the block. The upload failed: after it.
    """
    if not remote.is_remote(output):
        yield output
        return
    output = remote.absolute(output)
    if not posixpath.dirname(output.removeprefix(remote.SCHEME)):
        raise UserError(f'--output={output}: names a whole bucket; expected {output}/FOLDER')
    holder = os.path.join(remote.cache(), f'outgoing-{hashlib.sha256(output.encode()).hexdigest()[:24]}')
    made = os.path.join(holder, posixpath.basename(output))
    with _only_one(f'{holder}.lock', output):
        whole = goes_on and remote.exists(f'{output}/{last}')
        if whole or not goes_on:
            shutil.rmtree(holder, ignore_errors=True)
        os.makedirs(made if last else holder, exist_ok=True)
        if whole:
            path = os.path.join(made, last)
            with open(path, 'wb') as file:
                file.write(remote.read(f'{output}/{last}'))
            os.utime(path, (0, 0))  # older than all input, so that who goes by times compares contents
            try:
                yield made
            except UserError as error:
                raise UserError(str(error).replace(made, output)) from error
            finally:
                shutil.rmtree(holder)
            with contextlib.suppress(FileNotFoundError, UserError):  # of an upload that was killed at its very end
                remote.remove(f'{output}/{MARK}')
            return
        upload = _Upload(output, made, last, holder, owned=new or goes_on)
        upload.claim()
        if goes_on:
            _say(f'{output}: made in {made}, and uploaded when it is whole')
        try:
            yield made
        except BaseException:
            upload.withdraw()
            if not goes_on:
                shutil.rmtree(holder, ignore_errors=True)
            raise
        upload.send()
        shutil.rmtree(holder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _only_one(path: str, output: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'--output={output}: another command of this machine is writing there; wait for it, or name another place') from error
        yield


class _Upload:
    """From `made` to `output`.

    Args:
      owned: nothing else may be in the folder.
    """

    def __init__(self, output: str, made: str, last: str, holder: str, owned: bool):
        self._output, self._made, self._last, self._owned = output, made, last, owned
        self._mark = f'{output}/{MARK}' if last else f'{output}.{MARK}'
        self._left: dict[str, int] = {}  # bytes of what an earlier upload has put there
        self._ours = False  # these are files of `made`, as they are
        path = os.path.join(holder, MARK)  # who this is, as long as `made` is kept
        if not os.path.exists(path):
            remote.write(path, uuid.uuid4().hex.encode())
        self._name = remote.read(path).decode()

    def claim(self) -> None:
        """Before all work: the place is free, and can be written to."""
        earlier = self._read()
        if not self._last:
            if remote.is_dir(self._output):
                raise UserError(f'--output={self._output}: is a folder; name a file')
        elif remote.exists(self._output) and not remote.is_dir(self._output):
            raise UserError(f'--output={self._output}: is a file; name a folder')
        if self._owned:
            there = {name: info['size'] for name, info in remote.files(self._output).items() if name != MARK}
            self._left = {name: size for name, size in there.items() if name in earlier['files']}
            if there.keys() - self._left.keys():
                raise UserError(f'--output={self._output}: exists and is not empty; choose another folder')
            self._ours = earlier['by'] == self._name
        try:
            for _ in range(1 if earlier['by'] else 2):  # whoever may only add files cannot write over one
                self._write(earlier['files'])
        except UserError as error:
            reason = remote.brief(error.__cause__ or error)
            mend = 'give the account of this machine the role Storage Object User on the bucket, or name another'
            raise UserError(f'--output={self._output}: the bucket cannot be written to ({reason}); {mend}') from error

    def withdraw(self) -> None:
        """Nothing comes. What an earlier upload has left still needs its mark."""
        with contextlib.suppress(UserError, FileNotFoundError):
            if not self._left and self._read()['by'] == self._name:
                remote.remove(self._mark)

    def send(self) -> None:
        """Uploads what was made.

        Raises:
          UserError: it failed; what was made stays where it is.
        """
        try:
            if self._last:
                self._send_folder()
            else:
                remote.upload(self._made, self._output)
            with contextlib.suppress(FileNotFoundError):
                remote.remove(self._mark)
        except (OSError, UserError) as error:
            reason = remote.brief(error.__cause__ or error if isinstance(error, UserError) else error)
            mend = f'it is whole in {self._made}: repeat the command, or copy it from there (gcloud storage cp -r)'
            raise UserError(f'--output={self._output}: the upload failed ({reason}); {mend}') from error

    def _send_folder(self) -> None:
        mirror = mirrors.Mirror(self._output, self._made)
        sizes = {name: os.path.getsize(os.path.join(self._made, name)) for name in mirror.names()}
        self._write([*sizes, *(name for name in self._left if name not in sizes)])
        if self._last in self._left:  # what is there is no result while it changes
            remote.remove(f'{self._output}/{self._last}')
            del self._left[self._last]
        if (total := sum(sizes.values())) >= _SAID_BYTES:
            _say(f'{self._output}: uploading {total / 1e9:,.2f} GB')
        if self._ours:
            for name in sizes.keys() & self._left.keys():
                if sizes[name] == self._left[name]:
                    mirror.is_there(name)

        def is_whole() -> None:
            if not self._owned:
                return
            for name in self._left.keys() - sizes.keys():
                remote.remove(f'{self._output}/{name}')
            there = remote.files(self._output)
            for name, size in sizes.items():
                if name != self._last and (name not in there or there[name]['size'] != size):
                    raise UserError(f'{name} did not arrive whole')
            if self._read()['by'] != self._name:
                raise UserError('another command is writing there too')

        mirror.push(self._last, is_whole)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(remote.read(self._mark))
            return {'by': str(found['by']), 'files': list(found['files'])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {'by': '', 'files': []}

    def _write(self, files: list[str]) -> None:
        remote.write(self._mark, json.dumps({'by': self._name, 'files': files}).encode())
