"""Packing of pairs of lengths into pairs of rows."""

import numpy as np
import pytest

from t5x_lite.config import Layout
from t5x_lite.data import packing_pairs
from t5x_lite.data.packing_pairs import pack_pairs
from t5x_lite.data.span_corruption import Noise
from tests.data.pair_material import task_examples


def used(rows, lengths):
    return np.add.reduceat(lengths[rows.members], rows.starts[:-1])


def test_worked_example():
    rows = pack_pairs([6, 2, 4], [1, 3, 1], 8, 4, 0)
    assert sorted(sorted(rows.members[start:stop].tolist()) for start, stop in zip(rows.starts, rows.starts[1:])) == [[0, 1], [2]]


@pytest.mark.parametrize('sizes', [(7, 5), (64, 64), (128, 29)])
@pytest.mark.parametrize('kinds', [0, 10_000])  # in blocks, and at once
def test_every_pair_lies_in_one_row_that_holds_it(sizes, kinds, monkeypatch):
    monkeypatch.setattr(packing_pairs, '_KINDS', kinds)
    monkeypatch.setattr(packing_pairs, '_BLOCK', 1000)
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, sizes[0] + 1, 3000), rng.integers(1, sizes[1] + 1, 3000)
    rows = pack_pairs(first, second, *sizes, root=1)
    assert sorted(rows.members.tolist()) == list(range(3000))
    assert (np.diff(rows.starts) > 0).all() and rows.starts[-1] == 3000
    assert used(rows, first).max() <= sizes[0] and used(rows, second).max() <= sizes[1]
    # At most a tenth worse than what the fuller side needs.
    assert len(rows) < 1.1 * max(first.sum() / sizes[0], second.sum() / sizes[1]) + 5


def test_packing_is_tight():
    rng = np.random.default_rng(0)
    length = np.minimum(rng.lognormal(4.5, 1.2, 20_000).astype(np.int64) + 1, 568)
    inputs, targets = Noise(0.15, 3).lengths(length)
    rows = pack_pairs(inputs, targets, 512, 114, 0)
    assert max(inputs.sum() / (len(rows) * 512), targets.sum() / (len(rows) * 114)) > 0.99, 'one of both sides is full'
    share = rng.integers(1, 100, 2000)
    rows = pack_pairs(np.append(share, 100 - share), np.append(100 - share, share), 100, 100, 0)
    assert len(rows) == 2000, 'what complements each other is found'


def test_the_plan_follows_from_lengths_and_root():
    first, second = (np.random.default_rng(seed).integers(1, 20, 500) for seed in (0, 1))
    one, again, other = (pack_pairs(first, second, 40, 40, root) for root in (1, 1, 2))
    assert (one.members == again.members).all() and (one.starts == again.starts).all()
    assert (one.members != other.members).mean() > 0.3, 'pairs of equal lengths change places'


def test_few_and_odd_inputs():
    assert len(pack_pairs([], [], 8, 4, 0)) == 0
    assert len(pack_pairs([0] * 7, [2] * 7, 8, 4, 0)) == 4
    assert len(pack_pairs([8], [4], 8, 4, 0)) == 1
    with pytest.raises(ValueError, match='lengths lie in 9..9; expected 0..8'):
        pack_pairs([9], [1], 8, 4, 0)


@pytest.mark.parametrize(
    ('layout', 'rows', 'least'),
    [
        ('decoder', (512, 64), 0.98),
        ('encoder_decoder', (512, 128), 0.98),  # inputs fill
        ('encoder_decoder', (128, 512), 0.98),  # long targets of short inputs fill
        ('encoder_decoder', (512, 64), 0.94),  # both nearly do: some rows have no room for inputs left, some none for targets
    ],
)
def test_examples_of_tasks_fill_rows(monkeypatch, layout, rows, least):
    """Reviews, say, with short answers, or titles with texts: how much of the side that fills is real tokens."""
    rng = np.random.default_rng(0)
    lengths = [np.clip(rng.lognormal(mean, 0.7, 4000), 1, most).astype(int) for mean, most in ((3.6, 500), (1.0, 15))]
    if rows[1] > rows[0]:
        lengths.reverse()
    examples = [{'inputs': [5] * first, 'targets': [6] * second} for first, second in zip(*(side.tolist() for side in lengths))]
    source = task_examples(monkeypatch, examples, dict(zip(('inputs', 'targets'), rows)), pack=True, layout=Layout[layout])
    batch = source.get(np.arange(len(source)))
    assert (batch['tokens'].shape[1], batch['targets'].shape[1]) == (rows if layout == 'encoder_decoder' else (512, 512))
    shares = [(batch[name] > 0).mean() for name in ('sequence_ids', 'decoder_sequence_ids') if name in batch]
    assert max(shares) >= least, shares
    assert np.argmax(shares) == np.argmax(rows) or layout == 'decoder'
    assert (batch['targets' if layout == 'decoder' else 'tokens'] == 5).sum() == lengths[0].sum(), 'nothing is lost or cut'
    assert (batch['targets'] == 6).sum() == lengths[1].sum()
