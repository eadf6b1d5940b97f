"""Plans of all three architectures on eight devices of this machine, compiled: counted against formulas, and against what training compiles."""

import dataclasses
import json
import math
from typing import Any

import jax
import pytest

from t5x_lite.assemble import assemble
from t5x_lite.config import AttentionKernel, Config, DataConfig, DType, MeshConfig, ModelConfig, OptimConfig, Remat, SequenceAttention
from t5x_lite.errors import UserError
from t5x_lite.planning import batches, formulas, gates, making, memory, mending, showing, topologies
from t5x_lite.stages import stages
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program
from tests.training.test_step_of_language_models import GPT, T5

# Of FLOPs counted over FLOPs by formula. What the formulas leave out, products of padding and of masks, is far less at these sizes.
CLOSE = 0.02

SIZES = {'vocab_size': 512, 'vocab_multiple': 1, 'num_layers': 2, 'd_model': 64, 'num_heads': 4, 'd_ff': 128, 'max_positions': 64}
OBJECTIVES = {
    'bert': ('bert_flax.objectives:MlmNsp', 'bert_flax.losses:MlmNspLoss', {'module': 'bert_flax.bert:BertForPreTraining'}),
    'gpt': ('t5x_lite.data.language_modelling:CausalLm', 't5x_lite.training.losses:LmLoss', GPT | {'local_window': 0}),
    't5': ('t5x_lite.data.span_corruption:SpanCorruption', 't5x_lite.training.losses:LmLoss', T5 | {'head_size': 16}),
}


def config(kind: str, mesh=None, optim=None, **model) -> Config:
    source, loss, fields = OBJECTIVES[kind]
    return Config(
        steps=1000, batch_size=32, loss=loss, model=ModelConfig(**(fields | SIZES | model)),
        data=DataConfig(source=source, seq_len=64, concatenate=kind == 'gpt', target_len=32 if kind == 't5' else 0),
        mesh=MeshConfig(**({'data': 2, 'fsdp': 2, 'tensor': 2} if mesh is None else mesh)), optim=OptimConfig(**(optim or {})),
    )  # fmt: skip


def plan(kind: str, topology: str = 'cpu:8', **fields) -> making.Plan:
    return making.make(assemble(config(kind, **fields)), topologies.parse(topology), price=2.0)


@pytest.fixture(scope='module')
def plans():
    return {kind: plan(kind) for kind in OBJECTIVES}


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_compiled_flops_are_the_models(plans, kind):
    (stage,) = plans[kind].stages
    assert abs(stage.flops / stage.model_flops - 1) < CLOSE and not stage.untold
    assert [gate.held for gate in stage.gates if gate.name == 'FLOPs'] == [True]


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_formulas_are_six_times_parameters_and_tokens_and_attention(plans, kind):
    """The published form of what `forward_flops` counts: 6 N D for products, 12 layers x width x length a token for attention."""
    (stage,) = plans[kind].stages
    _, length, rows, predictions = stage.stage
    made = config(kind)
    program = make_program(assemble(made).config, partitioning.make_mesh(assemble(made).config))
    params = program.abstract.params
    kernels = {'/'.join(str(getattr(key, 'key', key)) for key in path): leaf.size for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0] if leaf.ndim > 1}
    width, vocabulary, joined = 64, 512, 64

    def products(*parts: str) -> int:
        return sum(size for name, size in kernels.items() if name.endswith('kernel') and all(part in name for part in parts))

    if kind == 'bert':
        a_row = 6 * (products('layers') * length + products('pooler') + products('nsp') + predictions * (width * width + vocabulary * width))
        a_row += 12 * 2 * joined * length * length
    elif kind == 'gpt':
        a_row = 6 * length * (products('layers') + vocabulary * width) + 12 * 2 * joined * length * length
    else:
        memory_side = products('decoder', 'cross_attention/key') + products('decoder', 'cross_attention/value')
        a_row = 6 * (length * (products('encoder') + memory_side) + predictions * (products('decoder') - memory_side + vocabulary * width))
        a_row += 12 * 2 * joined * (length**2 + predictions * length + predictions**2)
    assert stage.model_flops == rows * a_row


