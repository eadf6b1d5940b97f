"""What freezing saves, by the compiler's own counts: the table of tests/benchmarks/strategies.py on a small BERT."""

import jax
import pytest

from t5x_lite.planning import hlo, products
from t5x_lite.training.step import make_train_step
from tests.benchmarks import strategies

BATCH, LENGTH = 8, 32


@pytest.fixture(scope='module')
def found():
    """{strategy: counts} of those that a test below speaks of."""
    chosen = strategies.strategies(2)
    names = ('full', 'bottom 1 frozen', 'head only', 'lora 8')
    return {name: strategies.measured(strategies.program_of(chosen[name], 'tiny', BATCH, LENGTH, False)) for name in names}


def test_what_is_frozen_has_no_state_no_gradient_and_no_place_in_a_checkpoint(found):
    """Adam keeps two numbers for each that learns."""
    for name, counts in found.items():
        assert counts['gradient_bytes'] == 4 * counts['learn']
        assert counts['optimiser_bytes'] == 2 * counts['gradient_bytes'] + 8, (name, 'two moments, and the counts of Adam and of the schedule')
    assert found['full']['share'] == 1.0 and found['lora 8']['share'] < 0.01
    constants = 4 * 2 * 2  # LoRA's scales
    assert found['lora 8']['checkpoint_bytes'] == 3 * found['lora 8']['gradient_bytes'] + 8 + constants
    assert found['full']['checkpoint_bytes'] == 3 * found['full']['gradient_bytes'] + 8


def test_and_no_work(found):
    for name in ('bottom 1 frozen', 'head only', 'lora 8'):
        for kind in ('flops', 'temporary_bytes'):
            assert found[name][kind] < found['full'][kind], (name, kind)
    assert found['head only']['flops'] < 0.5 * found['full']['flops'], 'a forward pass is a third'


def test_nor_where_layers_are_looped_over():
    """By the products of the program that is handed to the compiler: of what lies below the first layer that learns, the forward pass alone."""
    spent = {}
    for name in ('full', 'bottom 1 frozen'):
        program = strategies.program_of(strategies.strategies(2)[name], 'tiny', BATCH, LENGTH, True)
        with jax.set_mesh(program.mesh):
            lowered = jax.jit(make_train_step(program)).lower(program.abstract, strategies.batch_of(program.config))
        spent[name] = products.total(hlo.parse(lowered.as_text(dialect='hlo')))
    layer = spent['full'] / 6  # forward, and twice that backward, of two layers; the head is small
    assert spent['full'] - spent['bottom 1 frozen'] == pytest.approx(2 * layer, rel=0.02)
