"""Products of matrices in a compiled step, counted: `dot`, and `convolution`, which is what TPUs make of it.

XLA's own cost_analysis counts the body of a loop once, however often it runs; here each product counts as often as it does.
"""

import dataclasses
import math
import re

import numpy as np

from t5x_lite.planning.hlo import Computation, Instruction, Module


@dataclasses.dataclass(frozen=True)
class Product:
    name: str
    place: str  # where in the model, as JAX names it
    flops: int  # once; a multiplication and an addition count two
    times: int

    @property
    def total(self) -> int:
        return self.flops * self.times


def products(module: Module) -> list[Product]:
    """All of a step, on one device."""
    found = []
    for computation, instruction, times in module.instructions():
        if flops := flops_of(computation, instruction):
            found.append(Product(instruction.name, instruction.place, flops, times))
    return found


def total(module: Module) -> int:
    """FLOPs of a step on one device."""
    return sum(product.total for product in products(module))


def flops_of(computation: Computation, instruction: Instruction) -> int:
    """Of one instruction, once; 0 of what is no product. Of a kernel of attention with the tiles that it skips, as formulas of models have it."""
    if of_kernel := _products_of_kernel(instruction):
        # [B, H, L, K] and [B, H, M, K] are the first arrays of that rank.
        queries, keys = [dims for operand in instruction.operands if len(dims := computation.instructions[operand].shapes[0].dims) == 4][:2]
        return of_kernel * 2 * math.prod(queries) * keys[2]
    if instruction.opcode not in ('dot', 'convolution') and not _is_library_product(instruction):
        return 0
    left, right = (computation.instructions[operand].shapes[0].dims for operand in instruction.operands[:2])
    out = instruction.shapes[0].dims
    if instruction.opcode == 'convolution':
        return 2 * _multiplications(instruction, left, right, out)
    if instruction.opcode == 'dot':
        return 2 * math.prod(out) * math.prod(left[axis] for axis in instruction.numbers('lhs_contracting_dims'))
    # A library's: [..., M, K] x [..., K, N], either transposed. M N x what is left of both operands is (K M N)^2 / batch.
    batch = math.prod(out[:-2])
    return 2 * batch * math.isqrt(math.prod(left) * math.prod(right) * math.prod(out) // batch**3)


# Of splash attention: scores and their product with values; in the backward pass scores again and their gradients, and what follows of these. A kernel for all
# gradients goes by the name of that of keys and values, and gives those of queries for each column of tiles, in an array of a dimension more.
_KERNELS = {'splash_mha_fwd': 2, 'splash_mha_dq': 3, 'splash_mha_dkv': 4}


def _products_of_kernel(instruction: Instruction) -> int:
    if instruction.opcode != 'custom-call' or instruction.text('custom_call_target') != '"tpu_custom_call"':
        return 0
    found = next((count for name, count in _KERNELS.items() if name in instruction.place), 0)
    return found + (found == _KERNELS['splash_mha_dkv'] and any(len(shape.dims) == 5 for shape in instruction.shapes))


def _is_library_product(instruction: Instruction) -> bool:
    return instruction.opcode == 'custom-call' and re.search(r'custom_call_target="[^"]*(matmul|gemm)', instruction.attributes, re.IGNORECASE) is not None


def _multiplications(instruction: Instruction, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Of a convolution: those of padding and of the holes of a dilation, which a batch of products becomes on a TPU, are none."""
    of_left, of_right, of_out = re.split('_|->', instruction.text('dim_labels'))
    window = re.search(r'window=\{([^}]*)\}', instruction.attributes)
    fields = dict(part.split('=') for part in window[1].split()) if window else {}
    valid = 1
    for place, axis in enumerate(sorted(label for label in of_out if label.isdigit())):
        low, stride, left_dilation, right_dilation = (
            int(fields[name].split('x')[place].split('_')[0]) if name in fields else usual
            for name, usual in (('pad', 0), ('stride', 1), ('lhs_dilate', 1), ('rhs_dilate', 1))
        )
        outputs, taps = np.ogrid[: out[of_out.index(axis)], : right[of_right.index(axis)]]
        read = outputs * stride - low + taps * right_dilation
        inside = (read >= 0) & (read % left_dilation == 0) & (read // left_dilation < left[of_left.index(axis)])
        valid *= int(inside.sum())
    groups = re.search(r'batch_group_count=(\d+)', instruction.attributes)
    rows = left[of_left.index('b')] // (int(groups[1]) if groups else 1)
    return rows * right[of_right.index('i')] * right[of_right.index('o')] * valid
