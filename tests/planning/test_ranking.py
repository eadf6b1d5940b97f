"""Meshes ranked by formulas: none that training would refuse, and numbers that the compiler's readings bear out."""

import dataclasses
import itertools
import json
import math

import jax
import numpy as np
import pytest

from t5x_lite.assemble import assemble
from t5x_lite.config import AttentionKernel, Config, ModelConfig, Remat
from t5x_lite.errors import UserError
from t5x_lite.planning import batches, formulas, keeping, making, meshes, mending, ranking, roofline, showing, showing_ranks, topologies
from t5x_lite.planning.estimate import sending
from t5x_lite.stages import stages
from t5x_lite.training import partitioning
from tests.planning.test_making import config

CPU, GPU = topologies.parse('cpu:8'), topologies.parse('gpu:8xH100')


def choices(kind: str = 'gpt', topology: topologies.Topology = GPU, **fields) -> list[ranking.Choice]:
    return ranking.rank(assemble(config(kind, mesh={}, **fields)), topology)


def predicted(kind: str, topology: topologies.Topology, **fields) -> roofline.Prediction:
    run = assemble(config(kind, **fields))
    (stage,) = stages(run.config)
    program = meshes.Placing(run.config).on(run.config, partitioning.axis_sizes(run.config.mesh, topology.chips))
    return roofline.predict(program, batches.placed(batches.shapes(run, run.config, stage), program.mesh), stage, topology)


def test_the_meshes_offered_are_those_that_training_takes():
    """Of the ways to write 8 as four factors, some are refused for the heads, some for the rows."""
    made = assemble(config('gpt', mesh={}, num_heads=2)).config
    made.batch_size = 4
    offered = {tuple(sizes.values()) for sizes, _ in meshes.candidates(made, CPU)}
    every = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]
    assert len(every) == 20
    for sizes in every:
        made.mesh.data, made.mesh.fsdp, made.mesh.tensor, made.mesh.sequence = sizes
        try:
            mesh = partitioning.make_mesh(made, jax.devices())
            partitioning.check_batch(mesh, 4, 64, 1)
            taken = True
        except UserError:
            taken = False
        assert taken == (sizes in offered), sizes
    assert (2, 2, 2, 1) in offered and (1, 1, 1, 8) in offered and (1, 1, 4, 2) not in offered and (4, 2, 1, 1) not in offered


def test_weights_that_are_sent_again_go_with_layers_that_are_computed_again():
    again = assemble(config('gpt', mesh={'gather_ahead': True, 'sum_behind': True, 'gather_again': True}, remat=Remat.full))
    assert {choice.config.model.remat for choice in ranking.rank(again, GPU)} == {Remat.full}


def test_targets_of_a_decoder_are_divided_too():
    made = assemble(config('t5', mesh={})).config
    made.data.target_len = 36
    assert max(sizes['sequence'] for sizes, _ in meshes.candidates(made, CPU)) == 4


def test_axes_lie_on_whole_sides_of_a_torus():
    made = assemble(config('gpt', mesh={})).config
    made.batch_size = 64
    torus, pod = topologies.parse('v5p:4x4x4'), topologies.parse('v5e:8x8')
    on_torus, on_pod = ([tuple(sizes.values()) for sizes, _ in meshes.candidates(made, topology)] for topology in (torus, pod))
    assert (16, 4, 1, 1) in on_torus and (4, 16, 1, 1) in on_torus and (64, 1, 1, 1) in on_torus
    assert (8, 8, 1, 1) not in on_torus and (8, 8, 1, 1) in on_pod and (16, 4, 1, 1) in on_pod  # jax.make_mesh cuts sides of a v5e, and of no other
    with pytest.raises(UserError, match='does not lie on the sides of v5p:4x4x4'):
        meshes.coordinates(torus, (8, 8, 1, 1))
    assert sorted(map(tuple, meshes.coordinates(torus, (16, 4, 1, 1)).reshape(-1, 3).tolist())) == list(np.ndindex(4, 4, 4))
    # 16 of 64 chips are two sides, which are rings: twice the links of one.
    sizes = dict(zip(partitioning.AXES, (16, 4, 1, 1), strict=True))
    assert meshes.bandwidth(torus, sizes, 'data') == 2 * meshes.bandwidth(torus, sizes, 'fsdp') == 4 * 100e9


