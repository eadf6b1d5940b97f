"""The machines that a run can be planned for: `v5p:4x4x4`, `cpu:8`, `gpu:8xH100`, and what their makers publish of each chip.

None of them need be there. For TPUs libtpu's compiler describes the devices and compiles for them; for `cpu` XLA makes as many devices of this machine's
processor as asked for; for `gpu` nothing can be compiled without one, and a plan is made of the lowered program and of formulas.
"""

import collections
from collections.abc import Sequence
import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
import tempfile

import jax
import numpy as np

from t5x_lite.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip, in bytes, FLOP/s and bytes/s; 0 where none are known.

    Attributes:
      hbm: main memory that programs may use.
      peak: dense bf16.
      bandwidth: of main memory.
      link: of one link to a neighbour, one way; of a GPU all of its links together, one way.
      dimensions: of the torus (0: every chip reaches every other through a switch).
      clock: of a core, in Hz; 0 where it is not known.
      network: to other slices (GPUs: hosts), one way, of one chip's share of its host's.
      around: the shortest side of a slice whose two ends are linked.
      source: who says so.
    """

    name: str
    hbm: float
    peak: float
    bandwidth: float
    link: float
    dimensions: int
    around: int
    clock: float
    network: float
    source: str


# Chips count, not cores: v4 and v5p have two, which run as one device. The bandwidth of a link is what is published for a chip in both directions, over
# twice its links: v5p 1,200 GB/s and 6, v5e 400 and 4, v6e 800 and 4; for v4 the paper says 50 GB/s.
# Clocks of v5e and v5p follow from their peaks and their units for products: 4 a core, of 128 x 128, two FLOPs a cycle each.
# The data-centre network: v5p 50 Gbit/s a chip; v5e and v6e 6.4 and 25.6 Tbit/s a pod of 256 (2 x 100 and 4 x 200 Gbit/s a host of 8); none is published of
# v4. GPUs: an adapter of 200 (A100) or 400 Gbit/s each, as in NVIDIA's DGX; assumed, not looked up.
_CLOUD = 'cloud.google.com/tpu/docs'
_NVIDIA = "NVIDIA's data sheet"
CHIPS = {
    'v4': Chip('TPU v4', 32 * 2**30, 275e12, 1200e9, 50e9, 3, 4, 1.05e9, 0, f'{_CLOUD}/v4; links and clock: Jouppi et al., 2023'),
    'v5e': Chip('TPU v5e', 16 * 2**30, 197e12, 819e9, 50e9, 2, 16, 1.5e9, 3.125e9, f'{_CLOUD}/v5e'),
    'v5p': Chip('TPU v5p', 95 * 2**30, 459e12, 2765e9, 100e9, 3, 4, 1.75e9, 6.25e9, f'{_CLOUD}/v5p'),
    'v6e': Chip('TPU v6e', 32 * 2**30, 918e12, 1638e9, 100e9, 2, 16, 0, 12.5e9, f'{_CLOUD}/v6e'),
    'A100': Chip('NVIDIA A100 (SXM, 80 GB)', 80e9, 312e12, 2039e9, 300e9, 0, 0, 0, 25e9, _NVIDIA),
    'H100': Chip('NVIDIA H100 (SXM, 80 GB)', 80e9, 989e12, 3350e9, 450e9, 0, 0, 0, 50e9, _NVIDIA),
    'H200': Chip('NVIDIA H200 (SXM, 141 GB)', 141e9, 989e12, 4800e9, 450e9, 0, 0, 0, 50e9, _NVIDIA),
    'cpu': Chip('CPU', 0, 0, 0, 0, 0, 0, 0, 0, 'none are published for fake devices'),
}
TPUS = ('v4', 'v5e', 'v5p', 'v6e')
GPUS = ('A100', 'H100', 'H200')
_LIBTPU = "pip install 'jax[tpu]'"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Attributes:
    text: as a person wrote it.
    kind: of CHIPS.
    shape: of a TPU slice, (4, 4, 4); of others (count,).
    slices: of this shape, over the data-centre network.
    """

    text: str
    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def shown(self) -> str:
        return f'{self.slices} x {self.text}' if self.slices > 1 else self.text

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def platform(self) -> str:
        """As models/kernels.py has it."""
        return 'tpu' if self.kind in TPUS else 'cuda' if self.kind in GPUS else 'cpu'

    @property
    def chips(self) -> int:
        """Of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def timed(self) -> bool:
        """Whether the figures are published that a time follows from."""
        return bool(self.chip.peak and (self.slices == 1 or self.chip.network))

    @property
    def compiled(self) -> bool:
        """Whether there is a compiler for it on any machine."""
        return self.kind not in GPUS

    def devices(self) -> list[jax.Device]:
        """One a chip, of a TPU without its hardware, else fake ones of the CPU.

        Raises:
          UserError: no libtpu, a shape that its compiler does not know, or JAX has begun with fewer devices.
        """
        return _described(self) if self.kind in TPUS else _fake(self.chips)

    def bandwidth(self, members: np.ndarray) -> float:
        """Bytes/s that one chip can send to others of a group in a ring over each side of the torus that the group spans.

        Args:
          members: coordinates of its chips [n, dimensions].

        Returns: 0 where no figure is known. A side whose ends are linked sends both ways; one whose ends are not is a line, whose last chips have one
        neighbour and set its pace.
        """
        if not self.chip.dimensions:
            return self.chip.link
        spanned = [side for side in range(members.shape[1]) if len(set(members[:, side].tolist())) > 1]
        return self.chip.link * sum(2 if self._is_ring(side, len(set(members[:, side].tolist()))) else 1 for side in spanned)

    def load(self, sent: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
        """How many messages pass the busiest link, of those that chips send to one another at once, each the shortest way, one side after the other.

        Args:
          sent: coordinates (from, to).
        """
        passed: collections.Counter[tuple] = collections.Counter()
        for source, target in sent:
            here = list(source)
            for side, goal in enumerate(target):
                size = self.shape[side] if side < len(self.shape) else 1
                forward = (goal - here[side]) % size <= size // 2 if self._is_ring(side, size) else goal > here[side]
                way = 1 if forward else -1
                while here[side] != goal:
                    passed[*here, side, way] += 1
                    here[side] = (here[side] + way) % size
        return max(passed.values(), default=1)

    def _is_ring(self, side: int, members: int) -> bool:
        """Whether so many chips along a side are all of it, and its ends are linked."""
        size = self.shape[side] if side < len(self.shape) else 1
        # Of three dimensions, all sides have links around where each is a multiple of 4.
        linked = all(one % self.chip.around == 0 for one in self.shape) if self.chip.dimensions == 3 else size == self.chip.around
        return members == size and linked


def parse(text: str, slices: int = 1) -> Topology:
    """
    Args:
      slices: of that shape.

    Raises:
      UserError: naming the nearest kind, or what a shape looks like.
    """
    kind, _, shape = text.partition(':')
    if kind == 'gpu':
        found = re.fullmatch(r'([1-9]\d*)x([A-Za-z]\w*)', shape)
        if found is None:
            raise UserError(f'--topology={text}: write how many and of which kind, gpu:8xH100 ({", ".join(GPUS)})')
        if found[2] not in GPUS:
            raise UserError(f'--topology={text}: no figures of {found[2]!r} are known, {nearest(found[2], GPUS)}')
        return Topology(text, found[2], (int(found[1]),), slices)
    if kind == 'cpu':
        if not re.fullmatch(r'[1-9]\d*', shape):
            raise UserError(f'--topology={text}: write how many devices, cpu:8')
        return Topology(text, 'cpu', (int(shape),), slices)
    if kind not in TPUS:
        raise UserError(f'--topology={text}: no such machine as {kind!r}, {nearest(kind, (*TPUS, "cpu", "gpu"))}; write v5p:4x4x4, cpu:8 or gpu:8xH100')
    sides = CHIPS[kind].dimensions
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', shape) or shape.count('x') + 1 != sides:
        raise UserError(f'--topology={text}: a slice of {kind} has {sides} sides; write {kind}:{"x".join(["4"] * sides)}')
    return Topology(text, kind, tuple(map(int, shape.split('x'))), slices)


def _described(topology: Topology) -> list[jax.Device]:
    if importlib.util.find_spec('libtpu') is None:
        without = '; without it, --mesh=auto --compile=0 ranks meshes by formulas'
        raise UserError(f'--topology={topology.text} needs the compiler for TPUs, which is not installed: {_LIBTPU}{without}')
    # It asks a metadata server and a lock file for a TPU that is not there, and complains where nothing answers.
    quiet = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_ACCELERATOR_TYPE': 'v5litepod-4'}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies  # needs nothing of TPUs, but only they need it

    more = {'chip_config_name': 'megacore'} if topology.kind == 'v4' else {}  # its two cores as one device
    more |= {'num_slices': topology.slices} if topology.slices > 1 else {}
    with _captured() as said:
        try:
            devices = list(topologies.get_topology_desc(platform='tpu', topology_name=topology.text, **more).devices)
        except (RuntimeError, ValueError, NotImplementedError) as error:  # JAX's own error is a RuntimeError
            line = str(error).strip().splitlines()[0]
            raise UserError(f'--topology={topology.text}: the compiler for TPUs refuses it ({line}); every side of the slice must fit hosts of 2 x 2 chips') from error
    if len(devices) != topology.chips:
        why = said[-1] if said else 'use another shape'
        raise UserError(f'--topology={topology.text}: the compiler describes {len(devices)} devices for {topology.shown}, not {topology.chips}; {why}')
    return devices


def _fake(count: int) -> list[jax.Device]:
    with contextlib.suppress(RuntimeError):  # JAX has begun; then there may be enough of them
        jax.config.update('jax_num_cpu_devices', max(count, jax.config.jax_num_cpu_devices))
    devices = jax.devices('cpu')
    if len(devices) < count:
        raise UserError(f'there are {len(devices)} CPU devices, and {count} are asked for; set XLA_FLAGS=--xla_force_host_platform_device_count={count}')
    return devices[:count]


@contextlib.contextmanager
def _captured():
    """What native code writes to standard error within, as lines, instead of there."""
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile('w+', errors='replace') as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += [line for line in file.read().splitlines() if line.strip()]
