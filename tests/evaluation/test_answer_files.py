"""Answers in files: lines of JSON, SQuAD's predictions, and a mistake that leaves what was there."""

import json

import pytest

from t5x_lite.errors import UserError
from t5x_lite.evaluation import answer_files

ANSWERS = [{'id': 'q1', 'text': 'who?', 'answer': 'Zoë', 'no_answer': 1e-9}, {'id': 'q2', 'text': 'when?', 'answer': '', 'no_answer': 0.75}]


def broken():
    yield ANSWERS[0]
    raise UserError('line 2')


def test_lines(tmp_path):
    path = tmp_path / 'a.jsonl'
    assert answer_files.write(str(path), [ANSWERS[0], {'text': 'long', 'cut': 16}]) == f'2 answers in {path}; 1 of the texts were too long and cut (those with "cut")'
    assert [json.loads(line) for line in path.read_text().splitlines()] == [ANSWERS[0], {'text': 'long', 'cut': 16}]


def test_predictions_of_squad(tmp_path):
    path = tmp_path / 'a.json'
    said = answer_files.write_squad(str(path), ANSWERS, True)
    assert said.startswith(f'2 answers in {path}') and f'{tmp_path}/a.na_prob.json (--na-prob-file of evaluate-v2.0.py)' in said
    assert json.loads(path.read_text()) == {'q1': 'Zoë', 'q2': ''}
    assert json.loads((tmp_path / 'a.na_prob.json').read_text()) == {'q1': 1e-9, 'q2': 0.75}
    assert 'na-prob' not in answer_files.write_squad(f'{tmp_path}/b.json', ANSWERS, False) and not (tmp_path / 'b.na_prob.json').exists()


@pytest.mark.parametrize('write', [answer_files.write, lambda path, answers: answer_files.write_squad(path, answers, True)])
def test_a_mistake_leaves_what_was_there(tmp_path, write):
    (tmp_path / 'a.json').write_text('before')
    with pytest.raises(UserError, match='line 2'):
        write(f'{tmp_path}/a.json', broken())
    assert [path.name for path in tmp_path.iterdir()] == ['a.json'] and (tmp_path / 'a.json').read_text() == 'before'
    with pytest.raises(UserError, match='--output=.*gone/a.json: No such file'):
        write(f'{tmp_path}/gone/a.json', ANSWERS)
