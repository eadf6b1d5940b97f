"""Strict arithmetic and eight fake devices, for every test."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('XLA_FLAGS', '')
if 'xla_force_host_platform_device_count' not in os.environ['XLA_FLAGS']:
    os.environ['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=8'

# Most of the time of these tests is compiling what then runs for milliseconds: LLVM need not optimise it. (XLA's own passes all run.)
if 'xla_backend_optimization_level' not in os.environ['XLA_FLAGS']:
    os.environ['XLA_FLAGS'] += ' --xla_backend_optimization_level=0'

import ctypes  # noqa: E402
import gc  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from t5x_lite.training import sharing  # noqa: E402
from tests import bucket_stand_ins  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(autouse=True, scope='module')
def compiled_programs_end_with_their_file():
    """Kept, those of all files together take more than ten gigabytes."""
    yield
    sharing.forget()
    jax.clear_caches()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):  # glibc's keeps what it was given back
        libc.malloc_trim(0)


@pytest.fixture(scope='session')
def transformers():
    """The library, for tests that run it beside ours."""
    pytest.importorskip('torch', reason='live comparison needs torch')
    return pytest.importorskip('transformers', reason='live comparison needs transformers')


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The URL of a bucket that is a folder."""
    return bucket_stand_ins.folders(tmp_path / 'buckets', monkeypatch)


@pytest.fixture
def there(bucket, tmp_path):
    """The folder that `bucket` is."""
    return tmp_path / 'buckets' / bucket_stand_ins.BUCKET
