"""How much of a collective other work hides: each second of work once, what ends first before what ends later."""

import math

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
