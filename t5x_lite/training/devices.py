"""Settings of JAX that must be made before it touches a device."""

import os

import jax

from t5x_lite.config import Config


def configure(config: Config) -> None:
    """Deterministic kernels on a GPU where the config asks for them, strict about nothing else."""
    if config.deterministic:
        os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_gpu_deterministic_ops=true'
    jax.config.update('jax_threefry_partitionable', True)  # random numbers of the initialisation do not depend on the mesh
