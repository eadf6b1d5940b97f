"""Questions with choices that are to be answered: rows without a label, in the columns of training. (Tables to learn from: test_choices.py)"""

import pytest

from t5x_lite.data import choice_columns
from t5x_lite.errors import UserError


def asked(folder, name, text, texts=('question',), choices=('a', 'b', 'c')):
    (folder / name).write_text(text)
    return [(where.removeprefix(f'{folder}/'), found) for where, found in choice_columns.asked(str(folder / name), texts, choices)]


def test_rows(tmp_path):
    text = 'n,c,question,a,b\n1,"z, z",who?,x,y\n2,,what?,x,y\n'
    assert asked(tmp_path, 't.csv', text) == [('t.csv:2', ('who?', 'x', 'y', 'z, z')), ('t.csv:3', ('what?', 'x', 'y'))]
    assert asked(tmp_path, 't.tsv', text.replace('"z, z"', 'z').replace(',', '\t')) == [('t.tsv:2', ('who?', 'x', 'y', 'z')), ('t.tsv:3', ('what?', 'x', 'y'))]
    assert asked(tmp_path, 't.csv', text, choices=()) == [('t.csv:2', ('who?',)), ('t.csv:3', ('what?',))]
    assert asked(tmp_path, 't.jsonl', '{"one": "p", "two": "q", "ends": ["x", "y"]}\n', ('one', 'two'), ('ends',)) == [('t.jsonl:1', ('p', 'q', 'x', 'y'))]


def test_a_wrong_row_is_named_when_those_before_it_were_given(tmp_path):
    (tmp_path / 't.jsonl').write_text('{"question": "who?", "ends": ["x", "y"]}\n{"question": "what?", "ends": ["x"]}\n')
    found = choice_columns.asked(f'{tmp_path}/t.jsonl', ('question',), ('ends',))
    assert next(found)[1] == ('who?', 'x', 'y')
    with pytest.raises(UserError, match=r't\.jsonl:2: 1 choices; a question has two or more'):
        next(found)
    with pytest.raises(UserError, match=r"t\.csv: no column 'c' \(--config\.data\.choice_columns\)"):
        asked(tmp_path, 't.csv', 'question,a,b\nwho?,x,y\n')
