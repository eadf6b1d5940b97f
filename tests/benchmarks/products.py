"""The products of a training step one by one: forward, of the input's gradient, of the weight's and the bias's, in the forms that XLA is given.

    python -m tests.benchmarks.products [--shapes=1024x768x3072,1024x3072x768,768x384x1536] [--dtypes=float32,bfloat16] [--turns=10] [--output=FILE]

A shape is rows x inputs x outputs. `as it lies` is x^T g over one axis of rows, `transposed` over two, of which XLA makes a transposed copy first; ours is
what t5x_lite/models/products.py chooses of them (0: the weight's gradient of x in 8 rows of a batch, 1: of x as one axis). `turned` is the forward product of
predictions, by a kernel that lies the other way round. `in its dtype` is the sum over rows that JAX takes for the gradient of a bias, ours is summed in
float32.
"""

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import cli
from t5x_lite.config import DType
from t5x_lite.models.layers import like_trailing, plus
from t5x_lite.models.products import product, turned_product
from tests.benchmarks import turns

FLAGS = flags.FLAGS
_BATCH = 8


def competitors(rows: int, inputs: int, outputs: int, dtype: str) -> dict[str, turns.Competitor]:
    """Compiled functions of the same arrays; the first is the forward product."""
    draw = np.random.default_rng(0)
    x, g = (jnp.asarray(draw.normal(size=(_BATCH, rows // _BATCH, width)), dtype) for width in (inputs, outputs))
    kernel, bias = jnp.asarray(draw.normal(size=(inputs, outputs)), jnp.float32), jnp.zeros(outputs)

    def joined(x):
        return x.reshape(-1, x.shape[-1])

    def multiplied(equation, x, y):
        return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)

    def of_kernel(equation, x, g):
        return jax.vjp(lambda kernel: product(equation, x, kernel, jnp.dtype(dtype)), kernel)[1](g)

    flops, turned = 2 * rows * inputs * outputs, jnp.asarray(kernel.T, dtype)
    functions = {
        'forward': (flops, lambda x, g, kernel, bias: product('BLD,DF->BLF', x, kernel, jnp.dtype(dtype))),
        'forward, turned': (flops, lambda x, g, kernel, bias: turned_product(x, turned)),
        'input': (flops, lambda x, g, kernel, bias: jax.vjp(lambda x: product('BLD,DF->BLF', x, kernel, jnp.dtype(dtype)), x)[1](g)),
        'weight, ours': (flops, lambda x, g, kernel, bias: of_kernel('BLD,DF->BLF', x, g)),
        'weight, ours, one axis': (flops, lambda x, g, kernel, bias: of_kernel('ND,DF->NF', joined(x), joined(g))),
        'weight, as it lies': (flops, lambda x, g, kernel, bias: multiplied('ND,NF->DF', joined(x), joined(g))),
        'weight, transposed': (flops, lambda x, g, kernel, bias: multiplied('BLD,BLF->DF', x, g)),
        'bias, ours': (rows * outputs, lambda x, g, kernel, bias: jax.vjp(lambda bias: plus(g, bias), bias)[1](g)),
        'bias, in its dtype': (rows * outputs, lambda x, g, kernel, bias: jax.vjp(lambda bias: g + like_trailing(bias, g), bias)[1](g)),
    }
    given, made = (x, g, kernel, bias), {}
    for name, (count, function) in functions.items():
        compiled = jax.jit(function).lower(*given).compile()
        made[name] = turns.Competitor(lambda compiled=compiled: jax.block_until_ready(compiled(*given)), flops=count)
    return made


def main(argv: list[str]) -> None:
    del argv
    for shape in FLAGS.shapes:
        for dtype in FLAGS.dtypes:
            made = competitors(*map(int, shape.split('x')), dtype)
            what = f'Products of rows x inputs x outputs {shape}, {dtype}'
            turns.write(turns.measure('products', what, made, turns.matmul_rates(dtype=dtype), FLAGS.turns), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_list('shapes', ['1024x768x3072', '1024x3072x768', '768x384x1536'], 'Rows x inputs x outputs.')
    flags.DEFINE_list('dtypes', [DType.float32.value, DType.bfloat16.value], 'Of activations and operands.')
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which a JSON line for each shape and dtype is appended.')
    cli.run(main)
