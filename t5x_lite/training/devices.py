"""Settings that must be made before JAX touches a device."""

import ctypes
import importlib.util
import os

import jax

from t5x_lite.config import Config
from t5x_lite.errors import UserError


def configure(config: Config) -> None:
    """Deterministic kernels on a GPU and a cache of compiled programs, where the config asks for them; on a CPU, memory that is kept between steps.

    Raises:
      UserError: nothing can be kept in config.compilation_cache.
    """
    if config.compilation_cache:
        _keep_compiled(config.compilation_cache)
    if config.deterministic:
        os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_gpu_deterministic_ops=true'
    jax.config.update('jax_threefry_partitionable', True)  # random numbers of the initialisation do not depend on the mesh
    if _only_cpu():
        keep_freed_memory()


def _keep_compiled(folder: str) -> None:
    if '://' not in folder:
        folder = os.path.abspath(os.path.expanduser(folder))
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(f'config.compilation_cache={folder}: {error.strerror}; give a folder that can be written to') from error
    jax.config.update('jax_compilation_cache_dir', folder)  # what takes less than a second to compile is not kept, unless JAX's own settings say so


def _only_cpu() -> bool:
    """Whether JAX will compute on the CPU, told without starting it."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == 'cpu'
    return not any(importlib.util.find_spec(plugin) for plugin in ('jax_plugins', 'libtpu'))


def keep_freed_memory() -> None:
    """Lets malloc keep what one step frees for the next, where malloc is glibc's.

    XLA:CPU frees the gigabytes of activations of each step; by default they go back to the kernel, which must clear every page of them
    again for the next step: a fifth of a step's time, more in a virtual machine. Call it before threads start. The process keeps its peak
    of memory, which is higher for the gaps between blocks, until it ends; where that is too much, any setting of malloc in the environment
    (MALLOC_ARENA_MAX=2, say) stands in its place.
    """
    if any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ):
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    # Only the main arena can hold such blocks without mmap; -1 is the largest threshold.
    for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1)):
        mallopt(option, value)
