"""64 fake devices give the numbers of one: in processes of their own, for JAX makes as many devices as it is told to when it begins."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(chosen: str) -> None:
    """Runs those of many_devices.py whose names have the word; all of them pass, none is skipped."""
    flags = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag] + ['--xla_force_host_platform_device_count=64']
    command = [sys.executable, '-m', 'pytest', '-q', 'tests/training/many_devices.py', '-k', chosen]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {'XLA_FLAGS': ' '.join(flags)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and re.search(r'^\d+ passed', done.stdout, re.MULTILINE) and 'skipped' not in done.stdout, done.stdout + done.stderr


def test_a_step_of_bert_on_64_devices():
    run('test_bert and not slices')


@pytest.mark.slow
@pytest.mark.parametrize('chosen', ['test_bert', 'test_language_models', 'test_generation'])
def test_all_architectures_on_64_devices(chosen):
    run(chosen)
