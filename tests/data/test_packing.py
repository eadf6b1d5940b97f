"""Packing: which sequences share a row, and where they land."""

import numpy as np
import pytest

from t5x_lite.data.packing import Layout, Rows, alone, pack, strategies


def used(rows, lengths):
    return np.add.reduceat(lengths[rows.members], rows.starts[:-1])


def paragraph_lengths(count=20_000, longest=126):
    return np.clip(np.random.default_rng(0).lognormal(3.6, 0.9, count).astype(np.int64), 1, longest) + 2


def test_worked_example_of_strategies():
    assert strategies(np.array([0, 0, 3, 0, 0, 2]), 7) == [((5, 2), 2), ((2,), 1)]


@pytest.mark.parametrize('row_length', [6, 40, 128])
def test_every_sequence_lies_in_one_row_that_holds_it(row_length):
    lengths = np.random.default_rng(1).integers(1, row_length + 1, 5000)
    rows = pack(lengths, row_length, root=3)
    assert sorted(rows.members.tolist()) == list(range(5000))
    assert used(rows, lengths).max() <= row_length
    assert (np.diff(rows.starts) > 0).all()
    assert len(rows) * row_length - lengths.sum() < 0.03 * len(rows) * row_length + 5 * row_length


def test_packing_is_tight():
    """Paragraph-like lengths: at least 99 % of the tokens are real, at two lengths of row."""
    for row_length, longest in ((128, 126), (512, 510)):
        lengths = paragraph_lengths(longest=longest)
        assert lengths.sum() / (len(pack(lengths, row_length, 0)) * row_length) > 0.99


def test_few_and_odd_inputs():
    assert len(pack(np.array([], np.int64), 8, 0)) == 0
    assert pack(np.array([8]), 8, 0).members.tolist() == [0]
    assert len(pack(np.ones(100, np.int64), 8, 0)) == 13
    assert len(pack(np.full(10, 5), 8, 0)) == 10
    with pytest.raises(ValueError, match='expected 1..8'):
        pack(np.array([9]), 8, 0)


def test_the_plan_follows_from_lengths_and_root():
    lengths = paragraph_lengths(2000)
    first, again, other = (pack(lengths, 128, root) for root in (1, 1, 2))
    assert (first.members == again.members).all() and (first.starts == again.starts).all()
    assert (first.starts == other.starts).all(), 'the kinds of rows follow from the lengths alone'
    assert (first.members != other.members).mean() > 0.9


def test_cost_follows_the_row_not_the_number_of_sequences():
    few, many = (strategies(np.bincount(paragraph_lengths(count)), 128) for count in (20_000, 2_000_000))
    assert len(many) < 2 * len(few)


def test_take():
    rows = Rows(np.array([5, 6, 7, 8, 9]), np.array([0, 2, 3, 5]))
    taken = rows.take(np.array([2, 0, 2]))
    assert taken.members.tolist() == [8, 9, 5, 6, 8, 9]
    assert taken.starts.tolist() == [0, 2, 4, 6]


def test_worked_example_of_layout():
    layout = Layout.of(Rows(np.arange(3), np.array([0, 2, 3])), np.array([3, 2, 4]), 6)
    lines = [' '.join(line.split()) for line in Layout.__doc__.splitlines()]
    for name in ('row', 'column'):
        assert ' '.join([name, *map(str, getattr(layout, name))]) in lines
    for name in ('sequence_ids', 'positions'):
        first, second = (' '.join(map(str, values)) for values in getattr(layout, name))
        assert f'{name} {first} | {second}' in lines
    assert layout.used.tolist() == [5, 4]


def test_a_row_that_overflows_is_refused():
    with pytest.raises(ValueError, match='a row holds 7 tokens; it has room for 6'):
        Layout.of(Rows(np.arange(2), np.array([0, 2])), np.array([3, 4]), 6)


def lay_out(sequences, rows, row_length, max_predictions):
    """A batch of (tokens, masked_positions, masked_targets), positions within the sequence, packed or (`alone(n)`) one a row."""
    lengths = np.array([len(tokens) for tokens, _, _ in sequences], np.int64)
    layout = Layout.of(rows, lengths[rows.members], row_length)
    size = len(rows)
    batch = {
        'tokens': np.zeros((size, row_length), np.int32),
        'sequence_ids': layout.sequence_ids,
        'positions': layout.positions,
        'masked_positions': np.zeros((size, max_predictions), np.int32),
        'masked_targets': np.zeros((size, max_predictions), np.int32),
        'masked_weights': np.zeros((size, max_predictions), np.float32),
    }
    next_slot = [0] * size
    for member, row, column in zip(rows.members.tolist(), layout.row.tolist(), layout.column.tolist()):
        tokens, positions, targets = sequences[member]
        batch['tokens'][row, column : column + len(tokens)] = tokens
        slots = slice(next_slot[row], next_slot[row] + len(positions))
        batch['masked_positions'][row, slots] = np.asarray(positions) + column
        batch['masked_targets'][row, slots] = targets
        batch['masked_weights'][row, slots] = 1
        next_slot[row] = slots.stop
    return batch


def test_packed_and_unpacked_hold_the_same():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 20, 30)
    sequences = []
    for length in lengths:
        positions = np.sort(rng.choice(np.arange(1, length - 1), min(2, length - 2), replace=False))
        sequences.append((rng.integers(5, 99, length), positions, rng.integers(5, 99, len(positions))))
    rows = pack(lengths, 32, 1)
    packed, unpacked = lay_out(sequences, rows, 32, 32), lay_out(sequences, alone(30), 32, 2)
    assert len(packed['tokens']) < 20 and len(unpacked['tokens']) == 30

    def contents(batch):
        found = []
        for row in range(len(batch['tokens'])):
            weights = batch['masked_weights'][row] > 0
            for number in range(1, batch['sequence_ids'][row].max() + 1):
                here = batch['sequence_ids'][row] == number
                masked = weights & here[batch['masked_positions'][row]]
                columns = batch['masked_positions'][row][masked]
                assert batch['positions'][row][here].tolist() == list(range(here.sum()))
                parts = batch['tokens'][row][here], batch['positions'][row][columns], batch['masked_targets'][row][masked]
                found.append(tuple(part.tolist() for part in parts))
        return sorted(found)

    assert contents(packed) == contents(unpacked) == sorted(tuple(part.tolist() for part in sequence) for sequence in sequences)
