"""Counter-based random numbers."""

import numpy as np
import pytest

from t5x_lite.data import random


def test_numbers_never_change():
    """Literal values: a run begun with one version of NumPy must go on with another."""
    assert random.key(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 from state 0
    assert random.key(1, 'masks', 2) == 782250503183969144
    assert random.bits(7, np.arange(3)).tolist() == [7191089600892374487, 309689372594955804, 16616101746815609346]
    assert random.permute(np.arange(10), 10, 7).tolist() == [7, 0, 1, 5, 3, 4, 6, 8, 2, 9]


def test_arrays_agree_with_integers():
    counters = [0, 1, -1, 12345, 2**31, 2**62]
    assert random.bits(random.key(5, 'name'), counters).tolist() == [random.key(5, 'name', counter) for counter in counters]
    assert random.bits(5, np.arange(3)[:, None], np.arange(4)).shape == (3, 4)
    assert random.bits(random.bits(5, [3, 4]), [8, 9]).tolist() == [random.bits(5, 3, 8)[0], random.bits(5, 4, 9)[0]]


def test_every_part_of_a_key_counts():
    keys = [random.key(*parts) for parts in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), ('a',), ('b',), ('a', 0), (0, 'a'), (-2,), (2**63,)]]
    assert len(set(keys)) == len(keys)


def test_uniform_is_uniform():
    draws = random.uniform(random.bits(1, np.arange(100_000)))
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 5 / np.sqrt(len(draws))


@pytest.mark.parametrize('count', [1, 2, 7, 1000])
def test_below_is_uniform_over_its_range(count):
    draws = random.below(random.bits(2, np.arange(100_000)), count)
    counts = np.bincount(draws, minlength=count)
    assert len(counts) == count
    assert np.abs(counts - 100_000 / count).max() < 5 * np.sqrt(100_000 / count)


def test_below_takes_a_count_for_each():
    counts = np.array([1, 2, 2**32])
    assert (random.below(np.full(3, 2**64 - 1, np.uint64), counts) == counts - 1).all()
    with pytest.raises(ValueError, match='count'):
        random.below(np.zeros(1, np.uint64), 0)


def test_coin_flips_are_binomial():
    for count in (1, 64, 100, 130):
        heads = random.coin_flips(random.bits(3, np.arange(20_000)), np.full(20_000, count))
        assert heads.min() >= 0 and heads.max() <= count
        assert abs(heads.mean() - count / 2) < 5 * np.sqrt(count / 4 / 20_000)
        assert abs(heads.var() / (count / 4) - 1) < 0.06
    assert random.coin_flips(random.bits(3, np.arange(2)), np.array([0, 0])).tolist() == [0, 0]


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_permute_is_a_permutation_in_any_order(count):
    whole = random.permute(np.arange(count), count, 9)
    assert sorted(whole.tolist()) == list(range(count))
    assert [int(random.permute(index, count, 9)) for index in range(min(count, 20))] == whole[:20].tolist()
    assert random.permute(np.arange(count)[::-1], count, 9).tolist() == whole[::-1].tolist()


def test_several_permutations_at_once():
    counts, roots = np.array([1, 2, 5, 1000, 1000, 4097] * 20), [random.key(7, number % 9) for number in range(120)]
    index = np.random.default_rng(0).integers(0, counts)
    each = [int(random.permute(*one)) for one in zip(index.tolist(), counts.tolist(), roots, strict=True)]
    assert random.permute(index, counts, np.array(roots, np.uint64)).tolist() == each
    assert random.permute(index.reshape(4, 30), counts.reshape(4, 30), np.array(roots, np.uint64).reshape(4, 30)).reshape(-1).tolist() == each


def test_permutations_are_equally_likely():
    seen = np.zeros(24, int)
    codes = {}
    for seed in range(6000):
        seen[codes.setdefault(tuple(random.permute(np.arange(4), 4, random.key(seed)).tolist()), len(codes))] += 1
    assert len(codes) == 24
    assert np.abs(seen - 250).max() < 5 * np.sqrt(250)


def test_permutations_scatter_neighbours():
    whole = random.permute(np.arange(10_000), 10_000, 4)
    assert abs(np.corrcoef(whole, np.arange(10_000))[0, 1]) < 0.05
    assert (np.abs(np.diff(whole)) == 1).mean() < 0.002


def test_permute_names_what_lies_outside():
    with pytest.raises(ValueError, match='0..4'):
        random.permute([5], 5, 0)
    with pytest.raises(ValueError, match='0..8'):
        random.permute([4, 4], np.array([9, 4]), 0)


def test_choose():
    sizes, counts = np.array([3, 0, 4, 6, 5]), np.array([1, 0, 2, 6, 0])
    roots = random.bits(7, np.arange(5))
    chosen = random.choose(roots, sizes, counts)
    assert [part.sum() for part in np.split(chosen, np.cumsum(sizes)[:-1])] == counts.tolist()
    assert (random.choose(roots[2:3], sizes[2:3], counts[2:3]) == chosen[3:7]).all(), 'a group depends on nothing but itself'
    with pytest.raises(ValueError, match='sizes lie in 65536..65536'):
        random.choose(roots[:1], np.array([65536]), counts[:1])


def test_every_subset_is_as_likely():
    groups = 70_000  # more than one block holds
    chosen = random.choose(random.bits(3, np.arange(groups)), np.full(groups, 5), np.full(groups, 2)).reshape(groups, 5)
    found = np.bincount(chosen @ (1 << np.arange(5)), minlength=32)
    assert (found > 0).sum() == 10
    assert np.abs(found[found > 0] - groups / 10).max() < 4.5 * np.sqrt(groups * 0.1 * 0.9)
