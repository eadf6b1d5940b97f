"""Dropout whose bits are a pure function of (seed, step, layer, site, row, position): a counter-based generator, computed where the element lives."""

from collections.abc import Sequence

from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import DropoutBits


@struct.dataclass
class DropoutKey:
    """Says which elements drop out as a pure function of (seed of the step, layer, site, row of the global batch, position in the row).

    A counter-based hash, computed where the element lives: the same on any mesh, for any number of microbatches, scanned or unrolled.
    """

    seed: jax.Array  # uint32 []
    rows: jax.Array  # uint32 [B], positions in the global batch
    bits: DropoutBits = struct.field(pytree_node=False, default=DropoutBits.hash)

    @classmethod
    def create(cls, seed: int | jax.Array, step: jax.Array, rows: jax.Array, bits: DropoutBits = DropoutBits.hash) -> 'DropoutKey':
        seed = jnp.uint32(seed & 0xFFFFFFFF) if isinstance(seed, int) else seed  # uint32 []
        return cls(_mix(_mix(seed) ^ step.astype(jnp.uint32)), rows.astype(jnp.uint32), bits)

    def fold(self, number: int | jax.Array) -> 'DropoutKey':
        """The key of a layer, or of a site in a layer."""
        return self.replace(seed=_mix(self.seed + jnp.uint32(0x9E3779B9) * (jnp.asarray(number, jnp.uint32) + jnp.uint32(1))))


def _mix(x: jax.Array) -> jax.Array:
    """An integer hash of 32 bits with low bias (multipliers found by Chris Wellons' hash-prospector search)."""
    x = x ^ (x >> jnp.uint32(16))
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> jnp.uint32(15))
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))


@jax.named_scope('dropout')
def dropout(x: jax.Array, rate: float, key: DropoutKey | None, site: int) -> jax.Array:
    """Zeroes a share `rate` of x [B, ...] and scales the rest by 1 / (1 - rate); x itself where key is None.

    `site` tells apart the places of one layer.
    """
    if key is None or rate == 0.0:
        return x
    keep = kept(rate, key, site, x.shape[1:], [jax.lax.broadcasted_iota(jnp.uint32, _along(x, axis), axis) for axis in range(1, x.ndim)])
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def kept(rate: float, key: DropoutKey, site: int, sizes: Sequence[int], places: Sequence[jax.Array]) -> jax.Array:
    """bool: which elements of an array [B, *sizes] `dropout` keeps; of a part of it, where `places` are those of a part.

    Args:
      places: uint32, of each axis of `sizes` the places that are asked for, along its own axis of the result.
    """
    return random_bits(key, site, sizes, places) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def random_bits(key: DropoutKey, site: int, sizes: Sequence[int], places: Sequence[jax.Array]) -> jax.Array:
    """uint32: what `kept` compares with the rate."""
    key = key.fold(site)
    expand = (slice(None),) + (None,) * len(sizes)
    counter = jnp.zeros((1,) * (len(sizes) + 1), jnp.uint32)
    for size, place in zip(sizes, places, strict=True):
        counter = counter * jnp.uint32(size) + place
    if key.bits is DropoutBits.threefry:
        return _threefry(key.seed, key.rows[expand], counter)
    # Two keyed rounds: with one, the streams of two rows would be permutations of each other.
    row_key = _mix(key.seed ^ _mix(key.rows))
    return _mix(_mix(counter ^ row_key[expand]) + _mix(row_key + jnp.uint32(0x85EBCA6B))[expand])


def _threefry(first: jax.Array, second: jax.Array, counter: jax.Array) -> jax.Array:
    """Threefry-2x32 with 20 rounds (Salmon et al., 2011, table 1 and section 3.3) of the counter (counter, 0): the first of its two words."""
    keys = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    x, y = counter + first, second
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = ((y << jnp.uint32(bits)) | (y >> jnp.uint32(32 - bits))) ^ x
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x


def _along(x: jax.Array, axis: int) -> tuple[int, ...]:
    return tuple(size if i == axis else 1 for i, size in enumerate(x.shape))