def test_memory_adds_up_to_the_compilers(plans, kind='gpt'):
    made = assemble(config(kind)).config
    program = make_program(made, partitioning.make_mesh(made))
    (stage,) = plans[kind].stages
    batch = batches.placed(batches.shapes(assemble(config(kind)), made, stages(made)[0]), program.mesh)
    analysis = making.lowered(program, batch).compile().memory_analysis()
    reserved = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes
    assert stage.used == sum(stage.memory.values())
    assert reserved <= stage.used <= 1.05 * reserved + 4096
    # Exact: a third of AdamW's state is parameters, and each lies on a device as its sharding says.
    parameters = memory.local_bytes(program.abstract.params)
    assert stage.memory['parameters'] == parameters and 2 * parameters <= stage.memory['optimiser'] < 2 * parameters + 100
    assert sum(leaf.size for leaf in jax.tree.leaves(program.abstract.params)) * 4 / 8 < parameters


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_collectives_are_the_planned_ones(plans, kind):
    (stage,) = plans[kind].stages
    assert {one.kind for one in stage.collectives} <= {'all-gather', 'all-reduce', 'reduce-scatter', 'collective-permute', 'all-to-all'}
    assert {axis for one in stage.collectives for axis in one.axes} == {'data', 'fsdp', 'tensor'}
    assert 'no unplanned collective' in [gate.name for gate in stage.gates if gate.held]
    # Every weight is gathered over fsdp as often as the formula says, for the forward and again for the backward pass; tables of embeddings never.
    made = assemble(config(kind)).config
    program = make_program(made, partitioning.make_mesh(made))
    (weights,) = [one for one in formulas.planned(program, stages(made)[0]) if one.kind == 'all-gather']
    gathered = sum(one.bytes * one.times for one in stage.collectives if one.kind == 'all-gather' and one.axes == ('fsdp',))
    assert 0.95 * weights.bytes <= gathered <= 1.05 * weights.bytes * weights.times


@pytest.mark.parametrize('kind, sizes, model', [
    ('bert', {'fsdp': 2, 'sequence': 4}, {}),
    ('gpt', {'fsdp': 2, 'sequence': 4}, {'remat': Remat.full}),
    ('t5', {'tensor': 2, 'sequence': 4}, {}),
], ids=str)  # fmt: skip
def test_keys_and_values_that_go_round_are_the_planned_ones(kind, sizes, model):
    """To the byte: nothing else of this step is permuted along the row, and nothing of their size is gathered."""
    fields = {'mesh': {'data': 1} | sizes | {'sequence_attention': SequenceAttention.ring}} | model
    (stage,) = plan(kind, **fields).stages
    made = assemble(config(kind, **fields)).config
    program = make_program(made, partitioning.make_mesh(made))
    expected = [one for one in formulas.planned(program, stages(made)[0]) if one.kind == 'collective-permute']
    found = [one for one in stage.collectives if one.kind == 'collective-permute' and {'sequence', 'part of sequence'} >= set(one.axes)]
    assert sum(one.sent * one.times for one in found) == sum(one.sent * one.times for one in expected) > 0, found
    smallest = min(one.bytes for one in expected if one.place == 'keys and values')
    assert not [one for one in stage.collectives if one.kind == 'all-gather' and 'sequence' in one.axes and one.bytes >= smallest]


@pytest.mark.parametrize('again', [False, True])
def test_weights_that_travel_ahead_are_the_planned_ones(again):
    """Two layers in two turns (8 = 2 x 4): the first turn has two more layers before the loop, the second one, so at most twice what is planned. Not a weight is
    gathered at once, nor added up so."""
    fields = {'mesh': {'data': 1, 'fsdp': 8, 'gather_ahead': True, 'sum_behind': True, 'gather_again': again}, 'remat': Remat.full}
    (stage,) = plan('t5', **fields).stages
    made = assemble(config('t5', **fields)).config
    program = make_program(made, partitioning.make_mesh(made))
    planned = sum(one.sent * one.times for one in formulas.planned(program, stages(made)[0]) if one.kind != 'all-reduce')
    sent = {kind: sum(one.sent * one.times for one in stage.collectives if one.kind == kind) for kind in {one.kind for one in stage.collectives}}
    assert planned <= sent.pop('collective-permute') <= 2 * planned
    assert sum(sent.values()) < 0.02 * planned  # ids, and gradients of small weights


