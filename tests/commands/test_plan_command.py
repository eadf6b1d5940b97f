"""python -m t5x_lite.plan, as a person runs it."""

import json
import shlex

import pytest

from tests.commands import forked

SMALL = (
    '--config=configs/bert.py:tiny', '--config.model.default_vocab_size=1000', '--config.model.d_model=64', '--config.model.d_ff=128', '--config.batch_size=16',
    '--config.data.seq_len=32',
)  # fmt: skip


def test_a_plan_for_devices_of_this_machine(tmp_path):
    said = forked.run('plan', *SMALL, '--topology=cpu:4', '--config.mesh.fsdp=2', f'--output={tmp_path / "plan"}', devices=4).success
    assert '4 x CPU, mesh data=2 x fsdp=2' in said and 'compiled in' in said and 'no unplanned collective: none' in said
    found = json.loads((tmp_path / 'plan' / 'plan.json').read_text())
    assert found['mesh'] == {'data': 2, 'fsdp': 2, 'tensor': 1, 'sequence': 1} and found['stages'][0]['flops'] > 0
    assert (tmp_path / 'plan' / 'plan.png').exists()


MISTAKES = [
    ('', '--topology is missing'),
    ('--topology=v5q:4x4', "no such machine as 'v5q'", "did you mean 'v5"),
    ('--topology=cpu:4 --config.mesh.data=3', 'does not fit 4 devices', 'multiply to 4'),
    ('--topology=cpu:4 --config.batch_size=6', 'a batch has 6 rows', 'data x fsdp = 4 do not divide'),
    ('--topology=cpu:4 --config.mesh.rules="((\'batch\', \'dta\'),)"', "did you mean 'data'?"),
    ('--topology=gpu:4xH10', "did you mean 'H100'?"),
    ('--topology=gpu:4xH100 --price_per_chip_hour=-1', 'price_per_chip_hour'),
    ('--topology=gpu:4xH100 --output=setup.cfg', '--output=setup.cfg is a file'),
    ('--topology=gpu:4xH100 --config.data.source=t5x_lite.data.tables:LabelledTable', 'config.data.source'),
]


@pytest.mark.parametrize('case', MISTAKES, ids=[case[0] for case in MISTAKES])
def test_mistakes(case):
    flags, *said = case
    error = forked.run('plan', *SMALL, *shlex.split(flags), devices=4).error
    assert all(part in error for part in said), error
