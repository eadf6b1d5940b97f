"""Features of decoders and encoder-decoders."""

import numpy as np
import pytest

from t5x_lite.data.features import of_decoder, of_encoder_decoder, shifted
from t5x_lite.data.packing import Rows


def laid_out(rows, length, target_length=0, start_id=2, pad_id=0, prefix=True):
    """`rows`: lists of pairs (inputs, targets), given which pair shares a row with which."""
    pairs = [pair for row in rows for pair in row]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    sides = [np.array([token for pair in pairs for token in pair[side]], np.int32) for side in (0, 1)]
    lengths = [np.array([len(pair[side]) for pair in pairs], np.int64) for side in (0, 1)]
    given = Rows(np.arange(len(pairs)), starts), sides[0], lengths[0], sides[1], lengths[1], length
    return of_encoder_decoder(*given, target_length, start_id, pad_id) if target_length else of_decoder(*given, start_id, pad_id, prefix)


def stand_in(doc, batch):
    lines = [line.split() for line in doc.splitlines()]
    for name, values in batch.items():
        assert [name, *(str(int(value)) for value in values[0])] in lines, (name, values)


PAIRS = [[([5, 6], [7, 1]), ([8], [9, 1])]]


def test_worked_examples():
    stand_in(of_decoder.__doc__, laid_out(PAIRS, 9))
    stand_in(of_encoder_decoder.__doc__, laid_out(PAIRS, 4, 5))
    lines = {line.split()[0]: [int(token) for token in line.split()[1:7]] for line in shifted.__doc__.splitlines()[2:-1]}
    found = shifted(np.array([lines['targets']]), np.array([lines['sequence_ids']]), np.array([[0, 1, 2, 0, 1, 0]]), 7, 0)
    assert found[0].tolist() == lines['->']


def test_without_inputs_there_is_no_prefix():
    batch = laid_out([[([], [5, 6, 1]), ([], [7, 1])], [([], [8, 1])]], 6, prefix=False)
    assert 'prefix' not in batch
    assert batch['tokens'].tolist() == [[2, 5, 6, 2, 7, 0], [2, 8, 0, 0, 0, 0]]
    assert batch['target_weights'].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]


def test_padding_reads_padding():
    batch = laid_out(PAIRS, 9, start_id=2, pad_id=17)
    assert batch['tokens'][0, 7:].tolist() == batch['targets'][0, 7:].tolist() == [17, 17]


@pytest.mark.parametrize('sizes', [(6, 0), (2, 5), (4, 3)])
def test_rows_that_overflow_are_refused(sizes):
    with pytest.raises(ValueError, match='a row holds'):
        laid_out(PAIRS, *sizes)
