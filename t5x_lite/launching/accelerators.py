"""TPUs as Google Cloud names them: sizes, hosts, and the software that they start with. (Standard library only.)

An accelerator type counts cores up to v5p (v4-8 is 4 chips), and chips from v5e on: https://cloud.google.com/tpu/docs/supported-tpu-configurations.
"""

import dataclasses
import math
import re

from t5x_lite.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation of TPUs.

    Attributes:
      prefix: of accelerator types, 'v5litepod' of v5litepod-16.
      per_chip: what the number in an accelerator type counts of each chip.
      sizes: numbers that exist, for those that are lists; () where topologies are three-dimensional.
      most: the largest number.
      chips_per_host: of slices of several hosts.
      gke: value of the node label cloud.google.com/gke-tpu-accelerator.
    """

    prefix: str
    per_chip: int
    sizes: tuple[int, ...]
    most: int
    chips_per_host: int
    runtime: str
    gke: str
    dimensions: int


# Software versions: https://cloud.google.com/tpu/docs/runtimes. GKE: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
GENERATIONS = {
    'v4': Generation('v4', 2, (), 8192, 4, 'tpu-ubuntu2204-base', 'tpu-v4-podslice', 3),
    'v5e': Generation('v5litepod', 1, (1, 4, 8, 16, 32, 64, 128, 256), 256, 4, 'v2-alpha-tpuv5-lite', 'tpu-v5-lite-podslice', 2),
    'v5p': Generation('v5p', 2, (), 12288, 4, 'v2-alpha-tpuv5', 'tpu-v5p-slice', 3),
    'v6e': Generation('v6e', 1, (1, 4, 8, 16, 32, 64, 128, 256), 256, 4, 'v2-alpha-tpuv6e', 'tpu-v6e-slice', 2),
}


# Topologies that are less than a cube of 4x4x4, of which larger ones are made; and the flat ones.
_PARTS = ('2x2x1', '2x2x2', '2x2x4', '2x4x4')
_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBE = 64  # chips


def of_type(accelerator: str) -> Generation:
    """The generation of an accelerator type such as v5p-128.

    Raises:
      UserError: there is none of that name or size.
    """
    prefix, dash, size = accelerator.rpartition('-')
    by_prefix = {generation.prefix: generation for generation in GENERATIONS.values()}
    if not dash or prefix not in by_prefix:
        also = ' (v5e is called v5litepod there)' if accelerator.startswith('v5e') else ''
        raise UserError(f'--type={accelerator}: no such accelerator type{also}, {nearest(prefix or accelerator, by_prefix)}; a type is v5p-128')
    found = by_prefix[prefix]
    number = int(size) if size.isdigit() else 0
    parts = found.sizes or tuple(found.per_chip * _chips(part) for part in _PARTS)
    cubes = () if found.sizes else range(found.per_chip * _CUBE, found.most + 1, found.per_chip * _CUBE)
    if number not in parts and number not in cubes:
        there = ', '.join(f'{prefix}-{size}' for size in parts) + (f', and multiples of {prefix}-{cubes[0]} up to {prefix}-{cubes[-1]}' if cubes else '')
        raise UserError(f'--type={accelerator}: no {prefix} of that size; there are {there}')
    return found


def _chips(shape: str) -> int:
    return math.prod(map(int, shape.split('x')))


def of_topology(topology: str) -> tuple[Generation, str, int]:
    """(generation, shape, chips) of a topology such as v5p:4x4x8, as `t5x_lite.plan` takes them.

    Raises:
      UserError: it is none.
    """
    name, colon, shape = topology.partition(':')
    if name not in GENERATIONS or not colon:
        raise UserError(f'--topology={topology}: expected GENERATION:SHAPE such as v5p:4x4x8 or v6e:16x16; {nearest(name, GENERATIONS)}')
    found = GENERATIONS[name]
    if not re.fullmatch('x'.join([r'[1-9]\d*'] * found.dimensions), shape):
        raise UserError(f'--topology={topology}: the shape of a {name} has {found.dimensions} numbers, as in {name}:{"x".join(["4"] * found.dimensions)}')
    chips = _chips(shape)
    if chips * found.per_chip > found.most:
        raise UserError(f'--topology={topology}: {chips:,} chips; the largest {name} has {found.most // found.per_chip:,}')
    sides = tuple(map(int, shape.split('x')))
    known = _FLAT if found.dimensions == 2 else _PARTS
    cubes = found.dimensions == 3 and sides == tuple(sorted(sides)) and not any(side % 4 for side in sides)
    if shape not in known and not cubes:
        more = ', and multiples of 4 in ascending order, such as 4x8x12' if found.dimensions == 3 else ''
        raise UserError(f'--topology={topology}: no {name} of that shape; there are {", ".join(known)}{more}')
    return found, shape, chips
