"""Rows of TFDS, nested features included, as plain Python values."""

import functools

import pytest

from t5x_lite.errors import UserError
from t5x_lite.tasks import questions, text_formats
from t5x_lite.tasks.sources import Files, Tfds
from t5x_lite.tasks.task import Task


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    from tests.tasks import tiny_questions

    folder = str(tmp_path_factory.mktemp('tfds'))
    tiny_questions.TinyQuestions(data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


def test_rows(folder):
    source = Tfds('tiny_questions', {'train': 'train', 'validation': 'validation_matched'})
    rows = [row for _, row in source.read('train', folder)]
    rows.sort(key=lambda row: row['id'])
    assert len(rows) == 4 and len(source.read('validation', folder)) == 2
    assert rows[1] == {
        'id': 'q1', 'context': 'Bö Ra ran.', 'question': 'Who?', 'answers': {'text': ['Bo', 'Bö Ra'], 'answer_start': [0, 0]},
        'idx': {'question': 5, 'answer': 1}, 'label': 1, 'texts': {'en': 'Line 1.', 'de': 'Zeile 1.'},
    }  # fmt: skip


def test_tasks(folder):
    source = Tfds('tiny_questions', {'train': 'train', 'validation': 'validation_matched'})
    task = Task('tiny', source, questions.squad, ('squad',))
    examples = task.examples('validation', tfds_dir=folder)
    assert examples[0]['inputs'] == 'question: Who ? context: Bö Ra ran . '
    assert task.score(['bö ra!', 'bo'], examples)['em'] == 100
    classify = functools.partial(text_formats.classification, name='tiny', labels=('no', 'yes'), features=('question',))
    made = Task('tiny', source, classify).examples('train', tfds_dir=folder)
    assert sorted((example['targets'], example['idx/answer']) for example in made) == [('no', 0), ('no', 2), ('yes', 1), ('yes', 3)]
    by_name = Files('tfds:tiny_questions:train')
    templates = functools.partial(text_formats.from_template, inputs='{question}', targets='{label}')
    assert {example['targets'] for example in Task('tiny', by_name, templates, hold_out=False).examples('train', tfds_dir=folder)} == {'no', 'yes'}
    with pytest.raises(UserError, match="no split 'validation', did you mean 'validation_matched'"):
        Tfds('tiny_questions').read('validation', folder)
