"""The formulas' FLOPs and memory against what XLA compiles for this machine's processor."""

import pytest

from t5x_lite.assemble import assemble
from t5x_lite.config import AttentionKernel, DType, Layout, NormPlace, Remat
from t5x_lite.planning import making, roofline, topologies
from t5x_lite.stages import stages
from tests.planning.test_making import OBJECTIVES, config
from tests.planning.test_ranking import GPU, predicted

ONE = topologies.parse('cpu:1')
# Of memory predicted over memory that XLA reserves for a step.
MEMORY = 0.25


def compiled(kind: str, **fields) -> making.StagePlan:
    return making.make(assemble(config(kind, mesh={'data': 1}, **fields)), ONE).stages[0]


@pytest.mark.parametrize('kind, fields', [
    *((kind, {}) for kind in OBJECTIVES),
    ('gpt', {'remat': Remat.full}),
    ('t5', {'remat': Remat.dots}),
    ('bert', {'remat': Remat.full}),
], ids=str)  # fmt: skip
def test_flops_and_memory_of_a_step(kind, fields):
    formula, found = predicted(kind, ONE, mesh={'data': 1}, **fields), compiled(kind, **fields)
    assert formula.flops == pytest.approx(found.flops, rel=0.001)
    for name in ('parameters', 'optimiser', 'batch'):
        assert formula.memory[name] == found.memory[name]
    assert formula.used == pytest.approx(found.used, rel=MEMORY)


@pytest.mark.parametrize('remat', Remat)
def test_kernels_that_keep_no_scores_multiply_once_more(remat):
    """Counted in the program before its compiler, as for GPUs."""
    fields = {'remat': remat, 'attention': AttentionKernel.blockwise, 'num_layers': 1, 'mesh': {'data': 8}}
    found = making.make(assemble(config('gpt', **fields)), GPU).stages[0]
    assert predicted('gpt', GPU, **fields).flops * GPU.chips == pytest.approx(found.flops, rel=0.02)


def test_terms_add_up_and_say_why():
    found = predicted('gpt', GPU, mesh={'data': 2, 'fsdp': 2, 'tensor': 2})
    assert found.step == found.products + found.elsewhere + found.waited and all(value > 0 for value in (found.products, found.elsewhere, found.waited))
    parts = [float(part.split()[-1].rstrip('%')) for part in roofline.why(found).split(', ')]
    assert sum(parts) == pytest.approx(100, abs=2) and parts == sorted(parts, reverse=True)


def test_directions():
    """What each choice must change, whatever the constants."""
    base = {'mesh': {'data': 2, 'fsdp': 4}, 'dtype': DType.bfloat16}
    kept, less, least = (predicted('gpt', GPU, remat=remat, **base) for remat in (Remat.none, Remat.dots, Remat.full))
    assert kept.used > less.used > least.used and kept.flops < less.flops < least.flops
    parts = predicted('gpt', GPU, optim={'microbatches': 4}, **base)
    assert parts.used < kept.used and parts.sent > kept.sent and parts.flops == kept.flops
    whole = predicted('gpt', GPU, mesh={'data': 8}, dtype=DType.bfloat16)
    assert whole.memory['optimiser'] > 3 * kept.memory['optimiser']
    without = predicted('gpt', GPU, attention=AttentionKernel.blockwise, **base)
    assert without.used < kept.used and without.traffic < kept.traffic and without.flops > kept.flops


def test_half_of_the_pairs_is_half_of_attention():
    made = assemble(config('gpt')).config
    (stage,) = stages(made)
    assert made.data.layout == Layout.decoder and made.model.norm_place == NormPlace.pre
    all_pairs, half = (roofline.device_flops(made, stage, 1, pairs) for pairs in (1.0, 0.5))
    _, length, rows, _ = stage
    assert all_pairs - half == 3 * rows * made.model.num_layers * 4 * length * length * 64 / 2
