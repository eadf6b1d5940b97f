"""Collectives in HLO: bytes, axes, how often, and whether anything is computed meanwhile."""

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import jax.numpy as jnp
import pytest

from t5x_lite.planning import hlo, memory, traffic
from t5x_lite.planning.collectives import Collective, axes_of, collectives, first_group
from tests.planning import fixture

LAYERS, ROWS, WIDTH, HIDDEN = 5, 16, 32, 64
SIZES = {'data': 1, 'fsdp': 4, 'tensor': 2, 'sequence': 1}


@pytest.fixture(scope='module')
def found():
    """Of the gradient of a scanned stack of two products, weights split over fsdp and gathered at their use, hidden units over tensor."""
    mesh = jax.make_mesh(tuple(SIZES.values()), tuple(SIZES), axis_types=(jax.sharding.AxisType.Auto,) * 4)

    def loss(weights, x):
        def layer(x, weight):
            wide, narrow = weight
            wide = jax.lax.with_sharding_constraint(wide, P(None, 'tensor'))
            narrow = jax.lax.with_sharding_constraint(narrow, P('tensor', None))
            return jax.lax.with_sharding_constraint(jnp.tanh(jnp.tanh(x @ wide) @ narrow), P('fsdp', None)), None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    def placed(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    weights = placed((LAYERS, WIDTH, HIDDEN), None, 'fsdp', 'tensor'), placed((LAYERS, HIDDEN, WIDTH), None, 'tensor', 'fsdp')
    with jax.set_mesh(mesh):
        out = jax.tree.map(lambda leaf: leaf.sharding, weights)
        text = jax.jit(jax.grad(loss), out_shardings=out).lower(weights, placed((ROWS, WIDTH), 'fsdp')).compile().as_text()
    return collectives(hlo.parse(text), SIZES)


def test_weights_are_gathered_layer_by_layer(found):
    gathered = [one for one in found if one.kind == 'all-gather']
    assert gathered and {one.axes for one in gathered} == {('fsdp',)}
    # A layer's part of each weight, whole along fsdp and halved by tensor; the backward pass finds what the forward pass kept.
    assert {one.bytes for one in gathered} == {4 * WIDTH * HIDDEN // 2}
    assert sum(one.times for one in gathered) == 2 * LAYERS
    assert all(one.sent == one.bytes * 3 / 4 for one in gathered)


def test_gradients_of_weights_are_added_over_fsdp(found):
    added = [one for one in found if one.kind in ('all-reduce', 'reduce-scatter') and one.axes == ('fsdp',)]
    # XLA may join both, or add them after the loop: the bytes are those of all layers.
    assert sum(one.bytes * one.times for one in added) == 2 * LAYERS * 4 * WIDTH * HIDDEN // 2


def test_states_are_added_over_tensor(found):
    added = [one for one in found if one.kind == 'all-reduce' and one.axes == ('tensor',)]
    states = 4 * (ROWS // 4) * WIDTH
    assert {one.bytes for one in added} == {states}
    assert sum(one.times for one in added) == 2 * LAYERS  # forward behind the second product, backward behind the first


def test_nothing_else_is_sent(found):
    assert {one.kind for one in found} <= {'all-gather', 'all-reduce', 'reduce-scatter'}
    assert not [one for one in found if one.meanwhile]  # XLA's for CPUs waits for all


def test_those_of_a_tpu():
    asynchronous, waited, scattered = collectives(fixture.module(), fixture.MESH)
    for one in (asynchronous, waited, scattered):
        assert one.axes == ('fsdp',) and one.group == (0, 1, 2, 3) and one.times == fixture.TRIPS
    # One gather, though it stands in three fusions; a product runs between the first and the last of them.
    assert asynchronous.kind == waited.kind == 'all-gather' and asynchronous.bytes == waited.bytes == 2 * 8 * 16
    assert asynchronous.meanwhile == 2 * 32 * 8 * 8
    # What bears the name of an asynchronous one, and is one instruction, is waited for.
    assert not waited.meanwhile
    assert scattered.kind == 'reduce-scatter' and scattered.bytes == 4 * 8 * 16 and scattered.sent == 4 * 8 * 16 * 3 / 4


PAIR = """HloModule m, is_scheduled=true, num_partitions=2

ENTRY %main (x: f32[4,8], w: f32[8,8]) -> f32[8,8] {{
  %x = f32[4,8]{{1,0}} parameter(0)
  %w = f32[8,8]{{1,0}} parameter(1)
  %all-gather-start = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) all-gather-start(%x), channel_id=1, replica_groups={{{{0,1}}}}, dimensions={{0}}
{}
  ROOT %dot.2 = f32[8,8]{{1,0}} dot(%all-gather-done, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}
"""
DONE = '  %all-gather-done = f32[8,8]{1,0} all-gather-done(%all-gather-start)'
DOT = '  %dot.1 = f32[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}'


@pytest.mark.parametrize('lines, flops', [((DOT, DONE), 2 * 4 * 8 * 8), ((DONE, DOT), 0)])
def test_pairs_of_start_and_done(lines, flops):
    (one,) = collectives(hlo.parse(PAIR.format('\n'.join(lines))), DATA)
    assert one.kind == 'all-gather' and one.axes == ('data',) and one.bytes == 4 * 8 * 8 and one.meanwhile == flops


# A gather that begins before a loop and ends behind it: each trip carries a part of it along with a product.
THROUGH_A_LOOP = """HloModule m, is_scheduled=true, num_partitions=2

%begin (p0: f32[4,8]) -> (f32[4,8], f32[8,8]) {
  %p0 = f32[4,8]{1,0} parameter(0)
  %all-gather.1 = f32[8,8]{1,0} all-gather(%p0), channel_id=7, replica_groups={{0,1}}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="3"}
  ROOT %custom-call.1 = (f32[4,8]{1,0}, f32[8,8]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%carry (p0: f32[4,8], p1: f32[8,8]) -> (f32[8,8], f32[4,8]) {
  %p0.1 = f32[4,8]{1,0} parameter(0)
  %p1.1 = f32[8,8]{1,0} parameter(1)
  %all-gather.2 = f32[8,8]{1,0} all-gather(%p0.1), channel_id=7, replica_groups={{0,1}}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="3"}
  %dot.1 = f32[4,8]{1,0} dot(%p0.1, %p1.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tuple.1 = (f32[8,8]{1,0}, f32[4,8]{1,0}) tuple(%all-gather.2, %dot.1)
}

%end (p0: f32[4,8], p1: f32[8,8]) -> f32[8,8] {
  %p0.2 = f32[4,8]{1,0} parameter(0)
  %p1.2 = f32[8,8]{1,0} parameter(1)
  %all-gather.3 = f32[8,8]{1,0} all-gather(%p0.2), channel_id=7, replica_groups={{0,1}}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="3"}
  ROOT %custom-call.2 = f32[8,8]{1,0} custom-call(%p0.2, %p1.2, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%body (state: (s32[], f32[4,8], f32[8,8])) -> (s32[], f32[4,8], f32[8,8]) {
  %state = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[8,8]{1,0} get-tuple-element(%state), index=2
  %fusion.2 = (f32[8,8]{1,0}, f32[4,8]{1,0}) fusion(%x, %w), kind=kCustom, calls=%carry
  %made = f32[4,8]{1,0} get-tuple-element(%fusion.2), index=1
  %constant.1 = s32[] constant(1)
  %add.1 = s32[] add(%number, %constant.1)
  ROOT %tuple.2 = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) tuple(%add.1, %made, %w)
}

%condition (state: (s32[], f32[4,8], f32[8,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(0)
  %number.1 = s32[] get-tuple-element(%state.1), index=0
  %constant.2 = s32[] constant(3)
  ROOT %lt.1 = pred[] compare(%number.1, %constant.2), direction=LT
}

ENTRY %main (x: f32[4,8], w: f32[8,8]) -> f32[8,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %w.1 = f32[8,8]{1,0} parameter(1)
  %constant.3 = s32[] constant(0)
  %fusion.1 = (f32[4,8]{1,0}, f32[8,8]{1,0}) fusion(%x.1), kind=kCustom, calls=%begin
  %begun = f32[8,8]{1,0} get-tuple-element(%fusion.1), index=1
  %tuple.3 = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) tuple(%constant.3, %x.1, %w.1)
  %while.1 = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) while(%tuple.3), condition=%condition, body=%body
  ROOT %fusion.3 = f32[8,8]{1,0} fusion(%x.1, %begun), kind=kCustom, calls=%end
}
"""
DATA = {'data': 2, 'fsdp': 1, 'tensor': 1, 'sequence': 1}


def test_what_a_loop_carries_along_is_counted_where_it_begins():
    (one,) = collectives(hlo.parse(THROUGH_A_LOOP), DATA)
    assert one.kind == 'all-gather' and one.times == 1 and one.within == 'main' and one.meanwhile == 3 * 2 * 4 * 8 * 8


# Layers that are not looped over: what stands at one place of each has one channel. Two gathers begin and end apart; two sums, of two arrays each, are waited for.
UNROLLED = """HloModule m, is_scheduled=true, num_partitions=2

%added (p0: f32[4,8], p1: f32[8,8]) -> (f32[2,8], f32[4,8]) {
  %p0.3 = f32[4,8]{1,0} parameter(0)
  %p1.3 = f32[8,8]{1,0} parameter(1)
  %all-reduce.1 = (f32[4,8]{1,0}, f32[8,8]{1,0}) all-reduce(%p0.3, %p1.3), channel_id=1, replica_groups={{0,1}}, use_global_device_ids=true
  %first = f32[4,8]{1,0} get-tuple-element(%all-reduce.1), index=0
  %second = f32[8,8]{1,0} get-tuple-element(%all-reduce.1), index=1
  %zero = s32[] constant(0)
  %dynamic-slice.1 = f32[2,8]{1,0} dynamic-slice(%first, %zero, %zero), dynamic_slice_sizes={2,8}
  %dynamic-slice.2 = f32[4,8]{1,0} dynamic-slice(%second, %zero, %zero), dynamic_slice_sizes={4,8}
  ROOT %tuple.1 = (f32[2,8]{1,0}, f32[4,8]{1,0}) tuple(%dynamic-slice.1, %dynamic-slice.2)
}
"""
for _number in '12':
    UNROLLED += f"""
%begin.{_number} (p0: f32[4,8]) -> (f32[4,8], f32[8,8]) {{
  %p0.{_number} = f32[4,8]{{1,0}} parameter(0)
  %all-gather.{_number} = f32[8,8]{{1,0}} all-gather(%p0.{_number}), channel_id=7, replica_groups={{{{0,1}}}}, dimensions={{0}}, frontend_attributes={{chain_id="{_number}"}}
  ROOT %custom-call.{_number} = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) custom-call(%all-gather.{_number}), custom_call_target="AsyncCollectiveStart"
}}

%end.{_number} (p0: f32[8,8]) -> f32[8,8] {{
  %given.{_number} = f32[8,8]{{1,0}} parameter(0)
  %part.{_number} = f32[4,8]{{1,0}} slice(%given.{_number}), slice={{[0:4], [0:8]}}
  %all-gather-again.{_number} = f32[8,8]{{1,0}} all-gather(%part.{_number}), channel_id=7, replica_groups={{{{0,1}}}}, dimensions={{0}}, frontend_attributes={{chain_id="{_number}"}}
  ROOT %custom-call-again.{_number} = f32[8,8]{{1,0}} custom-call(%given.{_number}, %all-gather-again.{_number}), custom_call_target="AsyncCollectiveDone"
}}
"""
UNROLLED += """
ENTRY %main (x: f32[4,8], w: f32[8,8]) -> (f32[2,8], f32[4,8]) {
  %x = f32[4,8]{1,0} parameter(0)
  %w = f32[8,8]{1,0} parameter(1)
  %fusion.1 = (f32[4,8]{1,0}, f32[8,8]{1,0}) fusion(%x), kind=kCustom, calls=%begin.1
  %begun.1 = f32[8,8]{1,0} get-tuple-element(%fusion.1), index=1
  %fusion.2 = f32[8,8]{1,0} fusion(%begun.1), kind=kCustom, calls=%end.1
  %dot.1 = f32[4,8]{1,0} dot(%x, %fusion.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %fusion.3 = (f32[2,8]{1,0}, f32[4,8]{1,0}) fusion(%dot.1, %w), kind=kCustom, calls=%added
  %fusion.4 = (f32[4,8]{1,0}, f32[8,8]{1,0}) fusion(%x), kind=kCustom, calls=%begin.2
  %begun.2 = f32[8,8]{1,0} get-tuple-element(%fusion.4), index=1
  %fusion.5 = f32[8,8]{1,0} fusion(%begun.2), kind=kCustom, calls=%end.2
  %dot.2 = f32[4,8]{1,0} dot(%dot.1, %fusion.5), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %fusion.6 = (f32[2,8]{1,0}, f32[4,8]{1,0}) fusion(%dot.2, %w), kind=kCustom, calls=%added
}
"""


def test_layers_that_are_not_looped_over_share_channels():
    found = collectives(hlo.parse(UNROLLED), DATA)
    assert sorted(one.kind for one in found) == ['all-gather', 'all-gather', 'reduce-scatter', 'reduce-scatter']
    assert not any(one.meanwhile for one in found)  # what is computed between them hides neither
    assert {one.bytes for one in found if one.kind == 'reduce-scatter'} == {4 * (4 + 8) * 8}


@pytest.mark.parametrize('written, group, axes', [
    ('replica_groups={{0,1},{2,3},{4,5},{6,7}}', (0, 1), ('tensor',)),
    ('replica_groups=[2,4]<=[8]', (0, 1, 2, 3), ('fsdp', 'tensor')),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', (0, 4), ('data',)),
    ('replica_groups=[4,2]<=[2,2,2]T(0,2,1)', (0, 2), ('fsdp',)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", (0, 4), ('data',)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_0','axis_2'}", (0, 1, 4, 5), ('data', 'tensor')),
    ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2), ('fsdp',)),
    ("replica_groups=mesh['a'=2,'b'=4, device_ids=([4,2]T(1,0))] {'a'}", (0, 1), ('tensor',)),
    ('replica_groups={}', tuple(range(8)), ('data', 'fsdp', 'tensor')),
    ('source_target_pairs={{0,2},{2,0},{1,3},{3,1}}', (0, 2), ('fsdp',)),
    ('source_target_pairs={{0,0},{1,1},{4,6},{6,4}}', (4, 6), ('fsdp',)),
])  # fmt: skip
def test_groups_as_xla_writes_them(written, group, axes):
    instruction = hlo.Instruction('x', 'all-reduce', (), (), '', f', channel_id=1, {written}, use_global_device_ids=true', False)
    assert first_group(instruction, 8) == group
    assert axes_of(group, {'data': 2, 'fsdp': 2, 'tensor': 2, 'sequence': 1}) == axes


# As libtpu 0.0.42 writes what one of two slices does, cut down: a sum of parts between slices while a product runs, a gather of which nothing is hidden.
ACROSS = """HloModule m, is_scheduled=true, num_partitions=8

ENTRY %main (x: bf16[256,128], w: bf16[128,128]) -> bf16[256,128] {
  %x = bf16[256,128]{1,0} parameter(0)
  %w = bf16[128,128]{1,0} parameter(1)
  %after-all.1 = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.6_0"}
  %send.1 = (bf16[256,128]{1,0}, u32[], token[]) send(%x, %after-all.1), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.6_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}, backend_config={"flag_configs":[]}
  %recv.1 = (bf16[256,128]{1,0}, u32[], token[]) recv(%after-all.1), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.6_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}, backend_config={"flag_configs":[]}
  %dot.1 = bf16[256,128]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %send-done.1 = token[] send-done(%send.1), channel_id=2, is_host_transfer=true
  %recv-done.1 = (bf16[256,128]{1,0}, token[]) recv-done(%recv.1), channel_id=1, is_host_transfer=true
  %after-all.2 = token[] after-all()
  %send.2 = (bf16[256,128]{1,0}, u32[], token[]) send(%x, %after-all.2), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-gather.17_0",_xla_megascale_target="{1:4}x{0:7}",_xla_megascale_transfer_type="ALL_GATHER"}
  %recv.2 = (bf16[4,256,128]{2,1,0}, u32[], token[]) recv(%after-all.2), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-gather.17_0",_xla_megascale_target="{1:4}x{0:7}",_xla_megascale_transfer_type="ALL_GATHER"}
  %send-done.2 = token[] send-done(%send.2), channel_id=4, is_host_transfer=true
  %recv-done.2 = (bf16[4,256,128]{2,1,0}, token[]) recv-done(%recv.2), channel_id=3, is_host_transfer=true
  %all-reduce.1 = bf16[256,128]{1,0} all-reduce(%dot.1), channel_id=5, replica_groups={{0,4},{1,5},{2,6},{3,7}}, use_global_device_ids=true
  ROOT %add.1 = bf16[256,128]{1,0} add(%all-reduce.1, %dot.1)
}
"""
PART = 2 * 256 * 128  # bytes


def test_what_a_slice_exchanges_with_others():
    module = hlo.parse(ACROSS)
    summed, gathered, inside = collectives(module, {'data': 2, 'fsdp': 4, 'tensor': 1, 'sequence': 1})
    assert (summed.kind, summed.axes, summed.slices, len(summed.group), summed.bytes) == ('all-reduce', ('data',), 2, 2, PART)
    assert summed.meanwhile == 2 * 256 * 128 * 128 and summed.between == summed.sent == PART  # 2 x 1/2
    assert (gathered.kind, gathered.slices, gathered.bytes, gathered.dims) == ('all-gather', 4, 4 * PART, (256, 128))
    assert not gathered.meanwhile and gathered.between == gathered.sent == 3 * PART
    # Groups of the program are numbered within a slice.
    assert (inside.kind, inside.axes, inside.slices, inside.group, inside.between) == ('all-reduce', ('data',), 1, (0, 4), 0)
    assert {work.name for work in traffic.works(module)} == {'dot.1', 'add.1', 'all-reduce.1'}


@pytest.mark.parametrize('target, kind, devices, slices', [
    ('{{100000,100001,200000,200001},{100003,100002,200003,200002}}', 'ALL_TO_ALL', 4, 2),
    ('{{100000->200000},{200003->100000}}', 'ONE_TO_ONE', 2, 2),
])  # fmt: skip
def test_groups_that_name_devices_of_all_slices(target, kind, devices, slices):
    (one, *_) = collectives(hlo.parse(ACROSS.replace('"{1,2}x{0:7}"', target).replace('"ALL_REDUCE"', f'"{kind}"')), {'data': 2, 'fsdp': 4}, along='data')
    assert (one.kind, len(one.group), one.slices) == ({'ONE_TO_ONE': 'collective-permute'}.get(kind, 'all-to-all'), devices, slices)
    assert one.between == (PART if kind == 'ONE_TO_ONE' else PART / 2)  # half of what it has goes to the other slice


def test_groups_over_devices_of_several_slices():
    """XLA's compiler for CPUs writes one program for all."""
    lines = '\n'.join((DONE, DOT))
    sizes = {'data': 2, 'fsdp': 1, 'tensor': 1, 'sequence': 1}
    (across,) = collectives(hlo.parse(PAIR.format(lines)), sizes, 2, 'data')
    assert across.slices == 2 and across.between == across.sent
    (within,) = collectives(hlo.parse(PAIR.format(lines)), {'data': 2, 'fsdp': 2, 'tensor': 1, 'sequence': 1}, 2, 'data')  # devices 0 and 1 are of the first
    assert within.slices == 1 and within.between == 0 and within.axes == ('fsdp',)


@pytest.mark.parametrize('slices, inside', [(2, 1), (3, 1), (2, 4), (4, 2)])
def test_a_sum_in_three_steps_sends_what_a_ring_does(slices, inside):
    """Within each slice every chip makes its part of the sum, exchanges that with the other slices, and gets the parts of its neighbours."""
    whole = 1024
    one = Collective('x', 'all-reduce', ('data',), tuple(range(slices * inside)), whole, 1, 0, whole, (), '', slices)
    assert inside > 1 or one.between == one.sent  # nothing is left within a slice, not even of rounding
    assert one.between == pytest.approx(2 * (whole / inside) * (slices - 1) / slices)
    assert one.sent - one.between == pytest.approx(2 * whole * (inside - 1) / inside)
    exchanged = Collective('x', 'all-to-all', ('data',), tuple(range(slices * inside)), whole, 1, 0, whole, (), '', slices)
    assert exchanged.between == pytest.approx(whole * (slices - 1) / slices)
    assert exchanged.sent - exchanged.between == pytest.approx(whole * (inside - 1) / (inside * slices))


def test_less_than_an_axis_is_said():
    assert axes_of((0, 1), {'data': 2, 'fsdp': 4}) == ('part of fsdp',)


def test_what_is_kept_and_moved():
    module = fixture.module()
    assert memory.kept_for_backward(module) == 4 * 4 * 8 * 16  # the stack that a slice is put into each trip
    works = {work.name: work for work in traffic.works(module)}
    # Its slice alone is written, and read from what it is made of, and the index.
    assert works['fusion.put'].bytes == 2 * 4 * 8 * 16 + 4
    # What lies in nearer memory is free: both results of this one, and one operand of three.
    assert works['fusion.beside'].bytes == 2 * (32 * 8 + 8 * 8)
    assert works['fusion.beside'].flops == 2 * 32 * 8 * 8 and works['fusion.beside'].times == fixture.TRIPS
