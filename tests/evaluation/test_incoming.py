"""What predict is given: lines and tables, each text checked in its turn, each mistake with its file and line."""

import gzip

import pytest

from t5x_lite.config import Config
from t5x_lite.data.squad_files import Question
from t5x_lite.data.tagged_files import Sentence
from t5x_lite.errors import UserError
from t5x_lite.evaluation import incoming
from t5x_lite.evaluation.answer_predictor import AnswerPredictor
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.evaluation.tag_predictor import TagPredictor
from tests.data.reading_material import squad_json


class Labels(Predictor):
    """One that has learnt from these columns, without a model."""

    def __init__(self, *columns):
        self._config, self._fills_masks = Config(), False
        self._config.data.text_columns = columns


def of(kind, *columns, choices=(), given=()):
    """A predictor of some kind whose run has learnt from these columns, without a model."""
    made = object.__new__(kind)
    made._config, made._texts, made._given = Config(), len(columns) or 1, given
    made._config.data.text_columns, made._config.data.choice_columns = columns, choices
    return made


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


@pytest.mark.parametrize('name', ['a.json', 'a.json.gz'])
def test_questions_as_squad_has_them(tmp_path, name):
    path = written(tmp_path / name, squad_json({'id': 7, 'question': 'who ?'}, {'id': 'b', 'question': 'where ?', 'answers': [{'text': 'nowhere'}]}))
    found = read(path, of(AnswerPredictor))
    assert [(each.id, each.question, each.context) for each in found] == [('7', 'who ?', 'It was Bo Li here.'), ('b', 'where ?', 'It was Bo Li here.')]
    assert incoming.is_squad(str(path), {'': of(AnswerPredictor)}) and not incoming.is_squad(str(path), {'': of(AnswerPredictor), 'tags': of(TagPredictor)})
    path = written(tmp_path / name, squad_json({'id': 'a', 'question': 'who ?'}, {'id': 'b', 'question': ' '}, {'id': 'c', 'question': 'so ?'}))
    with pytest.raises(UserError, match=rf'{name}\[b\]: the question is empty'):
        read(path, of(AnswerPredictor))


def test_questions_in_tables_and_lines(tmp_path):
    path = written(tmp_path / 'a.csv', 'id,question,context\nq1,who?,"Ann, left."\nq2,,b\n')
    found = incoming.texts_of(str(path), {'': of(AnswerPredictor)})
    assert next(found) == Question('q1', '', 'Ann, left.', 'who?', (), f'{path}:2')
    with pytest.raises(UserError, match=r'a\.csv:3: the question is empty'):
        next(found)
    assert read(written(tmp_path / 'a.jsonl', '{"q": "who?", "t": "Ann."}\n'), of(AnswerPredictor, 'q', 't'))[0].context == 'Ann.'
    assert read(written(tmp_path / 'a.txt', 'who?\tAnn.\n'), of(AnswerPredictor)) == [('who?', 'Ann.')]
    assert read(written(tmp_path / 'a.tsv', 'who?\tAnn.\n'), of(AnswerPredictor)) == [('who?', 'Ann.')]


def test_words_as_they_are(tmp_path):
    tags = of(TagPredictor, '0')
    for name, text in (('a.conll', 'U.S. O\n(x) O\n\nb O\n'), ('a.BIO.gz', 'U.S.\n(x)\n\nb\n'), ('a.iob', 'U.S. O\n(x) O\n\nb O\n')):
        path = written(tmp_path / name, text)
        assert read(path, tags) == [Sentence(f'{path}:1', ('U.S.', '(x)'), ()), Sentence(f'{path}:4', ('b',), ())]
    path = written(tmp_path / 'a.jsonl', '{"words": ["a", "b."]}\n{"text": "a b."}\n')
    assert read(path, of(TagPredictor, 'words')) == [Sentence(f'{path}:1', ('a', 'b.'), ()), ('a b.',)]
    assert read(written(tmp_path / 'a.txt', 'U.S. O\n'), tags) == [('U.S. O',)], 'of other endings each line is a text'
    with pytest.raises(UserError, match=r'a\.conll: empty'):
        read(written(tmp_path / 'a.conll', '\n'), tags)


def test_choices_in_the_columns_of_training(tmp_path):
    columns = {'choices': ('a', 'b')}
    for name, text in (('a.csv', 'question,a,b\nwho?,x,y\n'), ('a.tsv', 'question\ta\tb\nwho?\tx\ty\n'), ('a.jsonl', '{"question": "who?", "b": "y", "a": "x"}\n')):
        assert read(written(tmp_path / name, text), of(ChoicePredictor, 'question', **columns)) == [('who?', 'x', 'y')]
    assert read(tmp_path / 'a.csv', of(ChoicePredictor, 'question', given=('one', 'two'), **columns)) == [('who?',)], 'choices that are given are not read'
    assert read(written(tmp_path / 'a.txt', 'who?\tx\ty\n'), of(ChoicePredictor, 'question', **columns)) == [('who?', 'x', 'y')]
    for predictor, said in (
        (of(ChoicePredictor), 'does not say which columns of a table hold questions and choices.*text_columns and --config.data.choice_columns'),
        (of(ChoicePredictor, 'question', choices=('a', 'c')), r"a\.csv: no column 'c'.*questions are read from 'question', their choices from 'a', 'c', as in training"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / 'a.csv', predictor)


def test_of_several_kinds_a_line_is_a_text(tmp_path):
    path = written(tmp_path / 'a.jsonl', '{"text": "a"}\n')
    assert read(path, Labels('text'), of(TagPredictor, '0')) == [('{"text": "a"}',)]
    with pytest.raises(UserError, match=r'a\.txt:1: 1: 2 texts in .*; --head=NAME asks one head alone, --workdir=RUN one run'):
        read(written(tmp_path / 'a.txt', 'a\tb\n'), Labels('one', 'two'), Labels('one'))
