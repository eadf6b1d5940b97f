"""Weights in safetensors files, one or several with an index, as Hugging Face folders hold them. Numpy only; tensors are read one by one.

Format: https://github.com/huggingface/safetensors (8 bytes: the length of a JSON header; the header; the tensors' bytes, end to end).
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, without which safetensors cannot give it to numpy
import numpy as np
import safetensors
import safetensors.numpy

from t5x_lite.errors import UserError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
MAX_HEADER = 100_000_000  # bytes; the format's own limit
_FLOATS = ('F64', 'F32', 'F16', 'BF16')


class Weights(contextlib.ExitStack):
    """The tensors of a folder by name, read when asked for: `with open_weights(folder) as weights: weights.read(name)`."""

    def __init__(self, folder: str, files: Mapping[str, str]):
        super().__init__()
        self.folder = folder
        self._handles: dict[str, safetensors.safe_open] = {}
        self._files: dict[str, str] = {}  # tensor name -> file
        for path in dict.fromkeys(files.values()):
            try:
                _check_size(path)
                self._handles[path] = self.enter_context(safetensors.safe_open(path, framework='np'))
            except (safetensors.SafetensorError, OSError) as error:
                raise UserError(f'{path}: not a whole safetensors file that can be read ({error}); copy or download it again') from error
        for path, handle in self._handles.items():
            self._files.update({name: path for name in handle.keys()})
        for name, path in files.items():
            if name and self._files.get(name) != path:
                raise UserError(f'{path}: tensor {name} is missing, though the index places it there; copy or download the folder again')

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def file(self, name: str) -> str:
        return self._files[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors spells it: 'F32', 'BF16', 'I64', ..."""
        return str(self._slice(name).get_dtype())

    def read(self, name: str) -> np.ndarray:
        """The tensor in its stored precision (bfloat16 as ml_dtypes.bfloat16).

        Raises:
          UserError: it does not hold floating-point numbers.
        """
        if self.dtype(name) not in _FLOATS:
            raise UserError(
                f'{self.file(name)}: {name} holds {self.dtype(name)}; weights must be one of {", ".join(_FLOATS)}, not quantised'
            )
        return self._handles[self.file(name)].get_tensor(name)

    def _slice(self, name: str):
        return self._handles[self.file(name)].get_slice(name)


def open_weights(folder: str) -> Weights:
    """Opens model.safetensors, or the shards of model.safetensors.index.json, and checks that they are whole.

    Raises:
      UserError: naming the file that is absent, truncated or corrupt.
    """
    single, index = os.path.join(folder, SINGLE), os.path.join(folder, INDEX)
    if os.path.exists(single):
        return Weights(folder, {'': single})
    if not os.path.exists(index):
        pickled = [name for name in ('pytorch_model.bin', 'pytorch_model.bin.index.json') if os.path.exists(os.path.join(folder, name))]
        why = f'only {pickled[0]}, a pickle; load and save_pretrained it once with transformers' if pickled else 'is the download complete?'
        raise UserError(f'{folder}: no {SINGLE} or {INDEX}; {why}')
    try:
        with open(index, encoding='utf-8') as file:
            placed = json.load(file)['weight_map']
        files = {name: os.path.join(folder, shard) for name, shard in placed.items() if os.path.basename(shard) == shard}
        if not files or len(files) < len(placed):
            raise ValueError('its weight_map must name files beside it')
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f'{index}: not an index of shards ({error}); copy or download it again') from error
    for shard in dict.fromkeys(files.values()):
        if not os.path.exists(shard):
            raise UserError(f'{shard}: this shard, named in {INDEX}, does not exist; copy or download it again')
    return Weights(folder, files)


def _check_size(path: str) -> None:
    """The library checks sizes before it reads too, but says neither which file nor how much is missing."""
    size = os.path.getsize(path)
    again = 'copy or download it again'
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > MAX_HEADER:
            raise UserError(f'{path}: corrupt header: not a safetensors file (a Git LFS pointer?); {again}')
        if 8 + length > size:
            raise UserError(f'{path}: truncated: its header is {length:,} bytes long and the file only {size:,}; {again}')
        try:
            header = json.loads(file.read(length))
            end = max((entry['data_offsets'][1] for name, entry in header.items() if name != '__metadata__'), default=0)
            promised = 8 + length + int(end)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise UserError(f'{path}: corrupt header: {error}; {again}') from error
    if promised > size:
        raise UserError(f'{path}: truncated: its header promises {promised:,} bytes and the file has {size:,}; {again}')


def write(folder: str, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray], max_shard_bytes: int) -> None:
    """Writes float32 tensors in the order of `shapes`, in files of at most `max_shard_bytes` (a larger tensor has a file of its own).

    `read(name)` makes a tensor when its file is written, so that memory holds one file's worth beside the source.
    """
    shards, room = [[]], max_shard_bytes
    sizes = {name: 4 * int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    placed = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f'model-{number:05d}-of-{len(shards):05d}.safetensors'
        # safetensors writes the memory behind an array, whatever its strides: a transposed view would be saved untransposed.
        tensors = {name: np.ascontiguousarray(read(name), np.float32) for name in names}
        try:
            safetensors.numpy.save_file(tensors, os.path.join(folder, file), metadata={'format': 'pt'})
        except safetensors.SafetensorError as error:  # a full disk too
            raise OSError(str(error)) from error
        placed.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        index = {
            'metadata': {'total_parameters': sum(sizes.values()) // 4, 'total_size': sum(sizes.values())},
            'weight_map': dict(sorted(placed.items())),
        }
        with open(os.path.join(folder, INDEX), 'w', encoding='utf-8') as file:
            json.dump(index, file, indent=2)
            file.write('\n')
