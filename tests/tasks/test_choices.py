"""Multiple choice end to end: a tiny model learns which of three choices is right, and a mesh changes no number."""

import numpy as np
import pytest

from t5x_lite.config import Config, DataConfig
from t5x_lite.data import tokenizers
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from tests import head_material
from tests.data.table_material import vocabulary

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
    data = DataConfig(
        source='t5x_lite.data.choices:ChoiceExamples', train=str(folder / 'train.csv'), validation=str(folder / 'dev.csv'), tokenizer=vocabulary(folder),
        seq_len=8,
    )  # fmt: skip
    model = {'dropout': 0.1 if mesh else 0.0}
    return head_material.run_of('ChoiceHead', 't5x_lite.tasks.classification:ChoiceLoss', data, mesh=mesh, model=model, steps=60, **fields)


def test_a_tiny_model_learns_to_choose(tmp_path):
    config = run_config(tmp_path)
    found = head_material.learnt(config)
    assert found.after['accuracy'] > 0.95, found.after
    predictor = ChoicePredictor(config, found.params, tokenizers.load(config.data.tokenizer), batch_size=4)
    asked = [row.split(',') for row in questions(60, seed=1).splitlines()[1:]]
    answers = predictor([(question, *filter(None, choices)) for question, *choices, _ in asked])
    right = [answer['choice'] == choices[int(label)] for answer, (_, *choices, label) in zip(answers, asked, strict=True)]
    assert np.mean(right) == pytest.approx(found.after['accuracy']), 'an answer is what the evaluation scored'


@pytest.mark.parametrize('mesh', [{'fsdp': 2, 'tensor': 2}, {'tensor': 2, 'sequence': 2}])
def test_a_mesh_and_microbatches_change_no_number(tmp_path, mesh):
    """Dropout too, whose masks are those of each choice of each row."""
    head_material.same_on_its_mesh(run_config(tmp_path, {'data': 2} | mesh, label_smoothing=0.1))