TWO = topologies.parse('gpu:4xH100', 2)


def test_one_axis_goes_across_slices():
    made = assemble(config('gpt', mesh={})).config
    offered = [(tuple(sizes.values()), along) for sizes, along in meshes.candidates(made, TWO)]
    assert all(sizes[meshes.AXES.index(along)] % 2 == 0 for sizes, along in offered)
    assert {along for sizes, along in offered if sizes == (2, 2, 2, 1)} == {'data', 'fsdp', 'tensor'}
    assert {sizes for sizes, _ in offered} == {tuple(sizes.values()) for sizes, _ in meshes.candidates(made, GPU)}
    torus = topologies.parse('v5e:4x4', 2)
    made.batch_size = 64
    assert ((16, 2, 1, 1), 'data') in [(tuple(sizes.values()), along) for sizes, along in meshes.candidates(made, torus)]


def test_what_crosses_slices_is_slow():
    mesh = {'data': 2, 'fsdp': 2, 'tensor': 2}
    one, two = predicted('gpt', GPU, mesh=mesh), predicted('gpt', TWO, mesh=mesh)
    assert one.between == 0 < two.between < two.sent == one.sent and two.step > one.step and two.products == one.products
    # Of a sum over data, one device of each slice in a group, all of it; the same bytes take longer on the network by the ratio of speeds.
    gradients = [found for found in two.collectives if found.axes == ('data',)]
    assert gradients and all(found.slices == 2 and found.between == found.sent for found in gradients)
    assert not any(found.between for found in two.collectives if found.axes != ('data',))
    chip = TWO.chip
    (first, *_) = gradients
    assert sending(first, TWO, chip.link) / sending(dataclasses.replace(first, slices=1), TWO, chip.link) == pytest.approx(chip.link / chip.network)


def test_the_best_across_slices_sends_least_over_the_network():
    given = config('gpt', mesh={})
    found = ranking.rank(assemble(given), TWO)
    best = found[0].predictions[0]
    same = [one for one in found if one.sizes == found[0].sizes and one.config.model.remat == found[0].config.model.remat]
    assert best.between == min(one.predictions[0].between for one in same)
    across = [one for one in found if one.config.mesh.slices_along != 'data']
    flags = ranking.Ranking(given, TWO, found, []).flags(across[0])
    assert f'--config.mesh.slices_along={across[0].config.mesh.slices_along}' in flags
    text = showing_ranks.text(ranking.Ranking(given, TWO, found, []))
    assert 'on 2 x gpu:4xH100' in text and 'across slices' in text


