"""The plans that EVIDENCE.md shows: models of the papers on slices of TPUs, each by a command of its own, and a table of what they say.

    python -m tests.planning.shipped --output=plans [--names=bert_base,...]

Needs libtpu (pip install 'jax[tpu]'); minutes each. A plan that stands in the folder already is not made again. test_tpus.py holds the smallest to what the
table says.
"""

import json
import os
import subprocess
import sys

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError, nearest
from t5x_lite.planning import gates, making
from t5x_lite.planning.making import Plan

FLAGS = flags.FLAGS

_STAGES = '--config.data.stages=((0,128,256,20),(900000,512,256,76))'  # Devlin et al. (2018)
_AHEAD = '--config.mesh.gather_ahead --config.mesh.sum_behind'
_UNROLLED = '--config.model.scan_layers=False --config.mesh.gather_side=2'  # of v5e above 4 x 4, sides of two
_GIVEN = {
    'bert_base': f'--config=configs/bert.py:base --topology=v5e:4x4 --config.mesh.fsdp=16 {_AHEAD} {_STAGES}',
    'bert_large': f'--config=configs/bert.py:large --topology=v5e:8x8 --config.mesh.data=4 --config.mesh.fsdp=16 {_AHEAD} {_UNROLLED} {_STAGES}',
    'bert_large_256': '--config=configs/bert.py:large --topology=v5e:16x16 --config.mesh.data=16 --config.mesh.fsdp=16 --config.batch_size=4096 '
    f'--config.data.seq_len=512 --config.model.remat=dots {_AHEAD} {_UNROLLED}',
    'gpt2_xl': '--config=configs/gpt.py:gpt2_xl --topology=v5e:4x4 --config.mesh.fsdp=16 --config.mesh.gather_ahead --config.batch_size=512 '
    '--config.optim.microbatches=8 --config.model.remat=dots',
    'gpt3_6_7b': f'--config=configs/gpt.py:gpt3_6_7b --topology=v5p:4x4x4 --config.mesh.fsdp=64 {_AHEAD} --config.model.remat=full',
    'gpt3_175b': f'--config=configs/gpt.py:gpt3_175b --topology=v5p:8x8x8 --config.mesh.fsdp=512 {_AHEAD} --config.mesh.gather_again '
    '--config.mesh.gather_side=8 --config.model.remat=full',
    't5_base': f'--config=configs/t5.py:base --topology=v5e:4x4 --config.mesh.fsdp=16 {_AHEAD}',
    't5_11b': f'--config=configs/t5.py:11b --topology=v5p:4x4x4 --config.mesh.fsdp=64 {_AHEAD} --config.batch_size=1792 --config.optim.microbatches=4 '
    '--config.model.remat=dots --config.model.attention=blockwise',
}
PLANS = {name: given.split() for name, given in _GIVEN.items()}


def command(name: str) -> list[str]:
    given = PLANS[name]
    whole = () if any(flag.startswith('--config.mesh.data=') for flag in given) else ('--config.mesh.data=1',)
    return ['-m', 't5x_lite.plan', *given, *whole, '--config.model.dtype=bfloat16', '--config.mesh.collective_dtype=bfloat16']


def made(name: str, folder: str) -> Plan:
    """One, from the folder where it is there."""
    path = os.path.join(folder, name, 'plan.json')
    if not os.path.exists(path):
        environment = {key: value for key, value in os.environ.items() if key not in ('XLA_FLAGS', 'JAX_PLATFORMS')}
        asked = [sys.executable, *command(name), f'--output={os.path.dirname(path)}']
        done = subprocess.run(asked, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise UserError(f'the plan {name} ended with {done.returncode}: {done.stderr[-500:]}')
    with open(path, encoding='utf-8') as file:
        return making.from_json(json.load(file))


def rows(name: str, plan: Plan) -> list[str]:
    """A row for each stage."""
    found = []
    mesh = ' x '.join(f'{axis} {size}' for axis, size in plan.mesh.items() if size > 1)
    for stage in plan.stages:
        _, length, batch, targets = stage.stage
        shape = f'{batch} x {length}' + (f' / {targets}' if 't5' in name else '')
        if not stage.fits:
            found.append(f'| {name}, {shape} | {plan.topology.text}, {mesh} | does not fit | | | | | |')
            continue
        missed = ', '.join(gate.name for gate in stage.gates if not gate.held) or 'none'
        seconds = f'{stage.predicted:.3g} ({stage.predicted_mfu:.0%}) | {stage.estimate.step:.3g} ({stage.mfu:.0%})'
        share = f'{stage.used / stage.room:.0%} | {gates.overlapped(stage.collectives):.0%} ({stage.estimate.waited:.2g} s)'
        found.append(f'| {name}, {shape} | {plan.topology.text}, {mesh} | {seconds} | {stage.flops / stage.model_flops:.3f} | {share} | {missed} |')
    return found


def main(argv: list[str]) -> None:
    del argv
    for name in FLAGS.names:
        if name not in PLANS:
            raise UserError(f'--names={name}: no such plan, {nearest(name, PLANS)}')
    try:
        os.makedirs(FLAGS.output, exist_ok=True)
    except OSError as error:
        raise UserError(f'--output={FLAGS.output}: {error.strerror}; name a folder') from error
    lines = [
        '| | slice and mesh | a step by formulas, s (MFU) | as scheduled, s (MFU) | FLOPs compiled / model\'s | memory of a chip | bytes hidden (waited for) '
        '| gates missed |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for name in FLAGS.names:
        found = rows(name, made(name, FLAGS.output))
        print('\n'.join(found), flush=True)
        lines += found
    with open(os.path.join(FLAGS.output, 'plans.md'), 'w', encoding='utf-8') as file:
        file.write('\n'.join(lines) + '\n')
    print(f'written to {FLAGS.output}/plans.md')


if __name__ == '__main__':
    flags.DEFINE_list('names', list(PLANS), 'Which.')
    flags.DEFINE_string('output', None, 'A folder for a folder of each plan, and plans.md.', required=True)
    cli.run(main)
