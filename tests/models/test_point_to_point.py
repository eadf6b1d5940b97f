"""Sending from device to device gives what the collectives of JAX give."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from t5x_lite.models import point_to_point


def test_sides_of_a_torus():
    found = {size: point_to_point.sides(size, 4) for size in (1, 2, 4, 6, 7, 8, 16, 18, 25, 32, 64, 121)}
    of_four = {16: [4, 4], 18: [2, 3, 3], 25: [5, 5], 32: [2, 4, 4], 64: [4, 4, 4], 121: [11, 11]}
    assert found == {1: [], 2: [2], 4: [4], 6: [2, 3], 7: [7], 8: [2, 4]} | of_four
    assert [point_to_point.sides(size, 2) for size in (8, 12, 7)] == [[2, 2, 2], [2, 2, 3], [7]]


def test_long_sides_are_taken_by_halves_neighbours_last():
    """8 x 8: (stride, groups that it goes into). Of four, each sends to each."""
    order = point_to_point.steps([('a', 64)], 8)
    assert [(step.side, step.stride, step.outer) for step in order] == [(2, 4, 1), (2, 32, 1), (2, 2, 4), (2, 16, 2), (2, 1, 16), (2, 8, 4)]
    assert [(step.side, step.stride, step.outer) for step in point_to_point.steps([('a', 16)], 4)] == [(4, 1, 1), (4, 4, 1)]
    assert [(step.side, step.stride) for step in point_to_point.steps([('a', 6)], 6)] == [(2, 3), (3, 1)]


def on_devices(sizes, function, x):
    """`function` on each device of a mesh, of its own part of x [devices, ...]."""
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(jax.sharding.AxisType.Auto,) * len(sizes), devices=jax.devices()[: len(x)])
    spec = PartitionSpec(tuple(sizes))
    return np.asarray(jax.jit(jax.shard_map(lambda x: function(x[0])[None], mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))(x))


MESHES = [{'a': 2}, {'a': 6}, {'a': 7}, {'a': 8}, {'a': 2, 'b': 4}, {'a': 4, 'b': 2}]


@pytest.mark.parametrize('dim, longest', [(0, 4), (1, 4), (1, 2), (0, 8), (1, 6)])
@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_parts_are_gathered_and_summed_as_jax_does(sizes, dim, longest):
    count, axes, order = math.prod(sizes.values()), tuple(sizes), point_to_point.steps(list(sizes.items()), longest)
    whole = np.random.default_rng(0).standard_normal((count, 2 * count, 2 * count)).astype(np.float32)

    def gathered(x):
        for step in order:
            x = step.gathered(x, dim)
        return x

    def summed(x):
        for step in reversed(order):
            x = step.summed(x, dim, jnp.float32)
        return x

    part = whole[:, :3, :2] if dim else whole[:, :2, :3]
    np.testing.assert_array_equal(on_devices(sizes, gathered, part), on_devices(sizes, lambda x: jax.lax.all_gather(x, axes, axis=dim, tiled=True), part))
    theirs = on_devices(sizes, lambda x: jax.lax.psum_scatter(x, axes, scatter_dimension=dim, tiled=True), whole)
    np.testing.assert_allclose(on_devices(sizes, summed, whole), theirs, atol=2e-6)


@pytest.mark.parametrize('longest', [4, 8])
@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_what_each_has_for_each_is_exchanged_as_jax_does(sizes, longest):
    count, axes, order = math.prod(sizes.values()), tuple(sizes), tuple(point_to_point.steps(list(sizes.items()), longest))
    parts, weights = np.random.default_rng(0).standard_normal((2, count, count, 3)).astype(np.float32)
    theirs = functools.partial(jax.lax.all_to_all, axis_name=axes, split_axis=0, concat_axis=0, tiled=True)

    def ours(x):
        return point_to_point.exchanged(x, order)

    np.testing.assert_array_equal(on_devices(sizes, ours, parts), on_devices(sizes, theirs, parts))

    def gradients(exchanged):
        return on_devices(sizes, lambda pair: jax.grad(lambda x: jnp.sum(exchanged(x) * pair[1]))(pair[0]), np.stack([parts, weights], axis=1))

    np.testing.assert_array_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize('shape', [(8, 3), (3, 16), (3, 5)], ids=str)  # of the last no dimension divides: added up at once
def test_sums_everywhere(shape):
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    found = on_devices({'a': 2, 'b': 4}, lambda x: point_to_point.summed_everywhere(x, 'b', 4, jnp.float32), x)
    np.testing.assert_allclose(found, np.repeat(x.reshape(2, 4, *shape).sum(1), 4, axis=0), atol=1e-6)


def test_what_arrives_is_added_up_in_float32():
    """1,024 and seven ones in bfloat16, which has no 1,025."""
    x = np.ones((8, 8), np.float32)
    x[0] = 1024
    step = point_to_point.Step('a', 8, 8, 1, 1)
    assert on_devices({'a': 8}, lambda x: step.summed(x.astype(jnp.bfloat16), 0, jnp.bfloat16), x).tolist() == [[1031.0]] * 8
