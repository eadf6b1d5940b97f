"""XLA's HLO as text, read: instructions with their shapes, the computations that they call, and how often each of these runs.

    module = parse(compiled.as_text())
    module.runs       # {computation: times}, loops' trips multiplied
    module.untold     # loops whose number of trips the text does not tell; they are counted once

The text is that of `jax.stages.Compiled.as_text()`, optimised and partitioned: shapes and counts are those of one device. What `Lowered.as_text(dialect='hlo')`
gives, before partitioning and optimisation, is read too; its shapes are global.
"""

import collections
from collections.abc import Iterator
import dataclasses
import functools
import math
import re

_BITS = {
    'pred': 8, 's2': 2, 'u2': 2, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32, 's64': 64, 'u64': 64, 'f16': 16, 'bf16': 16,
    'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128, 'f4e2m1fn': 4, 'token': 0, 'opaque': 0,
}  # fmt: skip

_ARRAY = re.compile(r'([a-z]\w*)\[([^\]]*)\](\{[^{}]*\})?')
_HEAD = re.compile(r'^\s*(ROOT )?%?([\w.\-]+) = ')
_BEGIN = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_WORK = r'dot$|convolution|custom-call|while|send|recv|all-|reduce-scatter|ragged-|collective-'
_CALLED = re.compile(r'\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation|called_computations)=(\{[^{}]*\}|%?[\w.\-]+)')


