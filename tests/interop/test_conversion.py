"""A Hugging Face folder to a workdir of ours and back, in this process and as the command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_lite.interop import conversion, folder
from t5x_lite.training import checkpoint
from tests.interop import CLASSIFIER, ENCODER, SHARDED, SINGLE
from tests.interop.test_folder import assert_bitwise, refusal, tensors

ROOT = Path(__file__).resolve().parents[2]


def convert(*flags):
    """(exit status, stdout, stderr) of the command."""
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-m', 't5x_lite.convert', *flags], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('source', [SINGLE, SHARDED, ENCODER, CLASSIFIER], ids=lambda path: path.name)
def test_there_and_back_is_bitwise(source, tmp_path):
    native, back = str(tmp_path / 'native'), str(tmp_path / 'back')
    conversion.to_native(str(source), native)
    config, params = checkpoint.load_params(native)
    expected_config, expected = folder.load(str(source))
    assert config.model == expected_config
    assert_bitwise(dict(folder._flatten(params)), dict(folder._flatten(expected)))
    assert config.data.labels == (('no', 'perhaps', 'yes') if source == CLASSIFIER else ())
    assert not folder.is_hf_folder(native)
    conversion.to_hf(native, back, max_shard_bytes=50_000)
    assert_bitwise(tensors(back), tensors(source))
    assert folder.label_names(folder.read_fields(back)) == folder.label_names(folder.read_fields(str(source)))
    for name in ('tokenizer.json', 'tokenizer_config.json', 'vocab.txt'):
        assert Path(back, name).read_bytes() == (source / name).read_bytes()


def test_one_checkpoint_of_a_run_and_its_moving_average(tmp_path):
    """Of a workdir with several checkpoints, the newest unless one is named; the average only when asked for."""
    workdir = tmp_path / 'run'
    config = conversion.to_native(str(SINGLE), str(workdir))
    _, params = folder.load(str(SINGLE))
    config.ema_decay = 0.5
    (workdir / 'config.json').write_text(checkpoint.to_json(config))
    for step in (10, 20):
        parts = {
            name: jax.tree.map(lambda leaf, shift=shift: leaf + np.float32(shift), params)
            for name, shift in (('params', step), ('ema', -step))
        }
        checkpoint.ocp.save_checkpointables(str(workdir / 'checkpoints' / str(step)), parts)
    name, before = 'cls.seq_relationship.bias', tensors(SINGLE)['cls.seq_relationship.bias']
    for number, (source, ema, added) in enumerate(
        [(workdir, False, 20), (workdir, True, -20), (workdir / 'checkpoints' / '10', False, 10)]
    ):
        conversion.to_hf(str(source), str(tmp_path / f'out{number}'), ema=ema)
        np.testing.assert_array_equal(tensors(tmp_path / f'out{number}')[name], before + np.float32(added))


def test_mistakes_are_named_before_anything_is_written(tmp_path):
    native = str(tmp_path / 'native')
    conversion.to_native(str(SINGLE), native)
    out = str(tmp_path / 'out')
    assert 'kept no moving average' in refusal(conversion.to_hf, native, out, ema=True)
    assert 'not a Hugging Face folder' in refusal(conversion.to_native, native, out)
    assert 'not a Hugging Face folder' in refusal(conversion.to_native, str(tmp_path / 'none'), out)
    assert 'already a Hugging Face folder' in refusal(conversion.to_hf, str(SINGLE), out)
    assert 'no checkpoint of ours' in refusal(conversion.to_hf, str(tmp_path), out)
    assert 'exists and is not empty' in refusal(conversion.to_hf, native, str(SINGLE))
    assert 'exists and is not empty' in refusal(conversion.to_native, str(SINGLE), native)
    shutil.rmtree(tmp_path / 'native' / 'tokenizer')
    assert 'tokenizer: does not exist' in refusal(conversion.to_hf, native, out)
    assert os.listdir(tmp_path) == ['native']


def test_the_command_does_the_same(tmp_path):
    native, back = str(tmp_path / 'native'), str(tmp_path / 'back')
    status, out, err = convert(f'--input={SINGLE}', f'--output={native}', '--format=native')
    assert (status, out) == (0, f'{native}: bert_flax.bert:BertForPreTraining, 2 layers of 32\n'), err
    status, _, err = convert(f'--input={native}', f'--output={back}', '--format=hf', '--max_shard_bytes=50000')
    assert status == 0, err
    assert_bitwise(tensors(back), tensors(SINGLE))


@pytest.mark.parametrize('damage', ['truncated', 'absent', 'format'])
def test_the_command_says_in_one_line_what_is_wrong(damage, tmp_path):
    source, kind = shutil.copytree(SINGLE, tmp_path / 'source'), 'native'
    if damage == 'truncated':
        weights = tmp_path / 'source' / 'model.safetensors'
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == 'absent':
        source = tmp_path / 'elsewhere'
    else:
        kind = 'pickle'
    status, out, err = convert(f'--input={source}', f'--output={tmp_path / "out"}', f'--format={kind}')
    assert (status, out) == (2, '')
    assert err.startswith('error: ') and err.count('\n') == 1, err
    assert {'truncated': 'model.safetensors: truncated', 'absent': str(source), 'format': 'pickle'}[damage] in err
    assert not (tmp_path / 'out').exists()
