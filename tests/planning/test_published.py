"""The formulas against published runs: no error is larger than what is documented (tests/benchmarks/EVIDENCE.md)."""

import pytest

from t5x_lite.planning import roofline
from tests.planning import published

CLOSE = 0.15  # the aim, and what most runs meet
FURTHER: dict[str, float] = {}  # those that do not, and how far they may be off


@pytest.fixture(scope='module')
def compared() -> list[published.Compared]:
    return [published.compare(run) for run in published.read()]


def test_errors_are_the_documented_ones(compared):
    for one in compared:
        most = FURTHER.get(one.run.name, CLOSE)
        assert abs(one.error) <= most, f'{one.run.name}: {one.error:+.1%}, at most {most:.0%}'
    assert FURTHER.keys() <= {one.run.name for one in compared}


def test_there_are_enough_of_them(compared):
    kinds = [one.run.topology.kind for one in compared]
    assert sum(not one.held_out for one in compared) >= 25 and sum(one.held_out for one in compared) >= 5
    assert {kind for kind in kinds if kinds.count(kind) >= 2} == roofline.REACHED.keys() - {'H200'}
    assert all(one.run.published['source'].partition('@')[2] for one in compared)


def test_models_are_of_the_published_size(compared):
    """The name says how many billions of parameters there are, roundly: MPT 3B has 2.65."""
    for one in compared:
        said = float(one.run.published['name'].split()[-1].removesuffix('B'))
        assert 0.85 * said < one.parameters / 1e9 < 1.35 * said, one.run.name
    assert all(0.3 < one.mfu < 0.8 for one in compared)


def test_shares_are_shares():
    assert all(0 < share < 1 for share in (*roofline.REACHED.values(), roofline.HIDDEN_WEIGHTS, roofline.HIDDEN_STATES))
