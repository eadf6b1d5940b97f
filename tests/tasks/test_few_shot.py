"""Prompts with demonstrations."""

import functools

import numpy as np
import pytest

from t5x_lite.errors import UserError
from t5x_lite.tasks import few_shot, synthetic, text_formats
from t5x_lite.tasks.few_shot import FewShot
from t5x_lite.tasks.sources import Made
from t5x_lite.tasks.task import Task

TEXTS = ('dull', 'fine', 'great fun', 'poor', 'dull')


def _task(**more):
    rows = [{'text': text, 'stars': number % 2} for number, text in enumerate(TEXTS)]
    preprocess = functools.partial(text_formats.from_template, inputs='review: {text}\nlabel:', targets='{stars}')
    return Task('reviews', Made(lambda split: rows), preprocess, ('accuracy',), ('0', '1'), **more)


def test_prompts():
    task = _task()
    example = task.examples('validation')[2]
    assert FewShot(task, [], 0).prompt(example) == 'review: great fun\nlabel:'
    prompt = FewShot(task, task.examples('train'), 1, joint=' -> ', separator='|', instruction='Judge. ').prompt(example)
    assert prompt.startswith('Judge. review: ') and prompt.endswith('|review: great fun\nlabel:') and prompt.count('label: -> ') == 1
    shots = FewShot(task, task.examples('train'), 2)
    assert shots.choices == (' 0', ' 1') and shots.answer(example) == ' 0'
    shown = shots.demonstrations(example, 5)
    assert shots.prompt(example, 5) == '\n\n'.join([f'{one["inputs"]} {one["targets"]}' for one in shown] + [example['inputs']])


def test_a_demonstration_is_never_the_question():
    task = _task()
    shots = FewShot(task, task.examples('train'), 3)
    for number in range(30):
        example = task.examples('train')[0]  # occurs twice
        assert example['inputs'] not in [shown['inputs'] for shown in shots.demonstrations(example, number)]
    with pytest.raises(UserError, match='fewer than 4 training examples differ from question 0'):
        FewShot(task, task.examples('train'), 4).prompt(task.examples('train')[0])
    with pytest.raises(UserError, match='6 demonstrations from a training part of 5; lower --config.decode.shots'):
        FewShot(task, task.examples('train'), 6)
    with pytest.raises(UserError, match='must be at least 0'):
        FewShot(task, [], -1)


def test_demonstrations_are_a_function_of_seed_and_number():
    task = synthetic.addition(2, 50, 20)
    examples, pool = task.examples('validation'), task.examples('train')
    prompts = [FewShot(task, pool, 3, seed=1).prompt(example, number) for number, example in enumerate(examples)]
    assert prompts == [FewShot(task, pool, 3, seed=1).prompt(example, number) for number, example in enumerate(examples)]
    assert prompts != [FewShot(task, pool, 3, seed=2).prompt(example, number) for number, example in enumerate(examples)]
    assert len({prompt.rpartition('\n\n')[0] for prompt in prompts}) > 15
    fixed = [FewShot(task, pool, 3, seed=1, same=True).prompt(example, number) for number, example in enumerate(examples)]
    assert len({prompt.rpartition('\n\n')[0] for prompt in fixed}) == 1


def test_prompts_without_content():
    task = _task(content=('text',))
    shots = FewShot(task, task.examples('train'), 2)
    example = task.examples('train')[1]
    free = shots.content_free(3, example)
    head = shots.prompt(example, 3).removesuffix(example['inputs'])
    assert free == [f'{head}review: {text}\nlabel:' for text in ('N/A', '[MASK]', '')]
    with pytest.raises(UserError, match='does not say which columns hold content'):
        FewShot(_task(), task.examples('train'), 1).content_free()
    assert FewShot(synthetic.addition(2, 10, 5), [], 0).content_free()[0] == 'Q: What is N/A plus N/A?\nA:'


def test_calibration():
    """A model that likes the second answer whatever it reads: what it says beyond that counts."""
    scores, free = np.log([0.3, 0.7]), np.log([[0.1, 0.9], [0.3, 0.7]])
    found = few_shot.calibrated(scores, free)
    assert found == pytest.approx(np.log([0.3 / 0.2, 0.7 / 0.8]))
    assert few_shot.calibrated(scores - 50, free - 900) == pytest.approx(found), 'shares among the choices'
    assert np.isfinite(few_shot.calibrated(np.array([0.0, -2000.0]), np.array([0.0, -3000.0]))).all()
    with pytest.raises(ValueError, match='as many choices'):
        few_shot.calibrated(scores, np.zeros((2, 3)))
