import numpy as np
import pytest

from t5x_lite.data.text_rows import texts_of
from t5x_lite.evaluation.batching import SHARED, WIDTHS, chunks, of_like_length, sharing_rows


def test_what_is_answered_together():
    assert list(chunks(map(tuple, 'abcde'), 2)) == [[('a',), ('b',)], [('c',), ('d',)], [('e',)]]
    assert list(chunks([('a',), None, None, ('b',), ('c',), ('d',), None], 2)) == [[('a',)], [('b',), ('c',)], [('d',)]]
    assert list(chunks([None], 2)) == list(chunks([], 2)) == []


def test_batches_of_like_length():
    found = [(rows.tolist(), filled.tolist(), width) for rows, filled, width in of_like_length(np.array([3, 20, 4]), 2, 512)]
    assert found == [([1], [1], 24), ([2, 0], [2, 0], 16)]
    found = [(rows.tolist(), filled.tolist(), width) for rows, filled, width in of_like_length(np.array([3, 20, 4, 5, 6, 7, 8, 9]), 4, 512)]
    assert found == [([1], [1], 24), ([7, 6, 5, 4], [7, 6, 5, 4], 16), ([3, 2, 0], [3, 2, 0, 0], 16)]
    assert [(filled.tolist(), width) for _, filled, width in of_like_length(np.array([30]), 8, 512)] == [([0], 32)], 'one alone is a batch of one'
    assert not list(of_like_length(np.array([], int), 8, 512))


def test_every_row_once_in_columns_that_hold_it():
    lengths = np.random.default_rng(0).integers(1, 700, 333)
    seen, shapes, limit = [], set(), 640
    for rows, filled, width in of_like_length(np.minimum(lengths, limit), 32, limit):
        assert len(filled) in (1, 2, 4, 8, 16, 32) and filled[: len(rows)].tolist() == rows.tolist()
        assert np.minimum(lengths, limit)[filled].max() <= width <= limit
        seen += rows.tolist()
        shapes.add(width)
    assert sorted(seen) == list(range(333)) and shapes <= {*WIDTHS, limit}
    # Little is padding.
    columns = sum(len(filled) * width for _, filled, width in of_like_length(np.minimum(lengths, limit), 32, limit))
    assert columns < 1.25 * np.minimum(lengths, limit).sum()


@pytest.mark.parametrize('count, longest', [(333, SHARED), (2, 20), (500, 3), (1, SHARED)])
def test_texts_that_share_rows(count, longest):
    lengths = np.random.default_rng(1).integers(1, longest + 1, count)
    seen, columns = [], 0
    for rows, width in sharing_rows(lengths, 32):
        assert len(rows) in (1, 2, 4, 8, 16) and width in WIDTHS and width <= SHARED and np.diff(rows.starts).max() <= texts_of(width)
        assert max(lengths[rows.members[first:end]].sum() for first, end in zip(rows.starts, rows.starts[1:])) <= width
        seen += rows.members.tolist()
        columns += len(rows) * width
    assert sorted(seen) == list(range(count))
    assert columns < (1.1 if longest == SHARED and count > 1 else 5) * lengths.sum() + SHARED, 'next to nothing is padding'
