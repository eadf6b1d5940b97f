"""What a compiled step reads from and writes to main memory, by its instructions: what is made inside a fusion, or lies in nearer memory, is neither.

A loop's body reads one layer's slice of arrays that hold all layers; a fusion that begins with such a slice, or ends by putting one in its place, counts that
slice alone.
"""

import dataclasses
import re

from t5x_lite.planning import products
from t5x_lite.planning.hlo import Computation, Instruction, Module

# They give a name to what is there, or are counted where their work is (the bodies of loops and calls; the begin of an asynchronous copy).
_MOVE_NOTHING = {
    'parameter', 'constant', 'bitcast', 'get-tuple-element', 'tuple', 'while', 'call', 'conditional', 'after-all', 'opt-barrier', 'copy-done', 'slice-done',
    'partition-id', 'replica-id', 'iota', 'async-done', 'async-update', 'all-gather-done', 'all-reduce-done', 'collective-permute-done',
    'send', 'recv', 'send-done', 'recv-done',
}  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')
_THROUGH = ('bitcast', 'reshape', 'convert', 'copy', 'transpose')


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one instruction of the schedule, once.

    Attributes:
      cycles: of its core, as the compiler's own cost model has them (a TPU's writes them into its text); 0 where it says nothing.
    """

    name: str
    flops: int
    bytes: int
    times: int
    cycles: int = 0


def works(module: Module) -> list[Work]:
    """What one device does in a step, instruction by instruction in the order of execution; loops' bodies where they stand in the text."""
    found = []
    for name, times in module.runs.items():
        if name in module.fused:
            continue
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode not in _MOVE_NOTHING and instruction.text('custom_call_target') != '"AllocateBuffer"':
                cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
                sizes = _flops(module, computation, instruction), _bytes(module, computation, instruction)
                found.append(Work(instruction.name, *sizes, times, int(cycles[1]) if cycles else 0))
    return [work for work in found if work.flops or work.bytes or work.cycles]


def _flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode != 'fusion':
        return products.flops_of(computation, instruction)
    inner = module.computations[instruction.called['calls'][0]]
    return sum(_flops(module, inner, one) for one in inner.instructions.values())


def _bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode in ('dynamic-slice', 'slice', 'gather', 'slice-start'):
        return 2 * _here(instruction) if instruction.opcode != 'slice-start' else instruction.shapes[-2].bytes if len(instruction.shapes) > 1 else 0
    if instruction.opcode == 'copy-start':
        return sum(shape.bytes for shape in instruction.shapes[:2] if not shape.space)
    if instruction.opcode in ('dynamic-update-slice', 'scatter'):
        return 2 * _here(computation.instructions[instruction.operands[1 if instruction.opcode == 'dynamic-update-slice' else 2]])
    if instruction.opcode != 'fusion':
        return _here(instruction) + sum(_here(computation.instructions[operand]) for operand in instruction.operands)
    inner = module.computations[instruction.called['calls'][0]]
    read = sum(_read(module, inner, number, _here(computation.instructions[operand])) for number, operand in enumerate(instruction.operands))
    return read + _written(module, inner, instruction)


def _here(instruction: Instruction) -> int:
    """Bytes of its result in main memory."""
    return sum(shape.bytes for shape in instruction.shapes if not shape.space)


def _read(module: Module, inner: Computation, number: int, whole: int) -> int:
    """Of a fusion's operand of so many bytes: all of them, or the slices that are taken of it, or nothing where it is only the place for what is written."""
    if not whole:
        return 0
    names, sliced = {inner.parameters[number]}, 0
    for instruction in inner.instructions.values():  # in an order in which operands come first
        used = [place for place, operand in enumerate(instruction.operands) if operand in names]
        if not used:
            continue
        if instruction.opcode in _THROUGH:
            names.add(instruction.name)
        elif instruction.opcode in _SLICES and used == [0]:
            sliced += instruction.bytes
        elif instruction.opcode == 'fusion':  # fusions stand in fusions
            nested = module.computations[instruction.called['calls'][0]]
            sliced += sum(_read(module, nested, place, whole) for place in used)
        elif instruction.opcode != 'dynamic-update-slice' or used != [0]:
            return whole
        if sliced >= whole:
            return whole
    return sliced


def _written(module: Module, inner: Computation, fusion: Instruction) -> int:
    parts = inner.root.operands if inner.root.opcode == 'tuple' else (inner.root.name,)
    return sum(_put(module, inner, part, shape.bytes) for part, shape in zip(parts, fusion.shapes, strict=False) if not shape.space)


def _put(module: Module, inner: Computation, name: str, whole: int) -> int:
    """Of one result of a fusion: all of it, or the slice that is put into what was given."""
    part, element = inner.instructions[name], 0
    while part.opcode in (*_THROUGH, 'get-tuple-element'):
        element = int(part.text('index')) if part.opcode == 'get-tuple-element' else element
        part = inner.instructions[part.operands[0]]
    if part.opcode == 'dynamic-update-slice':
        return inner.instructions[part.operands[1]].bytes
    if part.opcode == 'fusion':
        nested = module.computations[part.called['calls'][0]]
        return _put(module, nested, nested.root.operands[element] if nested.root.opcode == 'tuple' else nested.root.name, whole)
    return whole
