"""What the files of a checkpoint were when it was written: size and checksum of each, in CHECKPOINTS/STEP.files.

Orbax commits a checkpoint atomically, but would read flipped bits as weights.
"""

from collections.abc import Callable
import functools
import json
import math
import os
from typing import Any
import zlib

from t5x_lite import remote


def _contents(folder: str) -> dict[str, tuple[int, Callable[[], Any]]]:
    """{name: (bytes, what gives a checksum)} of the files below a folder. A bucket keeps a checksum of each; those of a file system are read."""
    if remote.is_remote(folder):
        return {name: (info['size'], functools.partial(str, info['crc32c'])) for name, info in remote.files(folder).items()}
    found = sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {os.path.relpath(path, folder): (os.path.getsize(path), functools.partial(_crc32, path)) for path in found}


def _crc32(path: str) -> int:
    value = 0
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def path_of(folder: str, step: int) -> str:
    """Of the list."""
    return os.path.join(folder, f'{step}.files')


def write(folder: str, step: int) -> None:
    """Of a checkpoint that is whole."""
    listed = {name: [size, checksum()] for name, (size, checksum) in _contents(os.path.join(folder, str(step))).items()}
    if remote.is_remote(folder):
        remote.write(path_of(folder, step), json.dumps(listed).encode())
        return
    temporary = path_of(folder, step) + '.tmp'
    with open(temporary, 'w', encoding='utf-8') as file:
        json.dump(listed, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path_of(folder, step))


def damage(folder: str, step: int, most_bytes: float = math.inf) -> str:
    """What is wrong with the files of a checkpoint, in words; '' where nothing is, or where the run was killed before it could list them.

    Args:
      most_bytes: of larger files only the size is checked.
    """
    try:
        listed = json.loads(remote.read(path_of(folder, step)))
    except (FileNotFoundError, ValueError):
        return ''
    there = _contents(os.path.join(folder, str(step)))
    for name, (size, crc) in listed.items():
        if name not in there:
            return f'{name} is missing'
        found, checksum = there[name]
        if found != size:
            return f'{name} has {found} bytes where {size} were written'
        if size <= most_bytes and (sum_now := checksum()) != crc and type(sum_now) is type(crc):  # one that was copied from a bucket has the other kind
            return f'{name} does not hold what was written'
    return ''
