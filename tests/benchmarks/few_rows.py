"""Products of a few rows, of decoding, in ways that a compiler for CPUs could take them: the time is that of reading the weights, or should be.

    python -m tests.benchmarks.few_rows [--rows=1,8] [--inputs=768] [--outputs=3072] [--turns=15] [--output=FILE]

Each turn multiplies the rows by as many weights one after another as no cache holds. `ours` is what predictions do (t5x_lite/models/products.py): in float32 by
kernels that lie the other way round, in bfloat16 with the rows padded to four.
"""

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import cli
from t5x_lite.models.placing import Placing
from t5x_lite.models.products import placed_product, turned_product
from tests.benchmarks import turns

FLAGS = flags.FLAGS
_MEGABYTES = 200  # of float32 weights


def competitors(rows: int, inputs: int, outputs: int) -> dict[str, turns.Competitor]:
    draw, narrow = np.random.default_rng(0), jnp.bfloat16
    count = max(_MEGABYTES * 250_000 // (inputs * outputs), 1)
    x = jnp.asarray(draw.normal(size=(rows, inputs)), jnp.float32)
    kernels = [jnp.asarray(draw.normal(size=(inputs, outputs)), jnp.float32) for _ in range(count)]
    turned = [jnp.asarray(np.asarray(kernel).T) for kernel in kernels]

    def one_by_one(x, kernel):
        return jnp.einsum('ND,DF->NF', x, kernel, preferred_element_type=jnp.float32)

    def summed_over_rows(x, kernel):
        return jnp.sum(x.astype(jnp.float32)[:, :, None] * kernel.astype(jnp.float32)[None], axis=1)

    def summed_over_columns(x, kernel_FD):
        return jnp.sum(x.astype(jnp.float32)[:, None, :] * kernel_FD.astype(jnp.float32)[None], axis=2)

    def padded_and_turned(x, kernel_FD):
        return turned_product(jnp.pad(x, ((0, max(4 - rows, 0)), (0, 0))), kernel_FD)[:rows]

    functions = {
        'ours, bfloat16': (narrow, kernels, lambda x, kernel: placed_product('ND,DF->NF', x, kernel, narrow, Placing())),
        'ours, float32': (jnp.float32, turned, turned_product),
        'bfloat16, as it is': (narrow, kernels, one_by_one),
        'bfloat16, turned': (narrow, turned, padded_and_turned),
        'bfloat16, widened to float32 and turned': (narrow, turned, lambda x, kernel: turned_product(x.astype(jnp.float32), kernel.astype(jnp.float32))),
        'bfloat16, multiplied and summed, [D, F]': (narrow, kernels, summed_over_rows),
        'bfloat16, multiplied and summed, [F, D]': (narrow, turned, summed_over_columns),
    }
    made = {}
    for name, (dtype, weights, function) in functions.items():

        def all_of_them(x, weights, function=function):
            return sum(jnp.sum(function(x, weight).astype(jnp.float32)) for weight in weights)

        given = x.astype(dtype), [weight.astype(dtype) for weight in weights]
        compiled = jax.jit(all_of_them).lower(*given).compile()
        made[name] = turns.Competitor(lambda compiled=compiled, given=given: jax.block_until_ready(compiled(*given)), {'products': count})
    return made


def main(argv: list[str]) -> None:
    del argv
    for rows in map(int, FLAGS.rows):
        what = f'Rows x inputs x outputs {rows}x{FLAGS.inputs}x{FLAGS.outputs}, weights read from memory'
        turns.write(turns.measure('few_rows', what, competitors(rows, FLAGS.inputs, FLAGS.outputs), None, FLAGS.turns), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_list('rows', ['1', '8'], 'That are multiplied by each weight.')
    flags.DEFINE_integer('inputs', 768, 'Of a weight.', lower_bound=1)
    flags.DEFINE_integer('outputs', 3072, 'Of a weight.', lower_bound=1)
    flags.DEFINE_integer('turns', 15, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which a JSON line for each number of rows is appended.')
    cli.run(main)