def test_weights_that_are_sent_again_are_not_kept():
    """Of eight layers some are on their way, whole or in parts, in the forward pass and in the backward pass."""
    fields = {'num_layers': 8, 'remat': Remat.full, 'mesh': {'data': 1, 'fsdp': 8, 'gather_ahead': True, 'sum_behind': True}}
    (kept,) = plan('gpt', **fields).stages
    (again,) = plan('gpt', **fields | {'mesh': fields['mesh'] | {'gather_again': True}}).stages
    model = assemble(config('gpt', **fields)).config.model
    weights = 8 * (4 * model.d_model**2 + 2 * model.d_model * model.d_ff) * 4
    assert again.used < kept.used - weights / 2


def test_recomputation_is_seen(plans):
    (stage,), (kept,) = plan('gpt', remat=Remat.full).stages, plans['gpt'].stages
    assert 1.1 < stage.flops / stage.model_flops < 4 / 3
    assert stage.memory['activations'] < kept.memory['activations'] / 2
    assert [gate.held for gate in stage.gates if gate.name == 'FLOPs'] == [True]


def test_microbatches_count_as_often_as_they_run(plans):
    (stage,) = plan('gpt', optim={'microbatches': 4}).stages
    assert abs(stage.flops / stage.model_flops - 1) < CLOSE
    assert stage.memory['activations'] < plans['gpt'].stages[0].memory['activations']


def test_stages_are_planned_one_by_one():
    made = config('gpt', num_layers=1)
    made.data.stages = ((0, 32, 64, 0), (900, 64, 32, 0))
    found = making.make(assemble(made), topologies.parse('gpu:8xH100'))
    assert [stage.steps for stage in found.stages] == [900, 100] and [stage.stage[1:3] for stage in found.stages] == [(32, 64), (64, 32)]


def test_batches_are_those_of_the_source():
    for kind, names in (
        ('bert', {'tokens', 'token_types', 'sequence_ids', 'masked_positions', 'masked_targets', 'masked_weights', 'next_sentence_labels'}),
        ('gpt', {'tokens', 'targets', 'target_weights', 'sequence_ids', 'positions'}),
    ):
        run = assemble(config(kind))
        made = batches.shapes(run, run.config, stages(run.config)[0])
        assert made.keys() == names and all(value.shape[0] == 32 for value in made.values()) and made['tokens'].shape == (32, 64)


def test_what_cannot_be_timed_is_not(plans):
    found = plans['gpt']
    assert found.stages[0].estimate is None and found.seconds is None and found.chip_hours is None
    assert 'no estimate' in showing.text(found) and 'what these devices have is not known' in showing.text(found)


def test_a_gpu_plan_is_of_formulas_and_says_so():
    found = plan('gpt', 'gpu:8xH100', attention=AttentionKernel.dense)
    (stage,) = found.stages
    assert not found.compiled and 'not compiled' in showing.text(found)
    assert abs(stage.flops / stage.model_flops - 1) < CLOSE  # of the program before its compiler, over all devices
    assert stage.fits and stage.estimate is None and stage.predicted > 0 and math.isclose(found.seconds, 1000 * stage.predicted)
    assert math.isclose(found.as_json()['cost'], found.seconds * 8 / 3600 * 2.0)
    assert 'overlap' not in [gate.name for gate in stage.gates]
    # A kernel that this machine has not is no obstacle; kernels that keep no scores make them again in the backward pass.
    cudnn = plan('gpt', 'gpu:8xH100', attention=AttentionKernel.cudnn).stages[0]
    assert stage.flops < cudnn.flops < 1.05 * stage.flops and cudnn.memory['activations'] < stage.memory['activations']
    # `auto` counts as what it picks there: without bf16 that is no kernel of NVIDIA's, and the scores are small.
    auto = plan('gpt', 'gpu:8xH100', attention=AttentionKernel.auto).stages[0]
    assert auto.flops == stage.flops and auto.memory == stage.memory


def with_room(room: float) -> Any:
    """A slice of v5e whose chips have so much memory."""
    v5e = topologies.parse('v5e:2x4')
    chip = dataclasses.replace(v5e.chip, hbm=room / mending.FULL)
    return type('Smaller', (), {'chip': chip, 'chips': 8, 'slices': 1, 'shown': v5e.shown, 'platform': v5e.platform})


