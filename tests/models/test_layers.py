import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.models.dropout import DropoutKey, dropout
from t5x_lite.models.layers import Einsum, Embedding, LayerNorm, hide_padded, like_trailing, plus, sinusoidal, times, truncated_normal
from t5x_lite.models.products import product


def key(step=0, rows=4, seed=0):
    return DropoutKey.create(seed, jnp.int32(step), jnp.arange(rows))


def test_layer_norm_keeps_precision_far_from_zero():
    x = np.random.default_rng(0).normal(1e4, 1.0, (2, 3, 256)).astype(np.float32)
    norm = LayerNorm(1e-12, jnp.float32)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    exact = (x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)) / x.astype(np.float64).std(-1, keepdims=True)
    np.testing.assert_allclose(y, exact, atol=2e-3)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_product_has_the_gradients_of_its_einsum(dtype):
    rng = np.random.default_rng(0)
    x, kernel, weights = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8), (8, 5), (2, 3, 5)))

    def ours(x, kernel):
        return jnp.sum(product('BLD,DF->BLF', x, kernel, dtype).astype(jnp.float32) * weights)

    def plain(x, kernel):
        return jnp.sum(jnp.einsum('BLD,DF->BLF', x, kernel) * weights)

    for got, want in zip(jax.grad(ours, (0, 1))(x, kernel), jax.grad(plain, (0, 1))(x, kernel), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if dtype == jnp.float32 else 0.1)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    'equation,x_shape,kernel_shape',
    [('BLD,DF->BLF', (2, 3, 8), (8, 5)), ('BLD,DF->BLF', (3, 5, 8), (8, 5)), ('BLD,DF->BLF', (1, 6, 8), (8, 5)), ('ND,VD->NV', (6, 8), (5, 8)),
     ('ND,DV->NV', (7, 8), (8, 5)), ('BPD,VD->BPV', (2, 3, 8), (5, 8)), ('BD,DE->BE', (1, 8), (8, 5))],
)  # fmt: skip
def test_gradients_of_every_shape_are_those_of_the_plain_product(equation, x_shape, kernel_shape, dtype):
    """Of numbers that all dtypes hold exactly (small integers, sums below 2^11), so that every form of the product gives the same bits."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.integers(-3, 4, shape), jnp.float32) for shape in (x_shape, kernel_shape))
    weights = jnp.asarray(rng.integers(-3, 4, jax.eval_shape(lambda: jnp.einsum(equation, x, kernel)).shape), jnp.float32)

    def gradients(multiply):
        return jax.grad(lambda x, kernel: jnp.sum(multiply(x, kernel).astype(jnp.float32) * weights), (0, 1))(x, kernel)

    forms = {
        'as it is': lambda x, kernel: product(equation, x, kernel, dtype),
        'recomputed': jax.checkpoint(lambda x, kernel: product(equation, x, kernel, dtype)),
        'looped': lambda x, kernel: jax.lax.scan(lambda _, one: (None, product(equation, *one, dtype)), None, (x[None], kernel[None]))[1][0],
        'stacked': lambda x, kernel: jax.vmap(lambda *one: product(equation, *one, dtype))(x[None], kernel[None])[0],
    }
    wanted, found = jax.jit(lambda: (gradients(lambda x, kernel: jnp.einsum(equation, x, kernel)), {name: gradients(form) for name, form in forms.items()}))()
    for name, got in found.items():
        jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other, err_msg=name), got, wanted)


def test_parameters_of_the_last_axes_have_gradients_that_are_summed_in_float32():
    """300 ones: sums in bf16 end at 256. In float32 nothing changes, by a bit."""
    for function in (plus, times):
        x, parameter = jnp.ones((3, 100, 2), jnp.bfloat16), jnp.ones(2)
        x_gradient, gradient = jax.grad(lambda x, parameter: jnp.sum(function(x, parameter).astype(jnp.float32)), (0, 1))(x, parameter)
        assert gradient.dtype == jnp.float32 and x_gradient.dtype == jnp.bfloat16
        np.testing.assert_array_equal(gradient, [300.0, 300.0])
    rng = np.random.default_rng(0)
    x, weights, parameter = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 100, 2), (3, 100, 2), (2,)))
    for function, plain in ((plus, lambda x, p: x + like_trailing(p, x)), (times, lambda x, p: x * like_trailing(p, x))):
        ours, theirs = (jax.value_and_grad(lambda *given: jnp.sum(f(*given) * weights), (0, 1))(x, parameter) for f in (function, plain))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_bf16_products_accumulate_in_float32():
    """4,096 ones and one 0.5 x 0.5 are lost in bf16 sums (8 bits), not in float32 ones."""
    x, kernel = jnp.ones((1, 4097)).at[0, -1].set(0.5), jnp.ones((4097, 1)).at[-1, 0].set(0.5)
    value = jnp.einsum('ij,jk->ik', x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    assert float(value[0, 0]) == 4096.25
    _, pullback = jax.vjp(lambda k: product('BD,DF->BF', jnp.ones((4097, 1)), k, jnp.bfloat16), jnp.ones((1, 1)))
    assert float(pullback(jnp.ones((4097, 1), jnp.bfloat16))[0][0, 0]) == 4097


def test_einsum_is_a_kernel_and_a_bias():
    layer = Einsum((4, 6), ('embed', 'mlp'), jnp.float32, truncated_normal(0.02))
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    boxed = layer.init(jax.random.key(0), 'BLD,DF->BLF', x)
    params = nn.unbox(boxed)['params']
    assert boxed['params']['kernel'].names == ('embed', 'mlp') and boxed['params']['bias'].names == ('mlp',)
    params['bias'] = jnp.arange(6, dtype=jnp.float32)
    np.testing.assert_allclose(layer.apply({'params': params}, 'BLD,DF->BLF', x), x @ np.asarray(params['kernel']) + np.arange(6, dtype=np.float32), rtol=1e-5)


def test_rows_that_pad_a_vocabulary_start_at_zero_and_the_others_do_not_depend_on_them():
    exact, padded = (
        nn.unbox(Embedding((100, 8), ('vocab', 'embed'), jnp.float32, truncated_normal(0.02), rows).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
        for rows in (0, 128)
    )
    exact, padded = (tree['params']['embedding'] for tree in (exact, padded))
    np.testing.assert_array_equal(padded[:100], exact)
    assert padded.shape == (128, 8) and not padded[100:].any() and exact.any(axis=1).all()


def test_sinusoidal_positions_are_of_the_asked_size_and_rotate():
    """The scalar product of two positions depends on their distance alone: what a fixed linear map can shift."""
    table = np.asarray(sinusoidal(0.02)(None, (64, 32), jnp.float32), np.float64)
    np.testing.assert_allclose(np.sqrt(np.mean(table**2)), 0.02, rtol=1e-6)
    products = table @ table.T
    for distance in (1, 5, 20):
        np.testing.assert_allclose(np.diagonal(products, distance), products[0, distance], atol=1e-7)
    assert len({round(value, 7) for value in products[0]}) == 64


def test_hidden_columns_take_no_probability():
    logits = hide_padded(jnp.ones((2, 128)), 100)
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, :100], 0.01, rtol=1e-6)


class TestDropout:
    def test_rate_and_scale(self):
        x = jnp.ones((64, 128, 32))
        for rate in (0.1, 0.5, 0.9):
            y = dropout(x, rate, key(rows=64), 0)
            kept = float(jnp.mean(y > 0))
            assert abs(kept - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / x.size)
            np.testing.assert_allclose(y[y > 0], 1 / (1 - rate), rtol=1e-6)

    def test_none_and_zero_are_the_identity(self):
        x = jnp.ones((2, 3))
        assert dropout(x, 0.5, None, 0) is x and dropout(x, 0.0, key(rows=2), 0) is x

    def test_a_row_drops_the_same_wherever_it_is_in_a_part(self):
        """A microbatch or a shard holds some rows of the global batch."""
        x = jnp.ones((8, 5, 7))
        whole = dropout(x, 0.5, key(rows=8), 1)
        part = dropout(x[3:5], 0.5, key(rows=8).replace(rows=jnp.array([3, 4], jnp.uint32)), 1)
        np.testing.assert_array_equal(whole[3:5], part)

    @pytest.mark.parametrize('other', ['step', 'site', 'layer', 'seed', 'row'])
    def test_everything_that_names_a_mask_changes_it(self, other):
        x = jnp.ones((1, 4096))
        base = dropout(x, 0.5, key(rows=1), 0) > 0
        changed = {
            'step': dropout(x, 0.5, key(step=1, rows=1), 0),
            'site': dropout(x, 0.5, key(rows=1), 1),
            'layer': dropout(x, 0.5, key(rows=1).fold(1), 0),
            'seed': dropout(x, 0.5, key(rows=1, seed=1), 0),
            'row': dropout(x, 0.5, key(rows=1).replace(rows=jnp.array([1], jnp.uint32)), 0),
        }[other]
        agree = float(jnp.mean(base == (changed > 0)))
        assert abs(agree - 0.5) < 4 * np.sqrt(0.25 / x.size)  # independent coins agree half the time

    def test_neighbours_are_independent(self):
        """Correlations of the masks at small distances in any axis, and between rows, are those of independent coins."""
        kept = np.asarray(dropout(jnp.ones((16, 64, 64)), 0.5, key(rows=16), 0) > 0, np.float64) - 0.5
        for shift in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (0, 2, 0), (8, 0, 0)):
            correlation = 4 * np.mean(kept * np.roll(kept, shift, (0, 1, 2)))
            assert abs(correlation) < 4 / np.sqrt(kept.size), shift
        assert np.corrcoef(kept.reshape(16, -1))[np.triu_indices(16, 1)].std() < 1.5 / np.sqrt(64 * 64)
