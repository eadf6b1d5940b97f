"""What a compiled step sends between devices: each collective with its bytes, the mesh axes that it crosses, how often it runs, and what is computed meanwhile.

How overlap is read. The text is in the order of execution (`is_scheduled=true`). A collective is asynchronous where it begins at one instruction and ends at
a later one:

  - `all-gather-start` ... `all-gather-done`, or `async-start` ... `async-done`;
  - on TPUs, fusions: the same collective (one `chain_id`) stands inside several, the first of which (`AsyncCollectiveStart`) begins it and the last
    (`AsyncCollectiveDone`) ends it; those between, in loops that run meanwhile too, carry a part of it along with their own work. A `channel_id` says less:
    collectives of layers that are not looped over share one.

What stands between runs beside it, and hides as much of it as that takes (overlap.py). All others are waited for. A TPU's compiler marks some of these
`async_collective_name`: it tried to make them asynchronous, found nothing to compute meanwhile, and made them synchronous again, so they count as waited for.
A fusion of an all-reduce and the slice of it that a device keeps is a TPU's reduce-scatter.

Several slices. A TPU's compiler makes one program for each slice, whose groups are numbered within it; what crosses the data-centre network stands apart, as a
send and a recv of the host's (`xla_megascale_runtime`) that say what they are part of, and run until `recv-done`. It adds up gradients in three steps: a
reduce-scatter within each slice, an all-reduce of each chip's part between slices, an all-gather within. Where nothing is compiled, or XLA's compiler for CPUs
writes one group over all devices, `Collective.between` counts the same three steps.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import re

import numpy as np

from t5x_lite.planning import products
from t5x_lite.planning.hlo import Computation, Instruction, Module

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute', 'collective-broadcast')
_SLICE = 100_000  # a TPU's compiler numbers the devices of the first slice from here on, those of the second from twice that


@dataclasses.dataclass(frozen=True)
class Collective:
    """Attributes:
    kind: of KINDS.
    axes: of the mesh, that a group of devices spans; 'part of fsdp' where it spans less than all of one.
    group: one group, device numbers in the mesh's order; where several slices have a program each, those of a slice, then those of the next.
    bytes: of the whole that a group makes or adds up: what is gathered, reduced or, on one device, exchanged.
    times: in a step.
    meanwhile: FLOPs of products between begin and end, once; 0 where it is waited for.
    largest: bytes of the largest single array in it.
    slices: that a group spans, as many of its devices in each.
    within, span: the computation, and the places in it where it begins and ends.
    pairs: of a permutation: (from, to), device numbers in the mesh's order.
    hidden: share of its time beside which a device does something else; overlap.py finds it.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    group: tuple[int, ...]
    bytes: int
    times: int
    meanwhile: int
    largest: int
    dims: tuple[int, ...]  # of that array
    place: str
    slices: int = 1
    within: str = ''
    span: tuple[int, int] = (0, 0)
    pairs: tuple[tuple[int, int], ...] = ()
    hidden: float = 0.0

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a ring, once."""
        size = len(self.group)
        if self.kind == 'all-reduce':
            return 2 * self.bytes * (size - 1) / size
        return self.bytes if self.kind == 'collective-permute' else self.bytes * (size - 1) / size

    @property
    def between(self) -> float:
        """The part of `sent` that goes to other slices: each device exchanges its part of what its slice has."""
        if self.slices == 1:
            return 0.0
        if self.slices == len(self.group) or self.kind == 'collective-permute':
            return self.sent
        whole = self.bytes * (self.slices - 1) / self.slices
        if 'all-to-all' in self.kind:
            return whole
        return (2 if self.kind == 'all-reduce' else 1) * whole * self.slices / len(self.group)


def collectives(module: Module, mesh: Mapping[str, int], slices: int = 1, along: str = 'data') -> list[Collective]:
    """
    Args:
      mesh: sizes of its axes, in order; of a program for one slice of several those within.
      slices: that the devices of `mesh` are of, along its axis `along`. What a program for one slice says of others needs no number.
    """
    found, begun = [], _begun_in_fusions(module)
    for name, times in module.runs.items():
        if name not in module.fused:
            found += _in_order(module, module.computations[name], times, mesh, along, begun)
    spread = mesh[along] // slices
    for number, one in enumerate(found):
        if slices > 1 and one.slices == 1:
            places = np.unravel_index(np.asarray(one.group), tuple(mesh.values()))[list(mesh).index(along)]
            found[number] = dataclasses.replace(one, slices=len(set((places // spread).tolist())))
    return [one for one in found if len(one.group) > 1]


def _begun_in_fusions(module: Module) -> dict[str, set[str]]:
    """{chain: computations} of what begins in a fusion there; where else it stands, in a loop, a part of it is carried along."""
    found: dict[str, set[str]] = {}
    for name in module.runs.keys() - module.fused:
        for instruction in module.computations[name].instructions.values():
            for where, inner in _inside(module, module.computations[name], instruction):
                if any('"AsyncCollectiveStart"' in one.attributes for one in where.instructions.values() if one.opcode == 'custom-call'):
                    found.setdefault(_chain_of(inner), set()).add(name)
    return found


def _in_order(
    module: Module, computation: Computation, times: int, mesh: Mapping[str, int], along: str, begun: Mapping[str, set[str]]
) -> Iterator[Collective]:
    order = list(computation.instructions.values())
    places = {instruction.name: number for number, instruction in enumerate(order)}
    spans: dict[str, list[int]] = {}
    what: dict[str, tuple[Computation, Instruction]] = {}
    for number, instruction in enumerate(order):
        for where, inner in _inside(module, computation, instruction):
            chain = _chain_of(inner)
            if chain in begun and computation.name not in begun[chain]:
                continue
            key = f'chain {chain}' if chain else instruction.name
            spans.setdefault(key, [number, number])[1] = number
            what.setdefault(key, (where, inner))
        if instruction.opcode.endswith('-done'):
            begin = instruction.operands[0] if instruction.opcode == 'recv-done' else _begin(computation, instruction)
            if begin in spans:
                spans[begin][1] = places[instruction.name]
    for key, (first, last) in spans.items():
        where, inner = what[key]
        meanwhile = sum(_flops(module, computation, instruction) for instruction in order[first + 1 : last])
        if inner.opcode == 'recv':
            one = _between_slices(computation, inner, times, meanwhile, mesh, along)
        else:
            one = _collective(where, inner, order[first].name, times, meanwhile, mesh)
        yield dataclasses.replace(one, within=computation.name, span=(first, last))


def _inside(module: Module, computation: Computation, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    """The collectives that an instruction is, or that stand in a fusion or an async-start."""
    if instruction.opcode.removesuffix('-start') in KINDS or instruction.opcode == 'recv' and _transfer(instruction):
        yield computation, instruction
    elif instruction.opcode in ('fusion', 'async-start'):
        for names in instruction.called.values():
            for name in names:
                inner = module.computations[name]
                for one in inner.instructions.values():
                    yield from _inside(module, inner, one)


def _chain_of(instruction: Instruction) -> str:
    """'7' of a collective that stands in several fusions, '' of others."""
    found = re.search(r'chain_id="(\w+)"', instruction.attributes)
    return found[1] if found else ''


def _begin(computation: Computation, done: Instruction) -> str:
    """The instruction that began what ends here."""
    name = done.operands[0]
    while name in computation.instructions and not (found := computation.instructions[name]).opcode.endswith('-start') and found.operands:
        name = found.operands[0]
    return name


def _flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Of products in an instruction and in what it calls, loops' trips multiplied."""
    total = products.flops_of(computation, instruction)
    trips = (module.trips(computation.name, instruction) or 1) if instruction.opcode == 'while' else 1
    for attribute, names in instruction.called.items():
        if attribute in ('calls', 'called_computations', 'body', 'branch_computations'):
            for name in names:
                inner = module.computations[name]
                total += trips * sum(_flops(module, inner, one) for one in inner.instructions.values())
    return total


