"""FLOPs of products in HLO, loops' trips multiplied: what XLA's own cost analysis gets wrong."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.planning import hlo, products
from tests.planning import fixture

LAYERS, ROWS, WIDTH = 6, 16, 32


def stack(layers: int, unroll: int = 1):
    """(loss of a stack of products, shapes of its weights and input)."""

    def loss(weights, x):
        def layer(x, weight):
            return jnp.tanh(x @ weight), None

        return jnp.sum(jax.lax.scan(layer, x, weights, unroll=unroll)[0])

    return loss, (jax.ShapeDtypeStruct((layers, WIDTH, WIDTH), jnp.float32), jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32))


def compiled(function, *shapes) -> hlo.Module:
    return hlo.parse(jax.jit(function).lower(*shapes).compile().as_text())


ONE = 2 * ROWS * WIDTH * WIDTH


def test_a_layer_counts_as_often_as_it_runs():
    loss, shapes = stack(LAYERS)
    found = compiled(loss, *shapes)
    assert products.total(found) == LAYERS * ONE and not found.untold
    assert products.total(compiled(jax.grad(loss), *shapes)) == 3 * LAYERS * ONE
    # What this is for: XLA's own count is that of one layer.
    assert jax.jit(loss).lower(*shapes).compile().cost_analysis()['flops'] < 1.5 * ONE


def test_scanned_counts_as_unrolled():
    counts = [products.total(compiled(jax.grad(loss), *shapes)) for loss, shapes in (stack(LAYERS), stack(LAYERS, unroll=LAYERS))]
    # Unrolled, XLA sees that nobody asks for the gradient of the input.
    assert counts == [3 * LAYERS * ONE, (3 * LAYERS - 1) * ONE]


def test_of_branches_that_do_the_same_one_counts():
    def function(small, x, weight, other):
        return jax.lax.cond(small, lambda: jnp.tanh(x @ weight), lambda: jnp.sin(x @ weight.T)), jax.lax.cond(small, lambda: x @ other, lambda: x @ other @ other)

    shapes = jax.ShapeDtypeStruct((), bool), *(jax.ShapeDtypeStruct((size, WIDTH), jnp.float32) for size in (ROWS, WIDTH, WIDTH))
    assert products.total(compiled(function, *shapes)) == (1 + 3) * ONE, 'of others all do: one of them runs, and which is not known'


def test_loops_within_loops_multiply():
    def function(weights, x):
        def outer(x, _):
            return jax.lax.scan(lambda x, weight: (jnp.tanh(x @ weight), None), x, weights)[0], None

        return jax.lax.scan(outer, x, None, length=5)[0]

    _, shapes = stack(LAYERS)
    assert products.total(compiled(function, *shapes)) == 5 * LAYERS * ONE


def test_trips_are_read_from_the_condition_where_none_are_noted():
    loss, shapes = stack(LAYERS)
    text = jax.jit(loss).lower(*shapes).compile().as_text()
    without = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', '', text)
    assert without != text
    found = hlo.parse(without)
    assert products.total(found) == LAYERS * ONE and not found.untold
    # The program before its compiler notes none either.
    before = hlo.parse(jax.jit(loss).lower(*shapes).as_text(dialect='hlo'))
    assert products.total(before) == LAYERS * ONE and not before.untold


def test_a_loop_that_does_not_tell_is_named():
    def function(x, bound):
        return jax.lax.while_loop(lambda state: state[0] < bound, lambda state: (state[0] + 1, jnp.tanh(state[1] @ state[1])), (0, x))[1]

    found = compiled(function, jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32))
    assert len(found.untold) == 1
    assert products.total(found) == 2 * WIDTH**3


@pytest.mark.parametrize('equation, left, right', [
    ('bij,bjk->bik', (3, 4, 5), (3, 5, 6)),
    ('abij,abkj->abik', (2, 3, 4, 5), (2, 3, 6, 5)),
    ('ij,j->i', (4, 5), (5,)),
    ('bij,bik->jk', (3, 4, 5), (3, 4, 6)),
])  # fmt: skip
def test_products_of_any_shape(equation, left, right):
    sizes = dict(zip(equation.split('->')[0].replace(',', ''), left + right, strict=True))
    found = compiled(lambda x, y: jnp.einsum(equation, x, y), *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (left, right)))
    counted = products.total(found)
    # XLA makes a sum of products of what multiplies with a vector.
    assert counted == 2 * np.prod(list(sizes.values())) or 'dot' not in {one.opcode for _, one, _ in found.instructions()}


def test_convolutions_of_a_tpu_count_as_the_products_that_they_are():
    found = {product.name: product for product in products.products(fixture.module())}
    # 16 x 12 products of [128, 64] and [64, 128], written as one convolution with holes between them.
    batched = found['convolution-base-dilated.1']
    assert batched.flops == 2 * 16 * 12 * 128 * 64 * 128 and batched.times == fixture.TRIPS
    assert 'attention/BLHK,BMHK->BHLM' in batched.place
    assert found['convolution.1'].flops == 2 * 32 * 8 * 8 and found['convolution.1'].times == fixture.TRIPS
    assert len(found) == 2


def test_padding_of_a_convolution_is_no_work():
    x, kernel = jax.ShapeDtypeStruct((2, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 5), jnp.float32)
    found = compiled(lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')), x, kernel)
    assert products.total(found) == 2 * 2 * 3 * 5 * (3 * 8 - 2)


_KERNEL = """HloModule jit_step, is_scheduled=true

ENTRY %main (q.1: bf16[4,12,256,64], k.1: bf16[4,12,512,64], ids.1: s32[4,256]) -> (f32[4,128,64], bf16[4,12,256,64]) {
  %q.1 = bf16[4,12,256,64]{3,2,1,0} parameter(0)
  %k.1 = bf16[4,12,512,64]{3,2,1,0} parameter(1)
  %ids.1 = s32[4,256]{1,0} parameter(2)
  ROOT %splash_mha_KIND.1 = (f32[4,128,64]{2,1,0}, bf16[4,12,256,64]{3,2,1,0}) custom-call(%ids.1, %q.1, %k.1, /*index=5*/%k.1), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128}"
}}, metadata={op_name="jit(step)/attention/splash_mha_KIND/pallas_call" stack_frame_id=2}, backend_config={"custom_call_config":{"body":"TUzv"}}
}
"""


@pytest.mark.parametrize(('kind', 'count'), [('fwd_segmented_residuals', 2), ('dq_no_residuals', 3), ('dkv_segmented_no_residuals', 4)])
def test_kernels_of_attention_count_by_their_shapes(kind, count):
    """Their attributes hold line breaks."""
    module = hlo.parse(_KERNEL.replace('KIND', kind))
    (found,) = products.products(module)
    assert found.total == products.total(module) == count * 2 * 4 * 12 * 256 * 512 * 64
    assert found.place.endswith(f'splash_mha_{kind}/pallas_call')


def test_a_kernel_for_all_gradients_multiplies_once_more():
    text = _KERNEL.replace('KIND', 'dkv_no_residuals').replace('= (f32[4,128,64]{2,1,0}, ', '= (f32[4,128,64]{2,1,0}, bf16[4,2,12,256,64]{4,3,2,1,0}, ')
    assert products.total(hlo.parse(text)) == 5 * 2 * 4 * 12 * 256 * 512 * 64


def test_no_entry():
    with pytest.raises(ValueError, match='no ENTRY'):
        hlo.parse('HloModule empty\n')
