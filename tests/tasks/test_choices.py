"""Multiple choice end to end: a tiny model learns which of three choices is right, and a mesh changes no number."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig
from t5x_lite.data import tokenizers
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program, make_train_step
from tests.data.table_material import vocabulary
from tests.training import small

ANIMALS, OTHERS = ('cat', 'dog'), ('tree', 'house', 'runs')


def questions(count, seed=0):
    """The animal is right, wherever it stands among two or three choices."""
    rng = np.random.default_rng(seed)
    rows = ['question,choice0,choice1,choice2,label']
    for _ in range(count):
        choices = rng.choice(OTHERS, rng.integers(2, 4), replace=False).tolist()
        right = int(rng.integers(len(choices)))
        choices[right] = str(rng.choice(ANIMALS))
        rows.append(f'a man,{",".join(choices + [""] * (3 - len(choices)))},{right}')
    return '\n'.join(rows) + '\n'


def run_config(folder, mesh=None, **fields) -> Config:
    (folder / 'train.csv').write_text(questions(300))
    (folder / 'dev.csv').write_text(questions(60, seed=1))
    config = Config(
        steps=60, batch_size=16, loss='t5x_lite.tasks.classification:ChoiceLoss',
        model=ModelConfig(
            module='t5x_lite.models.heads:ChoiceHead', body='bert_flax.bert:Bert', vocab_size=21, vocab_multiple=8, num_layers=1, d_model=32, num_heads=8,
            d_ff=64, max_positions=8, dropout=0.1 if mesh else 0.0, attention_dropout=0.0,
        ),
        data=DataConfig(
            source='t5x_lite.data.choices:ChoiceExamples', train=str(folder / 'train.csv'), validation=str(folder / 'dev.csv'), tokenizer=vocabulary(folder),
            seq_len=8,
        ),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=5, eps=1e-3 if mesh else 1e-6), mesh=MeshConfig(**(mesh or {})), **fields,
    )  # fmt: skip
    for name, value in DataFunction(config, 'train').sources(DataFunction(config, 'train').stages[0])[0].resolved.items():
        group, field = name.split('.')
        setattr(getattr(config, group), field, value)
    return finalize(config)


def test_a_tiny_model_learns_to_choose(tmp_path):
    config = run_config(tmp_path)
    train, held_out = DataFunction(config, 'train'), DataFunction(config, 'validation')
    mesh = partitioning.make_mesh(config, small.one_device())
    program = make_program(config, mesh)
    evaluate = Evaluator(program, held_out)
    with jax.set_mesh(mesh):
        state, step = program.init(), jax.jit(make_train_step(program))
        for number in range(config.steps):
            state, metrics = step(state, train.batch(number))
            assert metrics['finite']
    scores = evaluate(state.params)
    assert scores['accuracy'] > 0.95, scores
    predictor = ChoicePredictor(config, jax.tree.map(np.asarray, state.params), tokenizers.load(config.data.tokenizer), batch_size=4)
    asked = [row.split(',') for row in questions(60, seed=1).splitlines()[1:]]
    answers = predictor([(question, *filter(None, choices)) for question, *choices, _ in asked])
    right = [answer['choice'] == choices[int(label)] for answer, (_, *choices, label) in zip(answers, asked, strict=True)]
    assert np.mean(right) == pytest.approx(scores['accuracy']), 'an answer is what the evaluation scored'


@pytest.mark.parametrize('mesh', [{'fsdp': 2, 'tensor': 2}, {'tensor': 2, 'sequence': 2}])
def test_a_mesh_and_microbatches_change_no_number(tmp_path, mesh):
    """Dropout too, whose masks are those of each choice of each row."""
    config = run_config(tmp_path, {'data': 2} | mesh, label_smoothing=0.1)
    batches = [DataFunction(config, 'train').batch(0)] * 3
    sharded = small.train(dataclasses.replace(config, optim=dataclasses.replace(config.optim, microbatches=2)), batches=batches)
    alone = small.train(dataclasses.replace(config, mesh=MeshConfig()), devices=small.one_device(), batches=batches)
    np.testing.assert_allclose(sharded.curve, alone.curve, rtol=2e-4)
    assert small.largest_difference(sharded.state.params, alone.state.params) < 2e-4
