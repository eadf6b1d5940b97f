"""What the tests of single heads share: a head on a tiny BERT with files to learn from, what it learns, and that a mesh changes no number."""

import dataclasses
from typing import Any

import jax
import numpy as np

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program, make_train_step
from tests.data.table_material import VOCAB
from tests.training import small


def run_of(head: str, loss: str, data: DataConfig, *, mesh=None, model=None, **fields) -> Config:
    """A complete config: what the data tell is filled in.

    Args:
      head: a class of t5x_lite.models.heads.
      data: with its source and files.
      mesh, model: fields of config.mesh and config.model.
    """
    sizes = {'vocab_size': len(VOCAB), 'vocab_multiple': 8, 'num_layers': 1, 'd_model': 32, 'num_heads': 8, 'd_ff': 64, 'max_positions': data.seq_len}
    still = {'dropout': 0.0, 'attention_dropout': 0.0}
    config = Config(
        batch_size=16,
        loss=loss,
        model=ModelConfig(**{'module': f't5x_lite.models.heads:{head}', 'body': 'bert_flax.bert:Bert'} | sizes | still | (model or {})),
        data=data,
        # On a mesh rounding stays rounding: see tests/training/small.py.
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=5, eps=1e-3 if mesh else 1e-6),
        mesh=MeshConfig(**(mesh or {})),
        **fields,
    )
    train = DataFunction(config, 'train')
    for name, value in getattr(train.sources(train.stages[0])[0], 'resolved', {}).items():
        group, field = name.split('.')
        setattr(getattr(config, group), field, value)
    return finalize(config)


@dataclasses.dataclass
class Learnt:
    """Scores of held-out data before the first step and after the last, and the parameters then."""

    before: dict[str, float]
    after: dict[str, float]
    params: Any


def learnt(config: Config) -> Learnt:
    """What all steps of a config teach, on one device."""
    train, held_out = DataFunction(config, 'train'), DataFunction(config, 'validation')
    mesh = partitioning.make_mesh(config, small.one_device())
    program = make_program(config, mesh)
    evaluate = Evaluator(program, held_out)
    with jax.set_mesh(mesh):
        state, step = program.init(), jax.jit(make_train_step(program))
        before = evaluate(state.params)
        for number in range(config.steps):
            state, metrics = step(state, train.batch(number))
            assert metrics['finite']
    return Learnt(before, evaluate(state.params), jax.tree.map(np.asarray, state.params))


def same_on_its_mesh(config: Config) -> Any:
    """Asserts that three steps on the config's mesh and in two microbatches give the numbers of one device; the parameters after them."""
    batches = [DataFunction(config, 'train').batch(0)] * 3
    sharded = small.train(dataclasses.replace(config, optim=dataclasses.replace(config.optim, microbatches=2)), batches=batches)
    alone = small.train(dataclasses.replace(config, mesh=MeshConfig()), devices=small.one_device(), batches=batches)
    np.testing.assert_allclose(sharded.curve, alone.curve, rtol=2e-4)
    assert small.largest_difference(sharded.state.params, alone.state.params) < 2e-4
    return alone.state.params
