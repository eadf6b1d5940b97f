"""Mixing by arithmetic on the index."""

import numpy as np
import pytest

from t5x_lite.data.mixing import Mixture


@pytest.mark.parametrize(
    ('weights', 'shares'),
    [((1,), [1]), ((3, 1), [3 / 4, 1 / 4]), ((0.7, 0.3), [0.7, 0.3]), ((1, 1, 1), [1 / 3] * 3), ((2, 3, 5, 10), [0.1, 0.15, 0.25, 0.5])],
)
def test_mixture_shares_are_exact(weights, shares):
    mixture = Mixture(weights)
    assert np.allclose(mixture.shares, shares, rtol=0, atol=1e-15)
    period = round(1 / min(np.gcd.reduce(np.rint(np.array(shares) * 60).astype(int)) / 60, 1))
    source, local = mixture(np.arange(period * 50))
    for number, share in enumerate(shares):
        counts = np.bincount(np.flatnonzero(source == number) // period, minlength=50)
        assert (counts == round(share * period)).all(), 'in every period'
        assert local[source == number].tolist() == list(range((source == number).sum())), 'each source in order, nothing left out'
    whole = mixture(np.arange(10**9, 10**9 + 40))
    apart = [mixture(np.array([index])) for index in range(10**9, 10**9 + 40)]
    assert [part[0].tolist() for part in apart] == [[value] for value in whole[0].tolist()]
    assert [part[1].tolist() for part in apart] == [[value] for value in whole[1].tolist()]


def test_worked_example_of_mixing():
    source, local = Mixture([3, 1])(np.arange(8))
    assert f'Mixture([3, 1])(np.arange(8))  ->  {source}, {local}' in Mixture.__doc__


def test_mixture_of_odd_weights():
    weights = np.array([12_345_678, 1_234_567, 1])
    mixture = Mixture(weights)
    assert np.abs(mixture.shares - weights / weights.sum()).max() <= 1.01e-4
    assert mixture.shares[2] == 1e-4, 'the least share is one example in ten thousand'
    source, _ = mixture(np.arange(10_000))
    assert np.bincount(source).tolist() == np.rint(mixture.shares * 10_000).astype(int).tolist()
    running = np.cumsum(source == 1) - np.arange(1, 10_001) * mixture.shares[1]
    assert np.abs(running).max() < 2, 'evenly spread'
