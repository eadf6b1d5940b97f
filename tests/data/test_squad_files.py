"""Files of questions: both versions, broken ones, and answers that are not where the file says."""

import gzip

import pytest

from t5x_lite.data import squad_files
from t5x_lite.data.squad_files import Answer
from t5x_lite.errors import UserError
from t5x_lite.tasks.sources import SquadJson
from tests.data.reading_material import question, squad_json

BO = {'id': 'a', 'question': 'Who?', 'answers': [{'text': 'Bo Li', 'answer_start': 7}, {'text': 'Bo', 'answer_start': 7}]}
NOBODY = {'id': 'b', 'question': 'Why?', 'answers': [], 'plausible_answers': [{'text': 'here', 'answer_start': 13}], 'is_impossible': True}


def test_both_versions_and_gzip(tmp_path):
    (tmp_path / 'a.json').write_text(squad_json(BO, NOBODY))
    (tmp_path / 'a.json.gz').write_bytes(gzip.compress(squad_json(BO, NOBODY).encode()))
    first, second = squad_files.read(str(tmp_path / 'a.json'))
    assert (first.id, first.title, first.question, first.context) == ('a', 'T', 'Who?', 'It was Bo Li here.')
    assert first.answers == (Answer('Bo Li', 7), Answer('Bo', 7)) and first.where == f'{tmp_path}/a.json[a]'
    assert second.answers == ()  # plausible answers are none
    assert [found.id for found in squad_files.read(str(tmp_path / 'a.json.gz'))] == ['a', 'b']
    rows = SquadJson(str(tmp_path / 'a.json')).read('train')
    assert [row['answers'] for _, row in rows] == [['Bo Li', 'Bo'], []] and rows[0][0] == first.where


def test_an_impossible_question_has_no_answer_whatever_stands_in_it(tmp_path):
    (tmp_path / 'a.json').write_text(squad_json(NOBODY | {'answers': [{'text': 'here', 'answer_start': 13}]}))
    assert squad_files.read(str(tmp_path / 'a.json'))[0].answers == ()


def test_questions_that_are_to_be_answered(tmp_path):
    (tmp_path / 'a.json').write_text(squad_json({'id': 7, 'question': 'Who?'}))
    assert squad_files.read(str(tmp_path / 'a.json'), answered=False)[0].id == '7'
    with pytest.raises(UserError, match=r"a.json: not a file of SQuAD .*KeyError: 'answers'"):
        squad_files.read(str(tmp_path / 'a.json'))


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{\n"data": [', 'a.json:2: not JSON'),
        ('{"data": [{"title": "T"}]}', "a.json: not a file of SQuAD 1.1 or 2.0 .KeyError: 'paragraphs'"),
        ('[1]', 'a.json: not a file of SQuAD'),
        ('{"data":' + '[' * 100_000 + ']' * 100_000 + '}', r'a.json: not JSON \(nested too deep\)'),
        ('{"data": ' + '1' * 5000 + '}', r'a.json: not JSON \(a number of too many digits\)'),
        ('{"data": 3}', 'a.json: not a file of SQuAD'),
        ('{"data": []}', 'a.json: there are no questions in it'),
        (squad_json(BO, BO), r'a.json\[a\]: a question before it has the same id'),
        (squad_json(BO | {'question': None}), r'a.json\[a\]: context, question and the text of answers must be strings'),
        (squad_json(BO | {'question': 'Who \ud800'}), r"a.json\[a\]: '.ud800' is not Unicode, in 'Who .ud800'"),
        (squad_json(BO | {'answers': [{'text': 'Bo', 'answer_start': '7'}]}), r'a.json\[a\]: .* answer_start a whole number'),
    ],
)
def test_broken_files(tmp_path, text, said):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(UserError, match=said):
        squad_files.read(str(tmp_path / 'a.json'))
    with pytest.raises(UserError, match='no such file'):
        squad_files.read(str(tmp_path / 'b.json'))


def test_answers_are_found_moved_or_lost():
    context = ' ab cd ab  ef'
    asked = [
        question(context, 'ab', 1, 'right'),
        question(context, 'ab', 7, 'the second'),
        question(context, 'cd', 2, 'moved'),
        question(context, 'ab', 2, 'twice'),
        question(context, 'xy', 1, 'absent'),
        question(context, '  ', 1, 'blank'),
        question(context, ' cd ', 3, 'spaces'),
        question(context, 'cd', None, 'unplaced'),
        question(context, 'cd', -9, 'before'),
        question(context, None, None, 'none'),
    ]
    located = squad_files.locate(asked)
    assert located.spans == [((1, 3),), ((7, 9),), ((4, 6),), (), (), (), ((4, 6),), ((4, 6),), ((4, 6),), ()]
    assert [found.id for found in located.moved] == ['moved', 'before']
    assert [found.id for found in located.lost] == ['twice', 'absent', 'blank']
    lines = located.describe(2)
    assert lines[0].startswith('2 of 10 questions have an answer that begins elsewhere') and lines[0].endswith('file[moved], file[before]')
    assert lines[1].startswith('3 of 10 questions have an answer that is not in the context') and lines[1].endswith('file[twice], file[absent], ...')


def test_of_several_answers_those_count_that_are_there():
    two = question('ab cd', 'xy', 0)
    two = type(two)(two.id, two.title, two.context, two.question, (*two.answers, Answer('cd', 3)), two.where)
    located = squad_files.locate([two])
    assert located.spans == [((3, 5),)] and located.lost == [two]
