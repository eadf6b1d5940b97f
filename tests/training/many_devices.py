"""On 64 fake devices: the numbers of a step, and the tokens of a generation, against those of one. (test_many_devices.py runs it in a process of its own.)

    XLA_FLAGS=--xla_force_host_platform_device_count=64 python -m pytest tests/training/many_devices.py
"""

import jax
import numpy as np
import pytest

from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.generation import Generator
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program
from tests.evaluation.test_generation import assert_same_answers, config_of, generator, tokenizer  # noqa: F401
from tests.training import small
from tests.training.test_step import assert_equal, assert_equal_gradients
from tests.training.test_step_of_language_models import KINDS, train

pytestmark = pytest.mark.skipif(len(jax.devices()) < 64, reason='needs 64 devices')

# All axes at once; and four slices of sixteen devices, over which weights are divided.
MESHES = [{'data': 4, 'fsdp': 4, 'tensor': 2, 'sequence': 2}, {'data': 2, 'fsdp': 8, 'tensor': 4, 'slices': 4, 'slices_along': 'fsdp'}]


@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_bert(mesh):
    single, sharded = small.train(small.config(), 2, small.one_device()), small.train(small.config(mesh=mesh), 2)
    assert_equal(single, sharded)
    assert_equal_gradients(single, sharded)


@pytest.mark.parametrize('mesh', MESHES, ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_language_models(kind, mesh):
    single, sharded = train(kind, small.one_device()), train(kind, mesh=mesh)
    assert_equal(single, sharded)
    assert_equal_gradients(single, sharded)


@pytest.mark.parametrize('kind', ['decoder', 'encoder_decoder'])
def test_generation(kind, tokenizer):  # noqa: F811
    single = generator(kind, tokenizer, batch_size=16)
    config = config_of(kind, data=4, fsdp=4, tensor=4)
    mesh = partitioning.make_mesh(config)
    params = Evaluator.place_on(make_program(config, mesh), jax.tree.map(np.asarray, single.params))
    sharded = Generator(config, params, tokenizer, mesh, batch_size=16)
    assert_same_answers(sharded, single)
