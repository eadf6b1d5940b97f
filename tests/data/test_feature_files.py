"""Rows of features in a file: what is put in comes out, half a file is never read, and a full disk is a line."""

import errno
import os
import threading

import numpy as np
import pytest

from t5x_lite.data import feature_files
from t5x_lite.data.feature_files import FeatureFile, making
from t5x_lite.errors import UserError

LENGTHS = np.array([3, 1, 4])


def values(count=3, length=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, length, 2, 5)).astype(np.float32)


def write(folder, fill, dtype='float32', lengths=LENGTHS, examples=3):
    with making(str(folder)) as missing:
        assert missing
        return feature_files.write(str(folder), dtype, (2, 5), examples, lengths, {'body': 'a body'}, fill)


def test_tokens_come_back_in_any_order_with_zeros_in_padding(tmp_path):
    given = values()

    def fill(put):
        put(np.array([2, 0]), given[[2, 0]])
        put(np.array([1]), given[1:2, :2])

    assert write(tmp_path / 'f', fill) == 8 * 2 * 5 * 4
    found = FeatureFile(str(tmp_path / 'f'), LENGTHS).get(np.array([1, 2, 1]), 6)
    assert found.shape == (3, 6, 2, 5) and found.dtype == np.float32
    for place, example in enumerate([1, 2, 1]):
        length = LENGTHS[example]
        np.testing.assert_array_equal(found[place, :length], given[example, :length])
        assert not found[place, length:].any()


def test_a_vector_an_example_and_halves_are_exact(tmp_path):
    whole = values()[:, 0]
    halves = (whole.view(np.uint32) >> np.uint32(16)).astype(np.uint16)  # cut, not rounded: what is put in is what counts
    size = write(tmp_path / 'f', lambda put: put(np.arange(3), halves), 'bfloat16', None)
    assert size == 3 * 2 * 5 * 2
    found = FeatureFile(str(tmp_path / 'f'), None).get(np.array([2, 0]), 7)
    assert found.shape == (2, 2, 5) and found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), (whole.view(np.uint32) & 0xFFFF0000)[[2, 0]])


def test_half_a_file_is_never_read_and_leaves_nothing(tmp_path):
    def stopped(put):
        put(np.array([0]), values(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / 'f', stopped)
    assert os.listdir(tmp_path) == ['f.lock']
    # What a process that was killed leaves is no folder of features, and goes when they are made again.
    (tmp_path / 'f.partial-1').mkdir()
    (tmp_path / 'f.partial-1' / 'rows.bin').write_bytes(b'half')
    write(tmp_path / 'f', lambda put: put(np.arange(3), values()))
    assert sorted(os.listdir(tmp_path)) == ['f', 'f.lock']
    with making(str(tmp_path / 'f')) as missing:
        assert not missing


@pytest.mark.parametrize('damage', ['cut', 'no rows', 'not json'])
def test_damage_is_said(tmp_path, damage):
    write(tmp_path / 'f', lambda put: put(np.arange(3), values()))
    rows = tmp_path / 'f' / 'rows.bin'
    match damage:
        case 'cut':
            rows.write_bytes(rows.read_bytes()[:-1])
        case 'no rows':
            rows.unlink()
        case 'not json':
            (tmp_path / 'f' / 'about.json').write_text('{')
    with pytest.raises(UserError, match='these features cannot be read .*; remove that folder, and they are computed again'):
        FeatureFile(str(tmp_path / 'f'), LENGTHS)


def test_a_full_disk_is_a_line_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(UserError, match=r'320 bytes of features cannot be written \(No space left on device\); free some room, .*feature_dtype=bfloat16'):
        write(tmp_path / 'f', lambda put: pytest.fail('computed'))
    assert os.listdir(tmp_path) == ['f.lock']


def test_who_asks_second_waits_for_the_first(tmp_path):
    folder, order, inside = str(tmp_path / 'f'), [], threading.Event()

    def second():
        inside.wait(10)
        with making(folder) as missing:
            order.append(('second', missing))

    thread = threading.Thread(target=second)
    thread.start()
    with making(folder):
        inside.set()
        thread.join(0.2)
        assert thread.is_alive() and not order
        feature_files.write(folder, 'float32', (2, 5), 3, LENGTHS, {}, lambda put: put(np.arange(3), values()))
    thread.join(10)
    assert order == [('second', False)]
