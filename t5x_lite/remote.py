"""Paths in a bucket: gs://BUCKET/... wherever a command takes the folder of a run, data or weights. (extra `gcs`)

What a bucket holds is written whole: it cannot be appended to, renamed at once, or mapped into memory. So

    what is read       is copied to a folder of this machine that is named by what it holds (`local`): below $T5X_LITE_CACHE, or ~/.cache/t5x_lite/buckets
    what a run writes  into its workdir goes to a folder of this machine, whose files are uploaded whole (t5x_lite/mirrors.py)
    what others write  is made on this machine, and uploaded when it is whole (t5x_lite/outgoing.py)
    a checkpoint       is written and read in its place, by Orbax and TensorStore
    a lease            is made by `create`, which the bucket grants to one of those who ask at once (ifGenerationMatch=0)

Every function takes paths of the file system too, and does with them what `os` does. (fsspec; etils.epath, which Orbax uses, is built on it too)
"""

from collections.abc import Iterator
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import posixpath
import shutil
import sys
import time
from typing import Any

from t5x_lite.errors import UserError

SCHEME = 'gs://'
_SAID_BYTES, _SAID_SECONDS, _TOGETHER = 64 << 20, 30.0, 16
_copies: dict[str, str] = {}  # {a copy here: what it is of}


def is_remote(path: str) -> bool:
    return os.fspath(path).startswith(SCHEME)


def absolute(path: str) -> str:
    """`os.path.abspath`; of a path in a bucket, without doubled and last slashes."""
    return SCHEME + posixpath.normpath(path.removeprefix(SCHEME).lstrip('/')) if is_remote(path) else os.path.abspath(path)


def cache() -> str:
    """Where copies of what lies in buckets are kept; it may be deleted whenever nothing runs."""
    return os.path.abspath(os.path.expanduser(os.environ.get('T5X_LITE_CACHE') or os.path.join('~', '.cache', 't5x_lite', 'buckets')))


@functools.cache
def _opened(bucket: str) -> Any:
    """The file system of a bucket that can be reached."""
    import fsspec

    os.environ.setdefault('EPATH_USE_TF', '0')  # where TensorFlow happens to be installed, epath would take its own way to the bucket
    for protocol in ('gs', 'gcs'):  # others change what a listing said
        fsspec.config.conf.setdefault(protocol, {})['use_listings_cache'] = False
    try:
        system = fsspec.filesystem('gs')
    except ImportError as error:
        raise UserError(f"{SCHEME}{bucket}: paths in a bucket need the extra gcs; pip install '.[gcs]'") from error
    except Exception as error:
        raise _no_credentials(bucket, error) from error
    try:
        system.info(bucket)
    except FileNotFoundError as error:
        raise UserError(f'{SCHEME}{bucket}: there is no such bucket; mend its name, or make it: gcloud storage buckets create {SCHEME}{bucket}') from error
    except Exception as error:
        raise _no_credentials(bucket, error) from error
    return system


def _no_credentials(bucket: str, error: Exception) -> UserError:
    mend = 'log in (gcloud auth application-default login), or give the service account of this machine the role Storage Admin on the bucket'
    return UserError(f'{SCHEME}{bucket}: the bucket cannot be reached with the credentials of this machine ({brief(error)}); {mend}')


def brief(error: BaseException) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:150]} ... {text[-150:]}'


@contextlib.contextmanager
def _at(path: str) -> Iterator[Any]:
    """The file system of a path in a bucket. What its libraries raise, and they raise anything, is one line."""
    bucket = path.removeprefix(SCHEME).partition('/')[0]
    if not bucket:
        raise UserError(f'{path}: names no bucket; expected gs://BUCKET/FOLDER')
    system = _opened(bucket)
    try:
        yield system
    except (FileNotFoundError, FileExistsError, UserError):
        raise
    except Exception as error:
        raise UserError(f'{path}: {brief(error)}; mend that and repeat the command') from error


def check(path: str) -> None:
    """Raises UserError where the extra is missing, or the bucket of a path, or the permission to use it."""
    with _at(path):
        pass


def _info(path: str) -> dict[str, Any] | None:
    with _at(path) as system:
        try:
            return system.info(path.rstrip('/'))
        except FileNotFoundError:
            return None


