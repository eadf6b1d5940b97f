"""Learning-rate range tests: what is read off curves like real ones, and that a test is of the run's own first steps."""

import numpy as np
import pytest

from t5x_lite import assemble
from t5x_lite.config import OptimConfig
from t5x_lite.training import range_test
from tests.training.test_stopping import a_config, compiled_once, corpus  # noqa: F401  (fixtures)

RATES = np.logspace(-7, 0, 200)


def curve(begins=1e-4, breaks=1e-2, start=0.69, end=0.3, noise=0.03, seed=0):
    """Losses that fall around `begins`, a factor of ten long, and rise from `breaks` on."""
    decades = np.log10(RATES)
    fall = (start - end) / (1 + np.exp(-4 * (decades - np.log10(begins))))
    rise = np.where(RATES > breaks, (decades - np.log10(breaks)) ** 2 * 2, 0.0)
    return start - fall + rise + np.random.default_rng(seed).normal(0, noise, len(RATES))


@pytest.mark.parametrize('begins', [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize('noise', [0.0, 0.03, 0.08])
def test_the_steepest_fall_and_where_it_ends(begins, noise):
    finding = range_test.find(RATES, curve(begins, 100 * begins, noise=noise))
    assert begins / 3 < finding.steepest < 3 * begins
    assert finding.steepest < finding.lowest < finding.too_high
    assert 100 * begins < finding.too_high < 1000 * begins


def test_a_test_that_was_cut_off_by_an_explosion():
    losses = curve(1e-5, 1e-3)
    end = int(np.argmax(losses > 2))
    finding = range_test.find(RATES[:end], losses[:end])
    assert 3e-6 < finding.steepest < 3e-5 and 1e-3 < finding.too_high < 1e-2


@pytest.mark.parametrize(
    'losses', [np.random.default_rng(0).normal(0.69, 0.05, 200), np.linspace(2, 8, 200), np.full(200, 1.0), np.full(5, 1.0)], ids=['noise', 'rises', 'flat', 'few']
)
def test_where_nothing_falls_nothing_is_advised(losses):
    assert range_test.find(RATES[: len(losses)], losses).steepest is None


def test_smoothing_neither_lags_nor_changes_a_line():
    np.testing.assert_allclose(range_test.smoothed(np.full(50, 2.0)), 2.0)
    smooth = range_test.smoothed(np.linspace(0, 1, 101))
    assert abs(smooth[50] - 0.5) < 1e-9


def test_a_test_takes_the_run_s_first_steps_at_rising_rates(corpus):  # noqa: F811
    """The model steps as in a run: the losses of the first steps, whose rates are next to nothing, are those of its first batches before any step."""
    run = assemble.assemble(a_config(corpus, **{'data.stages': ((0, 16, 16, 3), (7, 32, 8, 5))}))
    before = run.config.optim
    rates, losses = range_test.measure(run.config, run.train, None, 30)
    assert run.config.optim == before == OptimConfig(learning_rate=1e-2, warmup_steps=3)
    np.testing.assert_allclose(rates, np.logspace(-7, 0, 30)[: len(rates)], rtol=1e-4)
    again = range_test.measure(run.config, run.train, None, 30)
    np.testing.assert_array_equal(losses, again[1])
    assert np.isfinite(losses).all() and losses[:7].std() < 0.5 < losses.max() - losses.min()
    # Those of the first stage come again and again.
    np.testing.assert_allclose(losses[7], losses[0], atol=0.05)