Side = tuple[int | None, int | None]  # of a comparison: (which element of a loop's state, or a constant)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array. `space` 0 is a device's main memory; others are nearer (a TPU's VMEM is 1)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype, 8)  # the rest are kinds of float8
        return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of its result; several of a tuple, nested ones in order
    operands: tuple[str, ...]
    arguments: str  # between its parentheses
    attributes: str  # behind them
    root: bool

    @property
    def called(self) -> dict[str, tuple[str, ...]]:
        """{attribute: computations}."""
        found: dict[str, tuple[str, ...]] = {}
        for attribute, names in _CALLED.findall(_without_strings(self.attributes)):
            found[attribute] = tuple(re.findall(r'[\w.\-]+', names))
        return found

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """`lhs_contracting_dims={1,2}` -> (1, 2); () where it is absent."""
        found = re.search(rf'\b{attribute}=\{{([\d,]*)\}}', self.attributes)
        return tuple(int(number) for number in found[1].split(',') if number) if found else ()

    def text(self, attribute: str) -> str:
        """`dim_labels=bf_io->bf` -> 'bf_io->bf'; '' where it is absent."""
        found = re.search(rf'\b{attribute}=([^\s,]+)', self.attributes)
        return found[1] if found else ''

    @property
    def place(self) -> str:
        """The line of Python's transformations that it came from: 'jit(train_step)/.../dot_general'; '' where there is none."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ''


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]  # in the order of the text; a scheduled module's is that of its execution

    @functools.cached_property
    def root(self) -> Instruction:
        return next(found for found in self.instructions.values() if found.root)

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """{number: name}."""
        return {int(found.arguments): found.name for found in self.instructions.values() if found.opcode == 'parameter'}


@dataclasses.dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def _walked(self) -> tuple[dict[str, int], tuple[str, ...], frozenset[str]]:
        runs: dict[str, int] = {}
        untold, fused = [], set()

        def visit(name: str, times: int, inside: bool) -> None:
            runs[name] = runs[name] + times if name in runs else times
            if inside:
                fused.add(name)
            for found in self.computations[name].instructions.values():
                called = found.called
                if found.opcode == 'while':
                    trips = self.trips(name, found)
                    if trips is None:
                        untold.append(found.name)
                    visit(called['body'][0], times * (1 if trips is None else trips), inside)
                elif found.opcode == 'conditional':
                    # One of them runs. Where they are alike one is counted (attention in a band, or without: GPT-3), else each, which can only be too much.
                    branches = [each for names in called.values() for each in names]
                    work = [self._work(each) for each in branches]
                    for each in branches[:1] if work[0] and all(one == work[0] for one in work) else branches:
                        visit(each, times, inside)
                else:
                    for attribute in ('calls', 'called_computations') + (('to_apply',) if found.opcode == 'call' else ()):
                        for each in called.get(attribute, ()):
                            visit(each, times, inside or found.opcode == 'fusion')

        visit(self.entry, 1, False)
        return runs, tuple(dict.fromkeys(untold)), frozenset(fused)

    def _work(self, name: str) -> collections.Counter:
        """{(kind, sizes of what comes out): how many} of products, kernels, loops and what is sent."""
        found: collections.Counter = collections.Counter()
        for each in self.computations[name].instructions.values():
            if re.match(_WORK, each.opcode):
                found[each.opcode, tuple(shape.dims for shape in each.shapes)] += 1
            for called in {called for names in each.called.values() for called in names}:
                found += self._work(called)
        return found

    @property
    def runs(self) -> dict[str, int]:
        """{computation: how often it runs in a step}; what a reduction does to two numbers is left out."""
        return self._walked[0]

    @property
    def untold(self) -> tuple[str, ...]:
        """Loops whose number of trips the text does not tell. They are counted once, so that counts are too low where there are some."""
        return self._walked[1]

    @property
    def fused(self) -> frozenset[str]:
        """Computations inside fusions, whose intermediate results are never in memory."""
        return self._walked[2]

    def instructions(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """(its computation, an instruction, how often it runs)."""
        for name, times in self.runs.items():
            for found in self.computations[name].instructions.values():
                yield self.computations[name], found, times

    def trips(self, computation: str, loop: Instruction) -> int | None:
        """Of a loop: what XLA noted, else read from `i < bound` in its condition, the initial value of i and its step. None where it cannot be told."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(noted[1])
        called, outside = loop.called, self.computations[computation]
        condition, body = self.computations[called['condition'][0]], self.computations[called['body'][0]]
        state = self._define(outside, loop.operands[0])
        compare = self._compare(condition)
        if compare is None or state.opcode != 'tuple':
            return None
        (index, _), (carried, bound), direction = compare
        if carried is not None:  # the bound is an element that the loop does not change
            bound = self._number(outside, state.operands[carried])
        if index is None or bound is None:
            return None
        start, step = self._number(outside, state.operands[index]), self._step(body, index)
        if start is None or not step or direction not in ('LT', 'LE', 'GT', 'GE'):
            return None
        distance = bound - start + (direction in ('LE', 'GE')) * (1 if step > 0 else -1)
        return max(0, math.ceil(distance / step))

    def _compare(self, condition: Computation) -> tuple[Side, Side, str] | None:
        """(left, right, direction) of a loop's condition, also where it was fused."""
        root = self._define(condition, condition.root.name)
        where, given = condition, {}
        if root.opcode in ('fusion', 'call'):
            where = self.computations[next(iter(root.called.values()))[0]]
            given = {where.parameters[number]: operand for number, operand in enumerate(root.operands)}
            root = self._define(where, where.root.name)
        if root.opcode != 'compare':
            return None

        def side(name: str) -> Side:
            name = self._through(where, name)
            place, name = (condition, given[name]) if name in given else (where, name)
            return self._element(place, name), self._number(place, name)

        return side(root.operands[0]), side(root.operands[1]), root.text('direction')

    def _define(self, computation: Computation, name: str) -> Instruction:
        return computation.instructions[self._through(computation, name)]

    @staticmethod
    def _through(computation: Computation, name: str) -> str:
        """The instruction that made a value, past those that only move it."""
        while (found := computation.instructions[name]).opcode in ('copy', 'bitcast', 'convert', 'opt-barrier', 'copy-done', 'copy-start', 'reshape'):
            name = found.operands[0]
        return name

    def _element(self, computation: Computation, name: str) -> int | None:
        """Which element of the loop's state a value is."""
        found = self._define(computation, name)
        if found.opcode != 'get-tuple-element' or self._define(computation, found.operands[0]).opcode != 'parameter':
            return None
        return int(found.text('index'))

    def _number(self, computation: Computation, name: str) -> int | None:
        found = self._define(computation, name)
        if found.opcode != 'constant' or not re.fullmatch(r'-?\d+', found.arguments):
            return None
        return int(found.arguments)

    def _step(self, body: Computation, index: int) -> int | None:
        """What a trip adds to an element of the loop's state."""
        if body.root.opcode != 'tuple':
            return None
        found = self._define(body, body.root.operands[index])
        inner, outer = body, {}
        if found.opcode == 'fusion':
            inner = self.computations[found.called['calls'][0]]
            outer = {inner.parameters[number]: operand for number, operand in enumerate(found.operands)}
            found = inner.root
        if found.opcode != 'add':
            return None
        step, carried = None, False
        for operand in found.operands:
            name = self._through(inner, operand)
            where, name = (body, outer[name]) if name in outer else (inner, name)
            if (number := self._number(where, name)) is not None:
                step = number
            else:
                carried = self._element(where, name) == index
        return step if carried else None