def test_what_does_not_fit_comes_last_with_its_reason(monkeypatch):
    everything = choices()
    assert all(one.fits and one.config.optim.microbatches == 1 for one in everything)
    assert [one.seconds for one in everything] == sorted(one.seconds for one in everything)

    def on_chip_of(room: float) -> list[ranking.Choice]:
        monkeypatch.setitem(topologies.CHIPS, 'H100', dataclasses.replace(topologies.CHIPS['H100'], hbm=room))
        return choices()

    smallest = on_chip_of(1000.0)  # each with as many microbatches as there are
    nothing = ranking.Ranking(config('gpt'), GPU, smallest, [])
    assert nothing.best is None and 'nothing fits' in showing_ranks.text(nothing) and 'does not fit: ' in showing_ranks.text(nothing)
    room = sorted(one.used for one in smallest)[len(smallest) // 2] / mending.FULL  # so that half of them fit
    found = on_chip_of(room)
    fits = [one.fits for one in found]
    assert fits == sorted(fits, reverse=True) and len(fits) / 3 < sum(fits) < len(fits) and len(found) == len(everything)
    assert all((one.used <= mending.FULL * room) == one.fits for one in found)
    assert any(one.config.optim.microbatches > 1 for one in found if one.fits)  # the fewest with which it fits


def test_no_mesh_at_all():
    made = config('gpt', mesh={}, num_heads=1, d_ff=67, d_model=66, vocab_size=67)
    made.batch_size, made.data.seq_len = 3, 63
    with pytest.raises(UserError, match='--mesh=auto: no mesh of gpu:8xH100 divides this config'):
        ranking.rank(assemble(made), GPU)


def test_flags_lead_back_to_the_choice():
    given = config('gpt', mesh={})
    found = choices()
    for one in found:
        made = config('gpt', mesh={})
        for flag in ranking.Ranking(given, GPU, found, []).flags(one):
            name, value = flag.removeprefix('--config.').split('=')
            group, field = name.split('.')
            setattr(getattr(made, group), field, Remat[value] if field == 'remat' else int(value))
        assert (made.mesh, made.model.remat, made.optim.microbatches) == (one.config.mesh, one.config.model.remat, one.config.optim.microbatches)


# Compiled on eight devices: bytes that stand in the formulas, and those that XLA's compiler for CPUs exchanges. It adds gradients of small weights over data
# and fsdp in one all-reduce; what the formulas leave out are sums of a few numbers, and statistics of a softmax over a divided vocabulary.
MESHES = {
    'data': ({'data': 8}, {}),
    'fsdp': ({'data': 2, 'fsdp': 4}, {'optim': {'microbatches': 2}}),
    'tensor': ({'data': 2, 'tensor': 4}, {}),
    'tensor, recomputed': ({'data': 2, 'tensor': 4}, {'remat': Remat.full}),
}


@pytest.fixture(scope='module', params=MESHES)
def both(request) -> tuple[roofline.Prediction, making.StagePlan]:
    mesh, fields = MESHES[request.param]
    given = {'mesh': {'data': 1} | mesh, **fields}
    return predicted('gpt', CPU, **given), making.make(assemble(config('gpt', **given)), CPU).stages[0]


def test_formulas_are_what_is_compiled(both):
    formula, compiled = both
    assert formula.memory['parameters'] == compiled.memory['parameters'] and formula.memory['optimiser'] == compiled.memory['optimiser']
    assert math.isclose(formula.flops * CPU.chips, compiled.flops, rel_tol=1e-9)

    def total(found, kinds: tuple[str, ...], axes: set[str]) -> int:
        return sum(one.bytes * one.times for one in found if one.kind in kinds and set(one.axes) <= axes)

    sums = ('all-reduce', 'reduce-scatter')
    fsdp = any(one.axes == ('fsdp',) for one in formula.collectives)
    gradients = total(formula.collectives, sums, {'data', 'fsdp'})
    assert math.isclose(total(compiled.collectives, sums, {'data', 'fsdp'}), gradients, rel_tol=0.02 if fsdp else 1e-3)
    states = total(formula.collectives, sums, {'tensor'})
    assert states <= total(compiled.collectives, sums, {'tensor'}) <= 1.01 * states
    gathered, once = total(compiled.collectives, ('all-gather',), {'fsdp'}), total(formula.collectives, ('all-gather',), {'fsdp'}) / 2
    assert once / 2 <= gathered <= 2 * once and (gathered > 0) == fsdp  # for each microbatch or for all of them


def test_a_kept_plan_is_the_plan(tmp_path):
    plan = making.make(assemble(config('t5', num_layers=1)), GPU, price=2.0)
    again = making.from_json(json.loads(json.dumps(plan.as_json(), default=making.plain)))
    assert showing.text(again) == showing.text(plan) and again.as_json() == plan.as_json()


@pytest.fixture
def made(monkeypatch):
    """How often a plan was made, instead of read."""
    count, make = [], making.make
    monkeypatch.setattr(making, 'make', lambda run, topology: count.append(run.config) or make(run, topology))
    return count


def compiled(cache, number: int = 1, said: list | None = None, **fields) -> list[ranking.Compiled]:
    given = config('gpt', mesh={}, num_layers=1, **{name: value for name, value in fields.items() if name != 'steps'})
    given.steps = fields.get('steps', 1000)
    run = assemble(given)
    return ranking.compile_best(run, GPU, ranking.rank(run, GPU), number, cache, (said if said is not None else []).append)


def test_what_was_compiled_is_kept(tmp_path, made, monkeypatch):
    cache, said = keeping.Cache(str(tmp_path / 'a' / 'b')), []
    first = compiled(cache, 2, said)
    assert len(made) == len(said) == 2 and 'large models take minutes' in said[0] and not any(one.kept for one in first)
    again = compiled(cache, 2, said)
    assert len(made) == 2 and len(said) == 2 and all(one.kept for one in again)
    assert [showing.text(one.plan) for one in again] == [showing.text(one.plan) for one in first]
    # Other numbers are another run of the same step.
    (longer,) = compiled(cache, steps=5000)
    (same,) = [one for one in first if one.plan.mesh == longer.plan.mesh and one.choice.config.model.remat == longer.choice.config.model.remat]
    assert len(made) == 2 and longer.plan.stages[0].steps == 5000 and math.isclose(longer.plan.seconds, 5 * same.plan.seconds)
    compiled(cache, d_ff=192)
    assert len(made) == 3
    monkeypatch.setattr(keeping, '_code', lambda config: 'changed')
    compiled(cache)
    assert len(made) == 4
    monkeypatch.setenv('LIBTPU_INIT_ARGS', '--xla_enable_async_all_gather=true')
    compiled(cache)
    assert len(made) == 5


def test_what_was_cut_off_is_made_anew(tmp_path, made):
    cache = keeping.Cache(str(tmp_path))
    compiled(cache)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:1000])
    assert not compiled(cache)[0].kept and len(made) == 2
    assert compiled(cache)[0].kept and len(made) == 2


