import jax
import jax.numpy as jnp
import numpy as np
from t5x_lite.models.attention import Mask
from t5x_lite.models.kernels import dense_attention
from tests import golden


def arrays(batch=2, length=6, heads=2, size=4):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(batch, length, heads, size)), jnp.float32) for _ in range(3)]


def test_is_the_formula():
    q, k, v = arrays()
    out = dense_attention(q, k, v, Mask(), scale=0.5)
    for b in range(2):
        for h in range(2):
            scores = np.asarray(q[b, :, h] @ k[b, :, h].T) * 0.5
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            np.testing.assert_allclose(out[b, :, h], weights @ np.asarray(v[b, :, h]), atol=1e-5)


def test_masks_as_literal_matrices():
    keys = Mask(keys_BM=jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(keys.dense(1, 3)[0, 0], [[1, 1, 0]])
    packed = Mask(packed_BL=jnp.array([[1, 1, 2, 0]]))
    np.testing.assert_array_equal(packed.dense(4, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    both = Mask(keys_BM=jnp.array([[True, False, True, True]]), packed_BL=jnp.array([[1, 1, 2, 0]]))
    np.testing.assert_array_equal(both.dense(4, 4)[0, 0], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert Mask().dense(2, 2) is None


def test_attention_does_not_cross_sequences_of_a_row():
    """Shown by the gradient: what a position of the first sequence gives does not depend on any key or value of the second."""
    q, k, v = arrays(batch=1)
    packed = Mask(packed_BL=jnp.array([[1, 1, 1, 2, 2, 0]]))
    jacobians = jax.jacobian(lambda k, v: dense_attention(q, k, v, packed, scale=0.5)[0], (0, 1))(k, v)
    for jacobian in jacobians:
        depends = np.abs(np.asarray(jacobian)[:, :, :, 0]).sum(axis=(1, 2, 4, 5)) > 0  # [query, key]
        np.testing.assert_array_equal(depends[:3, 3:], False)
        np.testing.assert_array_equal(depends[3:5, [0, 1, 2, 5]], False)
        assert depends[:3, :3].all() and depends[3:5, 3:5].all()


def test_a_query_that_may_attend_to_nothing_gives_zeros_and_finite_gradients():
    q, k, v = arrays(batch=1)
    mask = Mask(packed_BL=jnp.array([[1, 1, 1, 1, 0, 0]]))
    out, gradients = jax.value_and_grad(lambda *x: jnp.sum(jnp.square(dense_attention(*x, mask, scale=0.5))), (0, 1, 2))(q, k, v)
    assert np.isfinite(out) and all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_array_equal(dense_attention(q, k, v, mask, scale=0.5)[0, 4:], 0)


def test_hidden_keys_do_not_matter():
    q, k, v = arrays()
    mask = Mask(keys_BM=jnp.arange(6)[None] < jnp.array([[4], [6]]))
    changed = dense_attention(q, k.at[0, 4:].set(99.0), v.at[0, 4:].set(-99.0), mask, scale=0.5)
    np.testing.assert_array_equal(dense_attention(q, k, v, mask, scale=0.5), changed)


def test_causal_masks_as_literal_matrices():
    causal = Mask(causal=True)
    np.testing.assert_array_equal(causal.dense(3, 3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(causal.replace(first=jnp.int32(1)).dense(2, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 1, 0]])
    banded = causal.replace(window=jnp.int32(2))
    np.testing.assert_array_equal(banded.dense(4, 4)[0, 0], [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])
    prefix = causal.replace(prefix_BM=jnp.array([[True, True, False, False]]))
    np.testing.assert_array_equal(prefix.dense(4, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    two = Mask(causal=True, packed_BL=jnp.array([[1, 1, 2, 2]]), prefix_BM=jnp.array([[True, True, True, False]]))
    np.testing.assert_array_equal(two.dense(4, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]])
    apart = causal.replace(prefix_BM=jnp.array([[True, False, False, True]]))  # a place after the prefix does not see what is beyond it
    np.testing.assert_array_equal(apart.dense(4, 4)[0, 0], [[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(apart.replace(first=jnp.int32(2)).dense(2, 4)[0, 0], [[1, 1, 1, 0], [1, 1, 1, 1]])
    across = Mask(packed_BL=jnp.array([[1, 2]]), packed_BM=jnp.array([[1, 1, 2, 0]]))
    np.testing.assert_array_equal(across.dense(2, 4)[0, 0], [[1, 1, 0, 0], [0, 0, 1, 0]])


def padding(case):
    tokens = jnp.array(case['input']['tokens'])
    check(case, Mask(packed_BL=(tokens > 0).astype(jnp.int32)).dense(*tokens.shape[1:] * 2)[:, 0])


def segments(case):
    ids = jnp.array(case['input']['segment_ids']) + 1  # ours gives padding, 0, nothing to see
    check(case, Mask(packed_BL=ids).dense(*ids.shape[1:] * 2)[:, 0])


def causal(case):
    length = len(case['input']['tokens'][0])
    check(case, np.broadcast_to(Mask(causal=True).dense(length, length)[0], np.shape(case['expected'])))


def combined(case):
    """By 'and', over the fields of a mask."""
    first, _, second, third = (None if part is None else jnp.array([part]) for part in case['input'])
    check(case, Mask(keys_BM=(first > 0) & (third > 0), packed_BL=jnp.ones((1, 4), jnp.int32), packed_BM=second).dense(4, 4)[0, 0, 0])


def of_decoder(case):
    tokens, ids, prefix = (None if part is None else jnp.array(part) for part in case['input'].values())
    packed = (tokens > 0).astype(jnp.int32) if ids is None else ids
    check(case, Mask(causal=True, packed_BL=packed, prefix_BM=None if prefix is None else prefix > 0).dense(*tokens.shape[1:] * 2)[:, 0])


def check(case, found):
    np.testing.assert_array_equal(np.asarray(found, np.int32), case['expected'])


def test_golden_masks():
    checks = {
        'padding mask (token > 0 for query and key)': padding, 'segment-equality mask (padding not treated specially)': segments,
        'causal mask (padding not treated specially)': causal, 'causal mask': causal, 'combine masks (and)': combined, 'decoder mask': of_decoder,
    }  # fmt: skip
    left = {
        'causal mask shape, 2 extra batch dims': 'our masks are [B, 1, L, M] without further axes',
        'combine biases (sum)': 'scores have one bias, that of relative positions',
    }
    golden.hold('masks', checks, left)