def exists(path: str) -> bool:
    return _info(path) is not None if is_remote(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
    if not is_remote(path):
        return os.path.isdir(path)
    return (found := _info(path)) is not None and found['type'] == 'directory'


def files_in(folder: str) -> dict[str, dict[str, Any]]:
    """{name: what the bucket says of it} of the files of a remote folder, those in folders in it left out."""
    return {name: each for name, each in _in(folder).items() if each['type'] == 'file'}


def names(folder: str) -> list[str]:
    """Of the files and folders in a folder; [] where there is none."""
    return list(_in(folder)) if is_remote(folder) else os.listdir(folder) if os.path.isdir(folder) else []


def _in(folder: str) -> dict[str, dict[str, Any]]:
    """What is in a remote folder, by name. Some tools put an object that is named as the folder into it."""
    with _at(folder) as system:
        try:
            listed = system.ls(folder.rstrip('/'), detail=True)
        except FileNotFoundError:
            return {}
    own = folder.removeprefix(SCHEME).rstrip('/')
    named = {each['name'].rstrip('/'): each for each in listed if each['name'].rstrip('/') != own}
    return {posixpath.basename(name): each for name, each in sorted(named.items())}


def files(folder: str) -> dict[str, dict[str, Any]]:
    """{path relative to the folder: what the bucket says of it: size, crc32c, generation} of all files below a remote folder."""
    with _at(folder) as system:
        try:
            found = system.find(folder, detail=True)
        except FileNotFoundError:
            return {}
    own = folder.removeprefix(SCHEME).rstrip('/') + '/'
    return {name.removeprefix(own): info for name, info in sorted(found.items()) if name.startswith(own) and not name.endswith('/')}


def identity(info: dict[str, Any]) -> list[str]:
    """What tells a file from another that has its name."""
    return [str(info[key]) for key in ('size', 'crc32c', 'generation') if key in info]


def read(path: str) -> bytes:
    """Raises FileNotFoundError."""
    if is_remote(path):
        with _at(path) as system:
            return system.cat_file(path)
    with open(path, 'rb') as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """At once and wholly, or not at all."""
    if is_remote(path):
        with _at(path) as system:
            system.pipe_file(path, data)
        return
    temporary = path + '.tmp'
    with open(temporary, 'wb') as file:
        file.write(data)
    os.replace(temporary, path)


def create(path: str, data: bytes) -> None:
    """Raises FileExistsError where there is one; of several that ask at once, one makes it."""
    if is_remote(path):
        with _at(path) as system:
            system.pipe_file(path, data, mode='create')
        return
    with open(path, 'xb') as file:
        file.write(data)


def overwrite(path: str, data: bytes) -> None:
    """Of a file whose length stays: on a file system in its place, so that a kill leaves no empty one."""
    if is_remote(path):
        return write(path, data)
    with open(path, 'r+b') as file:
        file.write(data)


def upload(source: str, path: str) -> None:
    with _at(path) as system:
        system.put_file(source, path)


def remove(path: str) -> None:
    """Raises FileNotFoundError."""
    if is_remote(path):
        with _at(path) as system:
            system.rm_file(path)
    else:
        os.remove(path)


def remove_tree(folder: str) -> None:
    if is_remote(folder):
        with _at(folder) as system:
            system.rm(folder, recursive=True)
    else:
        shutil.rmtree(folder)


def move(path: str, target: str) -> None:
    """Of a file or a folder; in a bucket each file is copied (there, not through this machine) before the first is removed."""
    if not is_remote(path):
        os.replace(path, target)
        return
    with _at(path) as system:
        system.copy(path, target, recursive=is_dir(path))
    (remove_tree if is_dir(path) else remove)(path)


def local(path: str, *inner: str) -> str:
    """A copy on this machine of a remote file, or of the files of a remote folder. Any other path, and one where nothing is, as it stands.

    A copy is named by what it holds, and made once for all processes of a machine.

    Args:
      inner: folders in the folder whose files are copied too; others are left out.
    """
    if not is_remote(path):
        return path
    path = absolute(path)
    if (info := _info(path)) is None:
        return path
    found = files_in(path) if info['type'] == 'directory' else {'': info}
    for folder in inner:
        found |= {f'{folder}/{name}': each for name, each in files_in(f'{path}/{folder}').items()}
    described = json.dumps([path, [(name, identity(each)) for name, each in found.items()]])
    holder = os.path.join(cache(), hashlib.sha256(described.encode()).hexdigest()[:24])
    copy = os.path.join(holder, posixpath.basename(path))
    os.makedirs(cache(), exist_ok=True)
    if not os.path.exists(holder):
        with open(f'{holder}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(holder):
                _copy(path, found, f'{holder}.part', holder)
    _copies[copy] = path
    return copy


def _copy(path: str, found: dict[str, dict[str, Any]], part: str, holder: str) -> None:
    """Copies files of a path, '' for itself, to a folder that gets its name when it is whole."""
    shutil.rmtree(part, ignore_errors=True)
    target = os.path.join(part, posixpath.basename(path))
    os.makedirs(part if '' in found else target)
    for name in found:
        os.makedirs(os.path.dirname(os.path.join(target, name).rstrip('/')), exist_ok=True)
    total, done, said = sum(each['size'] for each in found.values()), 0, time.monotonic()
    if total >= _SAID_BYTES:
        _say(f'{path}: copying {total / 1e9:,.2f} GB to {holder}')
    listed = list(found.items())
    for first in range(0, len(listed), _TOGETHER):
        some = listed[first : first + _TOGETHER]
        pairs = [(f'{path}/{name}'.rstrip('/'), os.path.join(target, name).rstrip('/')) for name, _ in some]
        with _at(path) as system:
            system.get([source for source, _ in pairs], [copied for _, copied in pairs])
        for (_, each), (source, copied) in zip(some, pairs):
            if os.path.getsize(copied) != each['size']:
                raise UserError(f'{source}: {os.path.getsize(copied):,} bytes came of {each["size"]:,}; it was changed meanwhile: repeat the command')
            done += each['size']
        if time.monotonic() - said > _SAID_SECONDS:
            said = time.monotonic()
            _say(f'{path}: {done / 1e9:,.2f} of {total / 1e9:,.2f} GB are here')
    os.replace(part, holder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # standard output may be read by a program


def named(text: str) -> str:
    """A message with what it calls by the name of a copy called by its own."""
    for copy, path in sorted(_copies.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(copy, path)
    return text