def _collective(computation: Computation, instruction: Instruction, name: str, times: int, meanwhile: int, mesh: Mapping[str, int]) -> Collective:
    kind = 'reduce-scatter' if _is_sliced(computation, instruction) else instruction.opcode.removesuffix('-start')
    group = first_group(instruction, math.prod(mesh.values()))
    given = [shape for operand in instruction.operands for shape in computation.instructions[operand].shapes]
    parts = len(group) if kind == 'all-gather' else 1
    largest = max(given, key=lambda shape: shape.bytes)
    return Collective(
        name, kind, axes_of(group, mesh), group, parts * sum(shape.bytes for shape in given), times, meanwhile, parts * largest.bytes, largest.dims,
        instruction.place, pairs=pairs_of(instruction),
    )  # fmt: skip


def _transfer(instruction: Instruction) -> str:
    """'ALL_REDUCE' of what the host receives from other slices; '' of anything else."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    return found[1] if found else ''


def _between_slices(computation: Computation, received: Instruction, times: int, meanwhile: int, mesh: Mapping[str, int], along: str) -> Collective:
    rendezvous = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', received.attributes)[1]
    sent = next(
        one for one in computation.instructions.values() if one.opcode == 'send' and f'_xla_host_transfer_rendezvous="{rendezvous}"' in one.attributes
    )
    kind = _transfer(received).lower().replace('_', '-').replace('one-to-one', 'collective-permute')
    given, made = sent.shapes[0], received.shapes[0]
    devices, slices = _target(received.attributes)
    stride = math.prod(list(mesh.values())[list(mesh).index(along) + 1 :])
    group = tuple(number * math.prod(mesh.values()) + place * stride for number in range(slices) for place in range(devices // slices))
    whole = made.bytes if kind == 'all-gather' else given.bytes
    return Collective(
        received.name, kind, (along,), group, whole, times, meanwhile, whole, given.dims, received.place or sent.place or rendezvous, slices
    )  # fmt: skip


def _target(attributes: str) -> tuple[int, int]:
    """(devices of a group, slices that they are of) of a transfer: `{1,2}x{0:7}` are slices, each of whose devices exchanges with the same of the others;
    `{{100000,100001,200000,200001},...}` are devices of several slices, numbered from a hundred thousand times the slice; `{{100000->200000},...}` pairs."""
    text = re.search(r'_xla_megascale_target="?(\{.*?\}(?:x\{[^}]*\}|\})?)"?(?:,_xla|\}|$)', attributes)[1]
    if product := re.match(r'\{([\d,:]+)\}x', text):
        ends = [part.split(':') for part in product[1].split(',')]
        count = sum(int(part[-1]) - int(part[0]) + 1 for part in ends)
        return count, count
    first = [int(number) for number in re.findall(r'\d+', text.partition('}')[0])]
    return len(first), len({number // _SLICE for number in first})


def _is_sliced(computation: Computation, instruction: Instruction) -> bool:
    """Whether each device keeps only its part of a sum: TPUs write a reduce-scatter as a fusion of an all-reduce and a slice of it, or of each array in it."""
    root = computation.root
    made = [computation.instructions[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    return instruction.opcode == 'all-reduce' and all(one.opcode == 'dynamic-slice' and _source(computation, one) == instruction.name for one in made)


def _source(computation: Computation, sliced: Instruction) -> str:
    name = sliced.operands[0]
    while computation.instructions[name].opcode in ('bitcast', 'reshape', 'copy', 'transpose', 'get-tuple-element'):
        name = computation.instructions[name].operands[0]
    return name


def first_group(instruction: Instruction, devices: int) -> tuple[int, ...]:
    """The first group of devices that exchange something, as any of the ways in which XLA writes groups has it."""
    text = instruction.attributes
    if pairs := pairs_of(instruction):
        return _chain(pairs)
    if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', text):  # {{0,1},{2,3}}
        return tuple(int(number) for number in listed[1].split(','))
    if tiled := re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):  # [4,2]<=[2,4]T(1,0)
        order = _tiled(tiled[3], tiled[4])
        return tuple(order.reshape(int(tiled[1]), int(tiled[2]))[0].tolist())
    if named := re.search(r"replica_groups=mesh\[([^\]]*)(.*?)\]? \{([^}]*)\}", text):  # mesh['a'=2,'b'=4] {'b'}
        return _named(named[1], text[named.start() : named.end()], named[3])
    return tuple(range(devices))  # {}: all


def pairs_of(instruction: Instruction) -> tuple[tuple[int, int], ...]:
    """(from, to) of a permutation."""
    found = re.search(r'source_target_pairs=\{\{(.*?)\}\}', instruction.attributes)
    return tuple(tuple(map(int, pair.split(','))) for pair in found[1].split('},{')) if found else ()


def _chain(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The devices that a permutation carries something around, from the first on; of several such rings the longest."""
    after = dict(pairs)

    def ring(first: int) -> tuple[int, ...]:
        chain = [first]
        while (following := after.get(chain[-1])) is not None and following not in chain:
            chain.append(following)
        return tuple(chain)

    return max((ring(source) for source, _ in pairs), key=len)


