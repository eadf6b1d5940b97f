"""What predict is given: lines and tables, each text checked in its turn, each mistake with its file and line."""

import gzip

import pytest

from t5x_lite.config import Config
from t5x_lite.errors import UserError
from t5x_lite.evaluation import incoming
from t5x_lite.evaluation.predictor import Predictor


class Labels(Predictor):
    """One that has learnt from these columns, without a model."""

    def __init__(self, *columns):
        self._config, self._fills_masks = Config(), False
        self._config.data.text_columns = columns


class Tags:
    """One that takes a whole line for its text, and refuses 'no'."""

    def check(self, text, number):
        if text == ('no',):
            raise UserError(f'text {number} is refused')


def read(path, *predictors):
    return list(incoming.texts_of(str(path), {str(place): each for place, each in enumerate(predictors)} if len(predictors) > 1 else {'': predictors[0]}))


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == '.gz' else text.encode())
    return path


def test_lines(tmp_path):
    path = written(tmp_path / 'a.txt', '\ufeffone\r\ntwo, "three"\n\nlast')
    assert read(path, Labels('text')) == [('one',), ('two, "three"',), ('',), ('last',)], 'as they stand, but for a byte order mark'
    assert read(written(tmp_path / 'a.tsv', 'a\tb\n'), Labels('one', 'two')) == [('a', 'b')], 'a tab divides a pair'
    assert read(written(tmp_path / 'b.txt', 'a\tb\n'), Tags()) == [('a\tb',)]


@pytest.mark.parametrize('name', ['a.csv', 'a.CSV', 'a.csv.gz'])
def test_rows_of_a_table_are_read_in_the_columns_of_training(tmp_path, name):
    path = written(tmp_path / name, 'id,text,label\n7,"I said ""no"",\nloudly",\n8,,x\n')
    assert read(path, Labels('text')) == [('I said "no",\nloudly',), ('',)], 'quotes and line ends as in training; labels and other columns are not looked at'
    assert read(path, Labels('text'), Labels('text')) == read(path, Labels('text'))
    assert read(path, Tags())[0] == ('id,text,label',) if not name.endswith('gz') else True


def test_pairs_json_and_files_without_a_header(tmp_path):
    path = written(tmp_path / 'a.jsonl', '{"b": "two", "a": "one", "n": 3}\n{"a": "1", "b": "2"}\n')
    assert read(path, Labels('a', 'b')) == [('one', 'two'), ('1', '2')]
    assert read(written(tmp_path / 'a.csv', '0.5,one\n1.5,two\n'), Labels('1')) == [('one',), ('two',)]
    assert read(written(tmp_path / 'b.csv', 'text\nonly\n'), Labels('text')) == [('only',)]


def test_mistakes_have_their_line(tmp_path):
    for name, text, predictors, said in (
        ('a.txt', 'yes\nno\n', [Tags()], r'a\.txt:2: text 1 is refused'),
        ('a.txt', 'a\tb\n', [Labels('text')], r"a\.txt:1: 2 texts in 'a \| b', and this run takes one"),
        ('a.txt', '', [Tags()], r'a\.txt: empty; expected a text a line'),
        ('a.csv', '', [Labels('text')], r'a\.csv: empty'),
        ('a.csv', 'body,label\na cat,x\n', [Labels('text')], r"a\.csv: no column 'text'.*columns: body, label; .* read from 'text', as in training; a \.txt file"),
        ('a.csv', 'text,label\na, cat,x\n', [Labels('text')], r'a\.csv:2: 3 cells where the header has 2'),
        ('a.jsonl', '{"text": "a"}\n{"text": 3}\n', [Labels('text')], r"a\.jsonl:2: the text \(column 'text'\) is 3, not a text"),
        ('a.csv', 'text\na\n', [Labels()], r'does not say which columns of a table.*--config\.data\.text_columns'),
        ('a.csv', 'text\na\n', [Labels('text'), Labels('body')], r'does not say which columns'),
    ):
        with pytest.raises(UserError, match=said) as caught:
            read(written(tmp_path / name, text), *predictors)
        assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match='no such file'):
        read(tmp_path / 'absent.csv', Labels('text'))
    with pytest.raises(UserError, match='No such file'):
        read(tmp_path / 'absent.txt', Labels('text'))