def parse(text: str) -> Module:
    """
    Raises:
      ValueError: no ENTRY computation in it.
    """
    computations, entry, name = {}, '', ''
    for line in _whole_lines(text):
        if not name:
            begins = _BEGIN.match(line)
            if begins and not line.startswith('HloModule'):
                name, instructions = begins[2], {}
                if begins[1]:
                    entry = name
        elif line.startswith('}'):
            computations[name] = Computation(name, instructions)
            name = ''
        elif (found := _instruction(line)) is not None:
            instructions[found.name] = found
    if not entry:
        raise ValueError('no ENTRY computation in this HLO')
    return Module(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
    """Instructions begin with white space; one whose attributes hold line breaks, as those of a kernel do, goes on in lines that do not."""
    held = ''
    for line in text.splitlines():
        if held.startswith(' ') and line.startswith(('"', '}}')):
            held += line
        else:
            yield held
            held = line
    yield held


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    line = re.sub(r'/\*.*?\*/', '', line[head.end() :])
    end = _closing(line, 0) if line.startswith('(') else _array_end(line)
    shapes = tuple(_shape(*parts) for parts in _ARRAY.findall(line[:end]))
    rest = line[end:].lstrip()
    opcode, _, _ = rest.partition('(')
    close = _closing(rest, len(opcode))
    arguments = rest[len(opcode) + 1 : close - 1]
    operands = () if opcode in ('constant', 'parameter', 'iota') else tuple(re.findall(r'%([\w.\-]+)', arguments)) or _bare(arguments)
    return Instruction(head[2], opcode, shapes, operands, arguments, rest[close:], bool(head[1]))


def _bare(arguments: str) -> tuple[str, ...]:
    """Operands that are written without a %: 'f32[2,2]{1,0} dot.1, add.2'."""
    text = re.sub(r'[\[{(][^\[\]{}()]*[\]})]', '', arguments)
    return tuple(part.split()[-1] for part in text.split(',') if part.strip())


def _array_end(line: str) -> int:
    found = _ARRAY.match(line)
    return found.end() if found else line.index(' ')


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    space = re.search(r'S\((\d+)\)', layout)
    return Shape(dtype, tuple(int(re.sub(r'\D', '', size)) for size in dims.split(',') if size), int(space[1]) if space else 0)


def _closing(text: str, start: int) -> int:
    """Behind the parenthesis that closes the one at `start`."""
    depth, place, quoted = 0, start, False
    while place < len(text):
        char = text[place]
        if char == '"' and text[place - 1] != '\\':
            quoted = not quoted
        elif not quoted:
            depth += (char == '(') - (char == ')')
            if depth == 0:
                return place + 1
        place += 1
    return len(text)


def _without_strings(text: str) -> str:
    return re.sub(r'"(\\.|[^"\\])*"', '""', text)