def test_a_cache_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(UserError, match='--cache_dir=.*give a folder'):
            keeping.Cache(str(folder))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert keeping.Cache().folder == str(tmp_path / 'cache' / 't5x_lite' / 'plans')


def test_what_the_code_depends_on(tmp_path, monkeypatch):
    given = config('bert')
    package = tmp_path / 'mine'
    package.mkdir()
    (package / '__init__.py').write_text('x = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    without = keeping._code(given)
    given.model.module = 'mine:Model'
    before = keeping._code(given)
    (package / '__init__.py').write_text('x = 2\n')
    assert len({without, before, keeping._code(given)}) == 3


def test_shown(tmp_path):
    pytest.importorskip('matplotlib', reason='pictures need matplotlib')
    given = config('gpt', mesh={}, num_layers=1)
    run = assemble(given)
    found = ranking.rank(run, GPU)
    plans = ranking.compile_best(run, GPU, found, 1, keeping.Cache(str(tmp_path / 'cache')), lambda line: None)
    shown = ranking.Ranking(given, GPU, found, plans)
    text = showing_ranks.text(shown)
    assert f'best: {ranking.title(shown.best)}' in text and '--config.mesh.' in text and 'products' in text and 's/step' in text
    paths = showing_ranks.write(shown, str(tmp_path / 'plan'))
    assert [path.rpartition('/')[2] for path in paths] == ['ranking.json', 'plan.json', 'plan.png']
    written = json.loads((tmp_path / 'plan' / 'ranking.json').read_text())
    assert len(written['choices']) == len(found) and written['choices'][0]['flags'] == shown.flags(found[0])
    # Devices without figures are not timed.
    untimed = ranking.Ranking(given, CPU, ranking.rank(run, CPU), [])
    assert untimed.choices[0].seconds is None and 'no figures of these devices are published' in showing_ranks.text(untimed)
    assert untimed.choices[0].config.model.remat == Remat.none and untimed.best is untimed.choices[0]


@pytest.mark.parametrize('attention', [AttentionKernel.auto, AttentionKernel.cudnn])
def test_kernels_that_this_machine_has_not_are_no_obstacle(attention):
    assert choices(num_layers=1, attention=attention)[0].seconds > 0


def test_what_auto_picks_is_what_is_counted():
    """On TPUs splash where there is no dropout of weights, else scores in memory up to a size; plans for other machines ask nothing of this one."""

    def picked(platform: str, length: int, attention: AttentionKernel = AttentionKernel.auto, dropout: float = 0.1) -> AttentionKernel:
        config = Config(model=ModelConfig(num_heads=12, d_model=768, attention=attention, attention_dropout=dropout))
        sizes = {'data': 16, 'fsdp': 1, 'tensor': 1, 'sequence': 1}
        return formulas.attending(config, sizes, (0, length, 256, 0), platform).model.attention

    v5e = topologies.parse('v5e:4x4').platform
    assert picked(v5e, 512) == AttentionKernel.dense and picked(v5e, 8192) == AttentionKernel.blockwise
    assert picked(v5e, 512, dropout=0.0) == AttentionKernel.splash
    assert picked(CPU.platform, 64) == AttentionKernel.dense and picked(CPU.platform, 8192) == AttentionKernel.blockwise
    assert picked(v5e, 8192, AttentionKernel.dense) == AttentionKernel.dense, 'what a config names stays'
