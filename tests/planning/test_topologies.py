"""Machines by name, their figures, and what is said of those that there are none of."""

import jax
import numpy as np
import pytest

from t5x_lite.errors import UserError
from t5x_lite.planning import topologies
from t5x_lite.training.telemetry import PEAK_FLOPS


@pytest.mark.parametrize('text, kind, shape, chips, compiled', [
    ('v4:2x2x4', 'v4', (2, 2, 4), 16, True),
    ('v5e:16x16', 'v5e', (16, 16), 256, True),
    ('v5p:8x8x8', 'v5p', (8, 8, 8), 512, True),
    ('v6e:4x4', 'v6e', (4, 4), 16, True),
    ('cpu:8', 'cpu', (8,), 8, True),
    ('gpu:8xH100', 'H100', (8,), 8, False),
])  # fmt: skip
def test_names(text, kind, shape, chips, compiled):
    found = topologies.parse(text)
    assert (found.kind, found.shape, found.chips, found.compiled, found.text) == (kind, shape, chips, compiled, text)


def test_several_slices():
    found = topologies.parse('v5e:4x4', 2)
    assert (found.chips, found.shown, found.text, found.timed) == (32, '2 x v5e:4x4', 'v5e:4x4', True) and topologies.parse('v5e:4x4').shown == 'v5e:4x4'
    assert len(topologies.parse('cpu:4', 2).devices()) == 8
    # 6.4 Tbit/s of a pod of 256; none is published of v4.
    assert found.chip.network == 6.4e12 / 8 / 256 and topologies.CHIPS['v6e'].network == 25.6e12 / 8 / 256 and topologies.CHIPS['v5p'].network == 50e9 / 8
    assert not topologies.parse('v4:2x2x4', 2).timed and topologies.parse('v4:2x2x4').timed and not topologies.parse('cpu:4').timed


MISTAKES = [
    ('v5q:4x4x4', "no such machine as 'v5q'", "did you mean 'v5p'?"),
    ('tpu', "no such machine as 'tpu'"),
    ('', "no such machine as ''"),
    ('v5p:4x4', 'a slice of v5p has 3 sides', 'v5p:4x4x4'),
    ('v5e:4x4x4', 'a slice of v5e has 2 sides', 'v5e:4x4'),
    ('v5e:0x4', 'v5e:4x4'),
    ('v5e:4xx4', 'v5e:4x4'),
    ('cpu:none', 'cpu:8'),
    ('cpu:0', 'cpu:8'),
    ('gpu:8', 'gpu:8xH100'),
    ('gpu:H100', 'gpu:8xH100'),
    ('gpu:8xH10', "did you mean 'H100'?"),
]  # fmt: skip


@pytest.mark.parametrize('case', MISTAKES, ids=[case[0] for case in MISTAKES])
def test_mistakes(case):
    text, *said = case
    with pytest.raises(UserError) as error:
        topologies.parse(text)
    assert all(part in str(error.value) for part in said), error.value


def test_too_many_fake_devices():
    jax.devices()  # JAX has begun, with those of the tests
    with pytest.raises(UserError, match='there are 8 CPU devices, and 4096 are asked for'):
        topologies.parse('cpu:4096').devices()
    assert topologies.parse('cpu:8').devices() == jax.devices()


def test_peaks_are_those_that_training_reports_against():
    for kind, name in (('v4', 'TPU v4'), ('v5e', 'TPU v5 lite'), ('v5p', 'TPU v5'), ('v6e', 'TPU v6 lite'), ('H100', 'NVIDIA H100')):
        assert topologies.CHIPS[kind].peak == PEAK_FLOPS[name]


def line(*sides):
    """Coordinates of chips along whole sides of a torus."""
    return np.array(list(np.ndindex(*sides)))


def test_bandwidth_of_a_group():
    v5p = topologies.parse('v5p:4x4x4')
    assert v5p.bandwidth(line(4, 1, 1)) == 2 * 100e9  # a ring, both ways
    assert v5p.bandwidth(line(4, 4, 1)) == 4 * 100e9
    assert v5p.bandwidth(line(2, 1, 1)) == 100e9  # half of a side has no way around
    assert topologies.parse('v5p:2x2x1').bandwidth(line(2, 2, 1)) == 2 * 100e9
    v5e = topologies.parse('v5e:4x4')  # a part of a pod of 16 x 16: no links around
    assert v5e.bandwidth(line(4, 4)) == 2 * 50e9
    assert topologies.parse('v5e:16x16').bandwidth(line(16, 16)) == 4 * 50e9
    assert topologies.parse('gpu:8xH100').bandwidth(np.zeros((1, 0))) == 450e9


def test_load_of_the_busiest_link():
    """Of a shift along a side of four: on a line what comes back passes all links, on a ring it takes the short way; two away passes two links either way."""

    def shift(away, side=0):
        return [((one, 0, 0), ((one + away) % 4, 0, 0)) if side == 0 else ((0, one, 0), (0, (one + away) % 4, 0)) for one in range(4)]

    line_of_v5e, ring_of_v5p = topologies.parse('v5e:4x4'), topologies.parse('v5p:4x4x4')
    for side in (0, 1):
        assert [line_of_v5e.load(shift(away, side)) for away in (1, 2, 3)] == [ring_of_v5p.load(shift(away, side)) for away in (1, 2, 3)] == [1, 2, 1]
    assert topologies.parse('v5e:8x8').load([((one, 0, 0), ((one + 4) % 8, 0, 0)) for one in range(8)]) == 4
    # Around a corner: first along the first side.
    assert ring_of_v5p.load([((0, 0, 0), (1, 1, 0)), ((1, 0, 0), (1, 1, 0))]) == 2 and ring_of_v5p.load([((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (0, 1, 0))]) == 1
    assert ring_of_v5p.load([((0, 0, 0), (0, 0, 0))]) == 1  # to itself


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"v5e:4x4 needs the compiler for TPUs, which is not installed: pip install 'jax\[tpu\]'"):
        topologies.parse('v5e:4x4').devices()
