"""Questions in the rows of tables: which columns they are read from, and what is refused."""

import pytest

from t5x_lite.data import question_tables
from t5x_lite.data.squad_files import Question
from t5x_lite.errors import UserError


def read(folder, name, text, *columns):
    (folder / name).write_text(text)
    return [(each.id, each.question, each.context) for each in question_tables.read(str(folder / name), columns)]


def test_usual_names_and_given_ones(tmp_path):
    found = read(tmp_path, 'a.csv', 'id,Context,Question,answer\nq1,"Ann left, at noon.",who left?,Ann\n7,b,c,d\n')
    assert found == [('q1', 'who left?', 'Ann left, at noon.'), ('7', 'c', 'b')], 'by name, in any order; an answer is not looked at'
    assert read(tmp_path, 'a.jsonl', '{"question": "who?", "passage": "Ann.", "id": 3}\n{"passage": "Bo.", "question": "and?"}\n') == [
        ('3', 'who?', 'Ann.'), ('', 'and?', 'Bo.'),
    ]  # fmt: skip
    assert read(tmp_path, 'a.csv', 'text,question\na b,who?\n') == [('', 'who?', 'a b')]
    assert read(tmp_path, 'a.csv', 'asked,told,context\nwho?,a b,no\n', 'asked', 'told') == [('', 'who?', 'a b')]
    assert read(tmp_path, 'a.csv', 'who are you?,a long text\nwhy?,another text\n', '0', '1') == [('', 'who are you?', 'a long text'), ('', 'why?', 'another text')]


def test_where_a_question_stands_is_known(tmp_path):
    (tmp_path / 'a.csv').write_text('question,context\na,"b\nc"\nd,e\n')
    assert list(question_tables.read(f'{tmp_path}/a.csv'))[1] == Question('', '', 'e', 'd', (), f'{tmp_path}/a.csv:4')


@pytest.mark.parametrize(
    ('name', 'text', 'columns', 'said'),
    [
        ('a.csv', 'question,body\na,b\n', (), r'a\.csv: no column context or passage or text .* --config\.data\.text_columns=QUESTION,TEXT \(columns: question, body\)'),
        ('a.csv', 'question,context\na,b\n', ('question',), r"text_columns=question names 1; give the column of the question and that of its text"),
        ('a.csv', 'question,context\na,b\n', ('question', 'contxt'), r"a\.csv: no column 'contxt'.*did you mean 'context'"),
        ('a.jsonl', '{"question": "a", "context": "b"}\n{"question": "c"}\n', (), r"a\.jsonl:2: the text \(column 'context'\) is missing"),
        ('a.jsonl', '{"question": "a", "context": ["b"]}\n', (), r"a\.jsonl:1: the text \(column 'context'\) is \['b'\], not a text"),
    ],
)
def test_mistakes(tmp_path, name, text, columns, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, name, text, *columns)
