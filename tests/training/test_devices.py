"""Memory that a step frees stays with the process on a CPU, and whoever has tuned malloc keeps his settings."""

import ctypes
import os
import subprocess
import sys

import pytest

_LOOP = """
import resource, sys
from t5x_lite.config import Config
from t5x_lite.training import devices
devices.configure(Config())
def step():
    b'x' * (64 << 20)  # numpy would ask for huge pages
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**environment) -> int:
    """Page faults of five steps that take and free 64 MB."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('MALLOC_') and name != 'GLIBC_TUNABLES'}
    result = subprocess.run([sys.executable, '-c', _LOOP], capture_output=True, text=True, check=True, env=kept | environment)
    return int(result.stdout)


@pytest.mark.skipif(not sys.platform.startswith('linux') or not hasattr(ctypes.CDLL(None), 'gnu_get_libc_version'), reason='malloc is not glibc\'s')
@pytest.mark.parametrize(
    'environment, kept',
    [({'JAX_PLATFORMS': 'cpu'}, True), ({'JAX_PLATFORMS': 'cpu', 'MALLOC_ARENA_MAX': '4'}, False), ({'JAX_PLATFORMS': 'cuda'}, False)],
    ids=['on a CPU', 'tuned by the user', 'on a GPU'],
)
def test_freed_memory_is_kept_between_steps(environment, kept):
    page = os.sysconf('SC_PAGE_SIZE')
    assert (_faults(**environment) < 0.1 * 5 * (64 << 20) / page) == kept


def test_deterministic_kernels_are_asked_for_beside_the_flags_that_are_set():
    script = 'import os; from t5x_lite.config import Config; from t5x_lite.training import devices; devices.configure(Config(deterministic=True)); print(os.environ["XLA_FLAGS"])'
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_dump_to=/tmp'}
    shown = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True, env=env).stdout
    assert shown.split() == ['--xla_dump_to=/tmp', '--xla_gpu_deterministic_ops=true']
