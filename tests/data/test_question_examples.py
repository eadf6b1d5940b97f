"""Questions about texts as examples."""

import json

import numpy as np
import pytest

from t5x_lite.data.question_examples import QuestionExamples
from t5x_lite.errors import UserError
from tests.data.reading_material import config_of, questions

CONTEXTS = [f'w{number} it was bo li here w{number + 1} .' for number in range(20)]


def test_a_window_is_an_example(tmp_path):
    config = config_of(tmp_path, questions(tmp_path, 't.json', CONTEXTS), questions(tmp_path, 'd.json', CONTEXTS[:3]))
    train, held_out = (QuestionExamples(config, split, 0, 16) for split in ('train', 'validation'))
    batch = held_out.get(np.arange(3), 16)
    np.testing.assert_array_equal(batch['answer_starts'], [7, 7, 7])
    np.testing.assert_array_equal(batch['answer_ends'], [8, 8, 8])
    np.testing.assert_array_equal(batch['answer_weights'], 1)
    assert batch['tokens'].shape == (3, 16) and len(train) == 20 and len(held_out) == 3
    epochs = [train.get(np.arange(20) + 20 * epoch)['tokens'] for epoch in (0, 1)]
    assert (epochs[0] != epochs[1]).any() and sorted(map(bytes, epochs[0])) == sorted(map(bytes, epochs[1]))
    assert '3 of 3 questions (0 without an answer) in 3 windows' in held_out.describe()


def test_parts_share_no_context(tmp_path):
    config = config_of(tmp_path, questions(tmp_path, 't.json', CONTEXTS))
    parts = [{question.context for question in QuestionExamples(config, split, 0, 16).windows.questions} for split in ('train', 'validation')]
    assert not parts[0] & parts[1] and [len(part) for part in parts] == [18, 2]
    config.data.max_examples = 5
    assert len(QuestionExamples(config, 'train', 0, 16)) == 5


@pytest.mark.parametrize('fields, said', [
    ({'train': ''}, r'--config\.data\.train is empty'),
    ({'max_examples': 100}, r'max_examples=100, and .* has 18 training rows'),
    ({'validation_fraction': 2.0}, r'validation_fraction=2\.0 must lie between 0 and 1'),
    ({'max_question': 64}, r'config\.data\.seq_len=16 leaves a context no room'),
])  # fmt: skip
def test_mistakes(tmp_path, fields, said):
    config = config_of(tmp_path, **{'train': questions(tmp_path, 't.json', CONTEXTS)} | fields)
    with pytest.raises(UserError, match=said):
        QuestionExamples(config, 'train', 0, 16)


def test_questions_without_an_answer_are_a_choice(tmp_path):
    path = questions(tmp_path, 't.json', CONTEXTS)
    (tmp_path / 'd.json').write_text(json.dumps({'data': [{'paragraphs': [{'context': 'it was', 'qas': [{'id': 'x', 'question': 'who ?', 'answers': []}]}]}]}))
    config = config_of(tmp_path, path, str(tmp_path / 'd.json'))
    with pytest.raises(UserError, match=r'd\.json\[x\]: the question has no answer.*--config\.data\.no_answers=True'):
        QuestionExamples(config, 'validation', 0, 16)
    config.data.no_answers = True
    assert QuestionExamples(config, 'validation', 0, 16).get([0])['answer_starts'] == [0]


def test_answers_that_are_not_there_are_named(tmp_path):
    config = config_of(tmp_path, questions(tmp_path, 't.json', CONTEXTS), questions(tmp_path, 'd.json', ['it was zo here .', CONTEXTS[0]]))
    held_out = QuestionExamples(config, 'validation', 0, 16)
    np.testing.assert_array_equal(held_out.get(np.arange(2))['answer_weights'], [0, 1])
    assert '1 of 2 questions have an answer that is not in the context' in held_out.describe() and 'd.json[d.json0]' in held_out.describe()
