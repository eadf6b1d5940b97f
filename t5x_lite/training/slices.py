"""Which devices of a run lie close together, and the order in which a mesh takes them: one of its axes goes from slice to slice, all others stay within one.

A slice is a set of TPU chips linked to each other, or the GPUs of a host (or of several that share NVLink). Between slices there is the data-centre network,
an order of magnitude slower. Devices say which slice they are of (`slice_index`); those that do not, a CPU's, are made into as many as the config says.
"""

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

from jax.experimental import mesh_utils
import numpy as np

from t5x_lite.config import MeshConfig
from t5x_lite.errors import UserError

_FLAT = ('TPU v5 lite', 'TPU v5e')  # whose torus has two sides, of which an axis may take parts


def apart(config: MeshConfig, devices: Sequence[Any]) -> list[list[Any]]:
    """The devices of each slice, in the order of `slice_index`.

    Raises:
      UserError: config.mesh.slices is not what the devices say, or does not divide them; slices of different sizes.
    """
    said = [_slice_of(device) for device in devices]
    if None in said:
        count = max(config.slices, 1)
        if len(devices) % count:
            raise UserError(f'config.mesh.slices={count} does not divide {len(devices)} devices; choose a number that does, or leave it at -1')
        return [list(devices[start : start + len(devices) // count]) for start in range(0, len(devices), len(devices) // count)]
    found = [[device for device, number in zip(devices, said, strict=True) if number == one] for one in sorted(set(said))]
    if config.slices not in (-1, len(found)):
        there = f'the {len(devices)} devices say that they are of {len(found)}'
        raise UserError(f'config.mesh.slices={config.slices}, but {there}; leave it at -1, which takes what is there')
    if len({len(part) for part in found}) > 1:
        raise UserError(f'the slices of this run have {", ".join(str(len(part)) for part in found)} devices; a mesh needs as many of each')
    return found


def _slice_of(device: Any) -> int | None:
    """None where a device does not say."""
    if hasattr(device, 'slice_index'):
        return device.slice_index
    return 0 if device.platform == 'tpu' else None  # chips of a single slice need not


def within(sizes: Mapping[str, int], slices: int, along: str) -> dict[str, int]:
    """Sizes of the axes of a mesh inside one slice.

    Raises:
      UserError: the axis that goes across slices does not divide by their number.
    """
    if sizes[along] % slices:
        others = [axis for axis, size in sizes.items() if size % slices == 0]
        mend = f'--config.mesh.slices_along={others[0]} sends that one across' if others else f'one axis must be a multiple of {slices}'
        raise UserError(f'config.mesh.{along}={sizes[along]} goes across {slices} slices, which do not divide it; {mend}')
    return {axis: size // slices if axis == along else size for axis, size in sizes.items()}


def order(sizes: Mapping[str, int], parts: Sequence[Sequence[Any]], along: str) -> np.ndarray:
    """Devices in the places of a mesh [*sizes]: along the axis that goes across slices those of the first slice, then those of the second.

    (The order of `jax.experimental.mesh_utils.create_hybrid_device_mesh`, also for devices that do not say which slice they are of; but `_blocks` on a v5e.)

    Args:
      parts: devices of each slice, as `apart` gives.

    Raises:
      UserError: as `within`.
      NotImplementedError: a torus whose sides the axes would cut through.
    """
    inner = tuple(within(sizes, len(parts), along).values())
    blocks = [_blocks(inner, part) for part in parts]
    return np.concatenate(blocks, axis=list(sizes).index(along))


def _blocks(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Devices of one slice in the places of a mesh.

    On a v5e an axis takes a block, the later axes the squarer ones: 16 chips are 4 x 4, row by row, where those of `mesh_utils` lie in a ring (in 4:4), in
    two columns (8:8) or in one row (16:16), and a message between two of them passes more links (models/point_to_point.py).
    """
    if devices[0].device_kind not in _FLAT:
        return mesh_utils.create_device_mesh(sizes, devices)
    grid = {tuple(device.coords[:2]): device for device in devices}
    origin, last = np.min(list(grid), axis=0), np.max(list(grid), axis=0)
    shape = (last - origin + 1).tolist()
    splits = [cut for cut in itertools.product(*map(_cuts, sizes)) if [math.prod(column) for column in zip(*cut, strict=True)] == shape]
    if len(grid) != len(devices) or math.prod(shape) != len(devices) or not splits:  # cores, or no rectangle, or sides that do not divide so
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    cut = min(splits, key=lambda cut: [(max(one) // min(one), one[0] > one[1]) for one in reversed(cut)])
    placed = np.empty(shape, object)
    for place, device in grid.items():
        placed[tuple(place - origin)] = device
    count = len(sizes)
    order = [number for axis in range(count) for number in (axis, count + axis)]
    return placed.reshape([one[0] for one in cut] + [one[1] for one in cut]).transpose(order).reshape(sizes)


def _cuts(size: int) -> list[tuple[int, int]]:
    """All a x b that are so many."""
    return [(rows, size // rows) for rows in range(1, size + 1) if size % rows == 0]