def test_weights_that_are_too_large_to_be_kept_are_sent_again_or_gathered():
    mesh = {'data': 1, 'fsdp': 8, 'gather_ahead': True, 'sum_behind': True}
    made, again = (assemble(config('gpt', mesh=mesh | more, num_layers=64, remat=Remat.full)).config for more in ({}, {'gather_again': True}))
    stage, sizes = stages(made)[0], partitioning.axis_sizes(made.mesh, 8)
    again = formulas.attending(again, sizes, stage, 'tpu')
    needed = formulas.activations(again, sizes, stage) + formulas.working(again, sizes, stage)
    found = ['--config.mesh.gather_ahead=False --config.mesh.sum_behind=False', '--config.mesh.gather_again']
    assert mending.mends(made, {'params': 0}, sizes, stage, with_room(1.01 * needed)) == found
    behind = assemble(config('gpt', mesh=mesh | {'sum_behind': False}, num_layers=64)).config
    assert '--config.mesh.gather_again --config.mesh.sum_behind --config.model.remat=full' in [flags for flags, _, _ in mending._candidates(behind, sizes, stage, 1)]


def test_what_is_waited_for_says_what_would_be_sent_ahead():
    def said(slice_of='v5e:2x4', room=1.0, model=DType.bfloat16, **mesh):
        made = assemble(config('gpt', mesh={'data': 1, 'fsdp': 8} | mesh, dtype=model)).config
        v5e = topologies.parse(slice_of)
        smaller = with_room(room * v5e.chip.hbm)
        smaller.kind, smaller.shape = v5e.kind, v5e.shape
        return mending.sends_ahead(made, {'params': 1000}, partitioning.axis_sizes(made.mesh, 8), stages(made)[0], smaller)

    flags = '--config.mesh.gather_ahead --config.mesh.sum_behind'
    assert said() == f'{flags} --config.mesh.collective_dtype=bfloat16' and said(model=DType.float32) == flags
    assert said(collective_dtype=DType.bfloat16) == flags and said('v5e:8x8', collective_dtype=DType.bfloat16) == f'{flags} --config.mesh.gather_side=2'
    ahead = {'gather_ahead': True, 'collective_dtype': DType.bfloat16}
    assert said(**ahead) == '--config.mesh.sum_behind' and said(**ahead, sum_behind=True) == ''
    assert said('v5e:8x8', **ahead, sum_behind=True) == '--config.mesh.gather_side=2'
    assert said(room=1e-6) == said(data=8, fsdp=1) == said(model=DType.float16) == ''


def test_what_does_not_fit_says_what_would():
    made = assemble(config('gpt', mesh={'data': 8})).config
    program = make_program(made, partitioning.make_mesh(made))
    stage, sizes = stages(made)[0], dict(program.mesh.shape)
    state = memory.of_state(program, batches.placed(batches.shapes(assemble(config('gpt')), made, stage), program.mesh))
    needed = sum(state.values()) + formulas.activations(made, sizes, stage) + formulas.working(made, sizes, stage)

    def given(room: float) -> list[str]:
        return mending.mends(made, state, sizes, stage, with_room(room))

    assert given(0.999 * needed)[0] == '--config.optim.microbatches=2'
    assert all('--config.mesh.fsdp=8' in one for one in given(0.9 * sum(state.values())))
    assert given(1000)[0].startswith('a larger slice')


def test_errors_of_compilers_are_read():
    said = 'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.25G of 15.75G hbm. Exceeded hbm capacity by 15.50G.'
    assert memory.exceeded(RuntimeError(said)) == (31.25 * 2**30, 15.75 * 2**30)
    assert memory.exceeded(RuntimeError('RESOURCE_EXHAUSTED: who knows')) == (0.0, 0.0)
    assert memory.exceeded(RuntimeError('INTERNAL: a fault')) is None


@pytest.mark.parametrize('fields, said', [
    ({'mesh': {'data': 3}}, 'config.mesh data=3 x fsdp=1 x tensor=1 x sequence=1 does not fit 8 devices'),
    ({'optim': {'microbatches': 16}}, 'each of 16 microbatches has 2 of the 32 rows'),
    ({'num_heads': 1}, 'config.mesh.tensor=2 does not divide config.model.num_heads=1'),
])  # fmt: skip
def test_mistakes(fields, said):
    with pytest.raises(UserError, match=said):
        plan('gpt', **fields)


