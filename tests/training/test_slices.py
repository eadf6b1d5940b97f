"""The order of devices in a mesh over several slices: one axis goes across, all others stay within, as close as in one slice."""

import dataclasses

import jax
from jax.experimental import mesh_utils
import numpy as np
import pytest

from t5x_lite.config import MeshConfig
from t5x_lite.errors import UserError
from t5x_lite.training import partitioning, slices
from t5x_lite.training.partitioning import AXES
from tests.training import small


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks of a device before it gives it a place in a mesh."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    device_kind: str
    platform: str = 'tpu'
    core_on_chip: int = 0
    process_index: int = 0


def chips(count: int, shape: tuple[int, int, int], kind: str) -> list[Chip]:
    """Of so many slices, as `jax.devices` has them."""
    places = [tuple(reversed(place)) for place in np.ndindex(*reversed(shape))]
    return [Chip(1000 * number + place, number, where, kind) for number in range(count) for place, where in enumerate(places)]


TPUS = [
    (2, (4, 4, 1), 'TPU v6 lite', (4, 4, 1, 1)), (4, (2, 2, 2), 'TPU v5', (1, 4, 2, 1)), (3, (4, 2, 1), 'TPU v6 lite', (4, 2, 1, 1)),
    (2, (2, 2, 4), 'TPU v4', (4, 4, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize('along', AXES)
@pytest.mark.parametrize('count, shape, kind, inner', TPUS, ids=str)
def test_one_axis_goes_across_and_the_others_stay_within(count, shape, kind, inner, along):
    devices, axis = chips(count, shape, kind), AXES.index(along)
    sizes = dict(zip(AXES, inner)) | {along: inner[axis] * count}
    placed = slices.order(sizes, slices.apart(MeshConfig(), devices), along)
    numbers = np.vectorize(lambda chip: chip.slice_index)(placed)
    across = np.moveaxis(numbers, axis, 0)
    assert placed.shape == tuple(sizes.values()) and len(set(placed.reshape(-1).tolist())) == len(devices)
    for place, part in enumerate(across):
        assert (part == place // inner[axis]).all()
    # As JAX lays a mesh over several slices, which lays each as it would alone.
    dcn = [count if name == along else 1 for name in AXES]
    theirs = mesh_utils.create_hybrid_device_mesh(inner, dcn, devices)
    assert (placed == theirs).all()


FLAT = [((4, 4, 1), (1, 16, 1, 1), (4, 4)), ((8, 8, 1), (4, 16, 1, 1), (4, 4)), ((16, 16, 1), (16, 16, 1, 1), (4, 4)), ((4, 8, 1), (1, 8, 4, 1), (2, 4))]


@pytest.mark.parametrize('shape, sizes, block', FLAT, ids=str)
def test_axes_of_a_v5e_are_blocks(shape, sizes, block):
    """Of chips in rows, the axes that send most the squarest; of all chips, each once."""
    placed = slices.order(dict(zip(AXES, sizes)), [chips(1, shape, 'TPU v5 lite')], 'data')
    assert placed.shape == sizes and len({chip.id for chip in placed.reshape(-1)}) == np.prod(shape)
    for group in np.moveaxis(placed, AXES.index('fsdp'), -1).reshape(-1, sizes[1]):
        places = np.array([chip.coords[:2] for chip in group]).reshape(*block, 2)
        steps = np.diff(places[:, 0, 0]), np.diff(places[0, :, 1])
        assert (places[..., 0] == places[:, :1, 0]).all() and (places[..., 1] == places[:1, :, 1]).all()
        assert all(len(set(step.tolist())) == 1 for step in steps)


def test_devices_say_how_many_slices_there_are():
    """So that one config runs on any number of them."""
    for count in (1, 2, 4):
        parts = slices.apart(MeshConfig(), chips(count, (2, 2, 1), 'TPU v5 lite'))
        assert [len(part) for part in parts] == [4] * count
    shuffled = [chips(2, (2, 2, 1), 'TPU v5 lite')[place] for place in (5, 0, 7, 2, 1, 4, 3, 6)]
    assert [{chip.slice_index for chip in part} for part in slices.apart(MeshConfig(slices=2), shuffled)] == [{0}, {1}]
    hosts = [dataclasses.replace(chip, platform='gpu', device_kind='NVIDIA H100 80GB HBM3') for chip in chips(2, (4, 1, 1), '')]
    placed = slices.order({'data': 2, 'fsdp': 4, 'tensor': 1, 'sequence': 1}, slices.apart(MeshConfig(), hosts), 'data')
    assert [{chip.slice_index for chip in row} for row in placed.reshape(2, 4)] == [{0}, {1}]


def test_devices_that_do_not_say_are_made_into_slices_in_their_order():
    devices = jax.devices()
    assert slices.apart(MeshConfig(), devices) == [devices] and slices.apart(MeshConfig(slices=2), devices) == [devices[:4], devices[4:]]
    run = small.config(mesh={'data': 2, 'fsdp': 4, 'slices': 2})
    assert partitioning.make_mesh(run).devices.reshape(-1).tolist() == devices
    run = small.config(mesh={'data': 2, 'fsdp': 4, 'slices': 2, 'slices_along': 'fsdp'})
    first, second = partitioning.make_mesh(run).devices.reshape(2, 4)
    assert [*first, *second] == [devices[place] for place in (0, 1, 4, 5, 2, 3, 6, 7)]


def test_numbers_that_do_not_fit():
    two = chips(2, (2, 2, 1), 'TPU v5 lite')
    with pytest.raises(UserError, match='config.mesh.slices=4, but the 8 devices say that they are of 2; leave it at -1'):
        slices.apart(MeshConfig(slices=4), two)
    with pytest.raises(UserError, match='config.mesh.slices=1, but the 8 devices say that they are of 2'):
        slices.apart(MeshConfig(slices=1), two)
    with pytest.raises(UserError, match='the slices of this run have 4, 3 devices; a mesh needs as many of each'):
        slices.apart(MeshConfig(), two[:-1])
    with pytest.raises(UserError, match='config.mesh.slices=2, but the 4 devices say that they are of 1'):
        slices.apart(MeshConfig(slices=2), two[:4])
    with pytest.raises(UserError, match='config.mesh.slices=3 does not divide 8 devices; choose a number that does'):
        partitioning.make_mesh(small.config(mesh={'slices': 3}))
    with pytest.raises(UserError, match='config.mesh.data=1 goes across 2 slices, which do not divide it; --config.mesh.slices_along=fsdp sends'):
        partitioning.make_mesh(small.config(mesh={'data': 1, 'fsdp': 8, 'slices': 2}))
    with pytest.raises(UserError, match='config.mesh.data=1 goes across 3 slices, .*; one axis must be a multiple of 3'):
        slices.within({'data': 1, 'fsdp': 4, 'tensor': 2, 'sequence': 1}, 3, 'data')


@pytest.mark.parametrize('field, value, said', [
    ('slices', 0, 'config.mesh.slices is 0; it is above 0, or -1'),
    ('slices_along', 'date', "config.mesh.slices_along is 'date', which is no mesh axis; did you mean 'data'"),
])  # fmt: skip
def test_fields_that_cannot_be(field, value, said):
    with pytest.raises(UserError, match=said):
        small.config(mesh={field: value})
