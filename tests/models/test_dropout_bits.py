"""What draws dropout: as good as coins in every direction, and made where it is used."""

import re

import jax
from jax.extend import random as jax_random
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from t5x_lite.config import DropoutBits
from t5x_lite.models.dropout import DropoutKey, _threefry, dropout, random_bits

ROWS, SIZES = 32, (64, 128)
WORDS = ROWS * SIZES[0] * SIZES[1]

_random_bits = jax.jit(random_bits, static_argnums=(1, 2))
both = pytest.mark.parametrize('kind', list(DropoutBits))


def key(kind, seed=0, step=0, rows=ROWS):
    return DropoutKey.create(seed, jnp.int32(step), jnp.arange(rows), kind)


def words(given, site=0):
    """uint32 [rows, *SIZES]."""
    places = [jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis, shape in ((1, (1, SIZES[0], 1)), (2, (1, 1, SIZES[1])))]
    return np.asarray(_random_bits(given, site, SIZES, places))


def assert_independent(first, second):
    """Each bit of one agrees with the same bit of the other as often as two coins do: all 32 within five standard deviations."""
    differs = np.array([np.mean((first ^ second) >> bit & 1) for bit in range(32)])
    assert np.abs(differs - 0.5).max() < 5 * 0.5 / np.sqrt(first.size), differs


@both
def test_bytes_are_uniform(kind):
    """Chi-square of each of the four bytes, 255 degrees of freedom, and of consecutive words' low bytes together (65,535)."""
    found = words(key(kind)).ravel()
    for shift in (0, 8, 16, 24):
        counts = np.bincount(found >> shift & 255, minlength=256)
        assert abs(np.sum((counts - WORDS / 256) ** 2) / (WORDS / 256) - 255) < 5 * np.sqrt(2 * 255)
    pairs = (found[0::2] & 255) << 8 | found[1::2] & 255
    counts, wanted = np.bincount(pairs, minlength=65536), WORDS / 2 / 65536
    assert abs(np.sum((counts - wanted) ** 2) / wanted - 65535) < 5 * np.sqrt(2 * 65535)


@both
def test_mean_and_variance_are_those_of_uniform_numbers(kind):
    unit = words(key(kind)).astype(np.float64) / 2**32
    assert abs(unit.mean() - 0.5) < 5 * np.sqrt(1 / 12 / WORDS)
    assert abs(unit.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / WORDS)


@both
@pytest.mark.parametrize('shift', [(0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 8, 0), (1, 0, 0), (1, 1, 1)], ids=str)
def test_neighbours_are_independent(kind, shift):
    found = words(key(kind))
    assert_independent(found, np.roll(found, shift, (0, 1, 2)))


@both
def test_adjacent_keys_are_independent(kind):
    base = words(key(kind))
    assert_independent(base, words(key(kind), site=1))
    for other in (key(kind, seed=1), key(kind, seed=1 << 31), key(kind, step=1), key(kind).fold(0), key(kind).fold(1)):
        assert_independent(base, words(other))
    assert_independent(words(key(kind).fold(0)), words(key(kind).fold(1)))
    # Rows of one step beside other rows of the next: a sum of row and step would make them the same.
    assert_independent(base[1:], words(key(kind, step=1))[:-1])


@both
@pytest.mark.parametrize('rate', [0.01, 0.1, 0.5])
def test_shares_by_row_position_and_column_spread_as_those_of_coins(kind, rate):
    """Means over each axis have the variance that independent draws give."""
    kept = words(key(kind)) >= np.uint32(round(rate * 2**32))
    for axes in ((1, 2), (0, 2), (0, 1)):
        shares = kept.mean(axes)
        spread = shares.var() / (rate * (1 - rate) / (WORDS / shares.size))
        assert abs(spread - 1) < 5 * np.sqrt(2 / shares.size), (axes, spread)


def test_the_two_draw_apart():
    assert_independent(words(key(DropoutBits.hash)), words(key(DropoutBits.threefry)))


def test_threefry_is_that_of_jax():
    rng = np.random.default_rng(0)
    for first, second, counter in rng.integers(0, 2**32, (4, 3), dtype=np.uint32):
        theirs = jax_random.threefry_2x32((jnp.uint32(first), jnp.uint32(second)), jnp.array([counter, 0], jnp.uint32))
        assert int(_threefry(jnp.uint32(first), jnp.uint32(second), jnp.uint32(counter))) == int(theirs[0])
    assert int(_threefry(jnp.uint32(0), jnp.uint32(0), jnp.uint32(0))) == 0x6B200159  # the authors' known answer


@both
def test_each_device_of_a_mesh_makes_its_own_bits_and_no_others(kind):
    """The compiled program of a device has no array of more elements than its part, and talks to no other device."""
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    shape, parts = (16, 24, 40), NamedSharding(mesh, PartitionSpec('data', None, 'tensor'))
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def drop(x):
        return dropout(x, 0.1, key(kind, rows=16), 3)

    compiled = jax.jit(drop, in_shardings=parts, out_shardings=parts).lower(x).compile()
    text = compiled.as_text()
    largest = max(np.prod([int(size) for size in sizes.split(',')]) for sizes in re.findall(r'[a-z]\w*\[([\d,]+)\]', text))
    assert largest == np.prod(shape) // 8
    assert not re.search('all-gather|all-reduce|all-to-all|collective-permute', text)
    np.testing.assert_array_equal(compiled(jax.device_put(x, parts)), jax.jit(drop)(x))