def _tiled(sizes: str, transposed: str | None) -> np.ndarray:
    shape = [int(size) for size in sizes.split(',')]
    order = np.arange(math.prod(shape)).reshape(shape)
    return order.transpose([int(axis) for axis in transposed.split(',')]) if transposed else order


def _named(axes: str, text: str, chosen: str) -> tuple[int, ...]:
    """Of a mesh whose axes have XLA's own names; `device_ids=([4,2]T(1,0))` says in which order the devices lie in it. 'a':(2)4 is 4 of an axis, behind 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    order = re.search(r'device_ids=\(?\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
    numbers = (_tiled(order[1], order[2]) if order else np.arange(math.prod(sizes.values()))).reshape(list(sizes.values()))
    kept = []
    for place, name in enumerate(sizes):
        part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?(?![\w'])", chosen)
        if part is None:
            kept.append(slice(0, 1))
        elif part[1] is None:
            kept.append(slice(None))
        else:
            behind = sizes[name] // (int(part[1]) * int(part[2]))
            kept.append(slice(0, int(part[2]) * behind, behind))
    return tuple(numbers[tuple(kept)].reshape(-1).tolist())


def axes_of(group: tuple[int, ...], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the members of a group lie apart."""
    places = np.stack(np.unravel_index(np.asarray(group), tuple(mesh.values())), axis=1)
    spread = {axis: len(set(places[:, number].tolist())) for number, axis in enumerate(mesh)}
    return tuple(axis if size == mesh[axis] else f'part of {axis}' for axis, size in spread.items() if size > 1)
