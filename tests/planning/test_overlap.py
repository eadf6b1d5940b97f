"""How much of a collective other work hides: each second of work once, what ends first before what ends later."""

import math
from unittest import mock

import numpy as np
import pytest

from t5x_lite.planning import hlo, overlap, topologies, traffic
from t5x_lite.planning.collectives import collectives
from t5x_lite.planning.estimate import estimate, sending, taken
from tests.planning.test_collectives import DATA, THROUGH_A_LOOP

# Two gathers are under way while a product runs, the second of which ends before the first; behind it one is waited for.
TWO = """HloModule m, is_scheduled=true, num_partitions=2

ENTRY %main (x: f32[1024,2048], w: f32[2048,2048]) -> f32[1024,2048] {{
  %x = f32[1024,2048]{{1,0}} parameter(0)
  %w = f32[2048,2048]{{1,0}} parameter(1)
  %all-gather-start.1 = (f32[1024,2048]{{1,0}}, f32[2048,2048]{{1,0}}) all-gather-start(%x), channel_id=1, replica_groups={{{{0,1}}}}, dimensions={{0}}
  %all-gather-start.2 = (f32[{rows},2048]{{1,0}}, f32[{twice},2048]{{1,0}}) all-gather-start(%part), channel_id=2, replica_groups={{{{0,1}}}}, dimensions={{0}}
  %dot.1 = f32[1024,2048]{{1,0}} dot(%x, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  %all-gather-done.2 = f32[{twice},2048]{{1,0}} all-gather-done(%all-gather-start.2)
  %all-gather-done.1 = f32[2048,2048]{{1,0}} all-gather-done(%all-gather-start.1)
  ROOT %all-reduce.1 = f32[1024,2048]{{1,0}} all-reduce(%dot.1), channel_id=3, replica_groups={{{{0,1}}}}, use_global_device_ids=true
}}
"""
TWO = TWO.replace('  %all-gather-start.1', '  %part = f32[{rows},2048]{{1,0}} slice(%x), slice={{[0:{rows}], [0:2048]}}\n  %all-gather-start.1', 1)
H100 = topologies.parse('gpu:2xH100')


def read(text):
    module = hlo.parse(text)
    works = traffic.works(module)
    return works, overlap.hidden(module, collectives(module, DATA), works, H100, None)


@pytest.mark.parametrize('rows', [8, 1024])
def test_a_second_of_work_hides_one_of_communication(rows):
    works, (late, early, waited) = read(TWO.format(rows=rows, twice=2 * rows))
    product = next(taken(work, H100.chip) for work in works if work.name == 'dot.1')
    link = H100.chip.link
    of_early = min(1.0, product / sending(early, H100, link))
    left = product - of_early * sending(early, H100, link)
    assert math.isclose(early.hidden, of_early) and math.isclose(late.hidden, min(1.0, left / sending(late, H100, link)), abs_tol=1e-12)
    assert waited.hidden == 0.0
    assert (rows == 8) == (late.hidden > 0) and (rows == 8) == (early.hidden == 1.0)  # the small one leaves work for the other
    found = estimate(works, (late, early, waited), H100, None)
    whole = sum(sending(one, H100, link) for one in (late, early, waited))
    assert math.isclose(found.waited + found.hidden, whole) and math.isclose(found.hidden, min(product, of_early * sending(early, H100, link) + left))


def test_a_loop_hides_with_all_its_trips():
    works, (one,) = read(THROUGH_A_LOOP)
    trip = sum(taken(work, H100.chip) for work in works if work.name in ('fusion.2', 'add.1'))
    assert math.isclose(one.hidden, min(1.0, 3 * trip / sending(one, H100, H100.chip.link)), rel_tol=1e-6)


# Two messages are under way while a product runs: to neighbours along one side of 4 x 4 chips, and along the other, or along the same.
SHIFTED = """HloModule m, is_scheduled=true, num_partitions=16

ENTRY %main (x: bf16[3072,4096], w: bf16[4096,4096]) -> bf16[3072,4096] {{
  %x = bf16[3072,4096]{{1,0}} parameter(0)
  %w = bf16[4096,4096]{{1,0}} parameter(1)
  %collective-permute-start.1 = (bf16[3072,4096]{{1,0}}, bf16[3072,4096]{{1,0}}) collective-permute-start(%x), channel_id=1, source_target_pairs={{{{{first}}}}}
  %collective-permute-start.2 = (bf16[4096,4096]{{1,0}}, bf16[4096,4096]{{1,0}}) collective-permute-start(%w), channel_id=2, source_target_pairs={{{{{second}}}}}
  %dot.1 = bf16[3072,4096]{{1,0}} dot(%x, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  %collective-permute-done.2 = bf16[4096,4096]{{1,0}} collective-permute-done(%collective-permute-start.2)
  ROOT %collective-permute-done.1 = bf16[3072,4096]{{1,0}} collective-permute-done(%collective-permute-start.1)
}}
"""
SIDES = ['},{'.join(f'{one},{one // 4 * 4 + (one + 1) % 4}' for one in range(16)), '},{'.join(f'{one},{(one + 4) % 16}' for one in range(16))]


@pytest.mark.parametrize('second', [0, 1])
def test_links_of_two_sides_are_hidden_at_once(second):
    topology = topologies.parse('v5e:4x4')
    mesh = mock.Mock(devices=np.array([mock.Mock(coords=(*place, 0)) for place in np.ndindex(4, 4)]))
    module = hlo.parse(SHIFTED.format(first=SIDES[0], second=SIDES[second]))
    works, sent = traffic.works(module), collectives(module, {'data': 16})
    first, last = overlap.hidden(module, sent, works, topology, mesh)
    product = next(taken(work, topology.chip) for work in works if work.name == 'dot.1')
    seconds = 2 * 4096 * 4096 / 50e9  # a message to a neighbour, through one link
    assert product < seconds and math.isclose(last.hidden, product / seconds, rel_tol=1e-6)
    assert first.hidden == (1.0 if second else 0.0)  # three quarters as long