def test_gates_are_missed_where_they_should_be():
    given = {
        'collectives': [], 'largest': 100, 'exchanged': 399, 'overlaps': True, 'sends_ahead': '', 'flops': 1.0, 'model_flops': 1.0, 'remat': Remat.none,
        'memory': 0.5, 'mfu': 0.7, 'parameters': 2_000_000_000,
    }  # fmt: skip

    def held(**changed):
        return {gate.name: gate.held for gate in gates.gates(**(given | changed))}

    def one(kind='all-gather', elements=25, hidden=0.0):
        return making.Collective('x', kind, ('fsdp',), (0, 1, 2, 3), 400, 1, 0, 400, (elements,), '', hidden=hidden)

    assert all(held().values())
    assert held(flops=1.2)['FLOPs'] is False and held(flops=1.2, remat=Remat.full)['FLOPs'] is True
    assert held(memory=0.91)['memory'] is False and held(mfu=0.55)['MFU'] is False and held(mfu=0.55, parameters=400_000_000)['MFU'] is True
    assert held(collectives=[one()]) == {'no unplanned collective': True, 'FLOPs': True, 'overlap': False, 'memory': True, 'MFU': True}
    said = {gate.name: gate.said for gate in gates.gates(**(given | {'collectives': [one()], 'sends_ahead': '--flag'}))}
    assert said['overlap'] == '0.0% of the bytes sent, at least 95%; --flag sends weights beside what is computed'
    assert held(collectives=[one(hidden=0.96)])['overlap'] is True and held(collectives=[one(hidden=1.0), one(hidden=0.8)])['overlap'] is False
    assert held(collectives=[one(elements=26)])['no unplanned collective'] is False  # 4 x 26 of at most 100
    assert held(collectives=[one('all-to-all', 1)])['no unplanned collective'] is False
    assert held(collectives=[one('all-to-all', 1)], exchanged=400)['no unplanned collective'] is True


def test_written_and_drawn(plans, tmp_path):
    pytest.importorskip('matplotlib', reason='pictures need matplotlib')
    paths = showing.write(plans['bert'], str(tmp_path / 'plan'))
    found = json.loads((tmp_path / 'plan' / 'plan.json').read_text())
    assert found['topology'] == 'cpu:8' and found['compiled'] is True and found['mesh'] == {'data': 2, 'fsdp': 2, 'tensor': 2, 'sequence': 1}
    assert found['stages'][0]['flops'] == plans['bert'].stages[0].flops and found['config']['model']['d_model'] == 64
    assert len(found['stages'][0]['collectives']) == len(plans['bert'].stages[0].collectives)
    assert (tmp_path / 'plan' / 'plan.png').read_bytes().startswith(b'\x89PNG') and len(paths) == 2


def test_slices_of_a_plan():
    """Devices of a CPU do not say of which slice they are; --slices does."""
    made = making.make(assemble(config('gpt', mesh={'data': 4, 'fsdp': 2}, num_layers=1)), topologies.parse('cpu:4', 2))
    (stage,) = made.stages
    assert made.config.mesh.slices == 2 and made.mesh['data'] == 4
    across = [one for one in stage.collectives if one.slices > 1]
    # Sums of gradients over data go across, weights stay within; the compiler may join the sums of what is whole on all devices over both axes.
    assert across and all('data' in one.axes and one.kind in ('all-reduce', 'reduce-scatter') for one in across)
    assert all(one.slices == 1 for one in stage.collectives if one.axes == ('fsdp',))
    assert 0 < sum(one.times * one.between for one in across) < sum(one.times * one.sent for one in stage.collectives)
    text = showing.text(made)
    assert 'on 2 x cpu:4' in text and 'data (slices)' in text and 'MiB to other slices' in text
    again = making.from_json(json.loads(json.dumps(made.as_json(), default=making.plain)))
    assert showing.text(again) == text and again.as_json() == made.as_json()
    with pytest.raises(UserError, match='config.mesh.slices=2, and the plan is for 1; give --slices=2'):
        making.make(assemble(config('gpt', mesh={'data': 8, 'slices': 2})), topologies.parse('cpu:8'))


def test_mends_keep_an_axis_across_slices():
    given = assemble(config('gpt', mesh={'data': 8})).config
    (stage,) = stages(given)
    sizes = {'data': 8, 'fsdp': 1, 'tensor': 1, 'sequence': 1}
    flags = ' '.join(mend for mend, _, _ in mending._candidates(given, sizes, stage, 2))
    assert '--config.mesh.data=2 --config.mesh.fsdp=4' in flags and 'mesh.data=1 ' not in flags
