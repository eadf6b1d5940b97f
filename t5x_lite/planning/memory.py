"""Main memory of one device by what it is for: exact where the train state says so, the compiler's count of the rest divided by what can be told apart."""

import math
import re
from typing import Any

import jax

from t5x_lite.planning.hlo import Computation, Instruction, Module
from t5x_lite.training.step import Program

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def local_bytes(tree: Any) -> int:
    """Of abstract arrays with shardings, on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def of_state(program: Program, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, int]:
    """{kind: bytes} of what a step is given; gradients are float32 and lie where what learns does."""
    state = program.abstract
    return {
        'parameters': local_bytes(state.params),
        'optimiser': local_bytes(state.opt_state),
        'moving average': local_bytes(state.ema),
        'batch': local_bytes(batch),
        'gradients': local_bytes(program.tuning.select(state.params)),
    }


def by_kind(state: dict[str, int], analysis: Any, kept: int) -> dict[str, int]:
    """{kind: bytes}, which add up to what the compiler reserves.

    Args:
      state: of `of_state`.
      analysis: `Compiled.memory_analysis()`. Its temporaries are gradients, what is kept for the backward pass, and the rest.
      kept: of `kept_for_backward`.
    """
    given = {kind: size for kind, size in state.items() if kind != 'gradients'}
    temporary = analysis.temp_size_in_bytes
    activations = min(kept, temporary)
    gradients = min(state['gradients'], temporary - activations)
    rest = {'gradients': gradients, 'activations': activations, 'temporaries': temporary - activations - gradients}
    # What is padded, aligned, or given back without taking the place of what was given.
    other = analysis.argument_size_in_bytes - sum(given.values()) + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return given | rest | {'program': analysis.generated_code_size_in_bytes, 'other': max(0, other)}


def kept_for_backward(module: Module) -> int:
    """Bytes that the loops over layers of the forward pass write, a slice a trip, and the backward pass reads: activations that are not recomputed.

    Where layers are not looped over (config.model.scan_layers=False), none can be told from other temporaries: 0.
    """
    total = 0
    for computation, loop, _ in module.instructions():
        if loop.opcode != 'while' or 'transpose(' in loop.place or computation.name in module.fused:
            continue
        body, trips = module.computations[loop.called['body'][0]], module.trips(computation.name, loop)
        if body.root.opcode != 'tuple' or not trips or trips < 2:
            continue
        for element, shape in zip(body.root.operands, loop.shapes, strict=False):
            if shape.dims[:1] == (trips,) and not shape.space and _is_written(module, body, element):
                total += shape.bytes
    return total


def _is_written(module: Module, body: Computation, name: str) -> bool:
    """Whether an element of a loop's state is one into which a slice was put."""
    found, element = body.instructions[name], 0
    while found.opcode in ('bitcast', 'copy', 'copy-done', 'copy-start', 'get-tuple-element'):
        if found.opcode == 'get-tuple-element':
            element = int(found.text('index'))
            if body.instructions[found.operands[0]].opcode == 'parameter':
                return False
        found = body.instructions[found.operands[0]]
    if found.opcode == 'fusion':
        inner = module.computations[found.called['calls'][0]]
        found = _root_of(inner, element)
    return found.opcode == 'dynamic-update-slice'


def _root_of(inner: Computation, element: int) -> Instruction:
    found = inner.root
    if found.opcode == 'tuple':
        found = inner.instructions[found.operands[element]]
    while found.opcode in ('bitcast', 'copy', 'convert'):
        found = inner.instructions[found.operands[0]]
    return found


def exceeded(error: BaseException) -> tuple[float, float] | None:
    """(bytes used, bytes there are) of a compiler that ran out of memory; (0, 0) where it does not say how much. None of another error."""
    text = str(error)
    if 'RESOURCE_EXHAUSTED' not in text and 'Ran out of memory' not in text:
        return None
    found = re.search(r'Used ([\d.]+)([KMGT]?)\w* of ([\d.]+)([KMGT]?)\w* hbm', text)
    return (float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]]) if found else (0.0, 0.0)
