"""What a compiled step reads from and writes to main memory, by its instructions: what is made inside a fusion, or lies in nearer memory, is neither.

A loop's body reads one layer's slice of arrays that hold all layers; a fusion that begins with such a slice, or ends by putting one in its place, counts that
slice alone.
"""

import dataclasses

from t5x_lite.planning import products
from t5x_lite.planning.hlo import Computation, Instruction, Module

# They give a name to what is there, or are counted where their work is (the bodies of loops and calls; the begin of an asynchronous copy).
_MOVE_NOTHING = {
    'parameter', 'constant', 'bitcast', 'get-tuple-element', 'tuple', 'while', 'call', 'conditional', 'after-all', 'opt-barrier', 'copy-done', 'slice-done',
    'partition-id', 'replica-id', 'iota', 'async-done', 'async-update', 'all-gather-done', 'all-reduce-done', 'collective-permute-done',
}  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')
_THROUGH = ('bitcast', 'reshape', 'convert', 'copy', 'transpose')


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one instruction of the schedule, once."""

    name: str
    flops: int
    bytes: int
    times: int


def works(module: Module) -> list[Work]:
    """What one device does in a step, instruction by instruction in the order of execution; loops' bodies where they stand in the text."""
    found = []
    for name, times in module.runs.items():
        if name in module.fused:
            continue
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode not in _MOVE_NOTHING:
                found.append(Work(instruction.name, _flops(module, computation, instruction), _bytes(module, computation, instruction), times))
    return [work for work in found if work.flops or work.bytes]


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
    read = sum(_read(inner, number, computation.instructions[operand]) for number, operand in enumerate(instruction.operands))
    return read + _written(inner, instruction)


def _here(instruction: Instruction) -> int:
    """Bytes of its result in main memory."""
    return sum(shape.bytes for shape in instruction.shapes if not shape.space)


def _read(inner: Computation, number: int, given: Instruction) -> int:
    """Of a fusion's operand: all of it, or the slices that are taken of it, or nothing where it is only the place for what is written."""
    if not _here(given):
        return 0
    names, sliced = {inner.parameters[number]}, 0
    for instruction in inner.instructions.values():  # in an order in which operands come first
        used = names & set(instruction.operands)
        if not used:
            continue
        if instruction.opcode in _THROUGH:
            names.add(instruction.name)
        elif instruction.opcode in _SLICES and instruction.operands[0] in names:
            sliced += instruction.bytes
        elif instruction.opcode == 'dynamic-update-slice' and instruction.operands[0] in names:
            continue
        else:
            return _here(given)
    return min(sliced, _here(given))


def _written(inner: Computation, fusion: Instruction) -> int:
    parts = [inner.instructions[name] for name in inner.root.operands] if inner.root.opcode == 'tuple' else [inner.root]
    total = 0
    for part, shape in zip(parts, fusion.shapes, strict=False):
        while part.opcode in _THROUGH:
            part = inner.instructions[part.operands[0]]
        if shape.space:
            continue
        total += inner.instructions[part.operands[1]].bytes if part.opcode == 'dynamic-update-slice' else shape.bytes
    return total
