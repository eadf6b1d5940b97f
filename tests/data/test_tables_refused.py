"""Tables that cannot be used: each mistake is one clear line."""

import functools
import gzip
import json

import pytest

from t5x_lite.errors import UserError
from tests.data.table_material import GOOD, labelled, rows_of, tsv


@pytest.fixture
def make(tmp_path):
    """make({'train.tsv': text}, **fields of config.data) -> LabelledExamples."""
    return functools.partial(labelled, tmp_path)


NUMBERS, ITSELF = {'regression': True}, {'validation': 't.jsonl'}
SCORES, JSON = 'text\tscore\na cat\t1.5\n', '{"text": "a", "label": 1}\n'
BAD = {
    'missing file': ({'t.tsv': GOOD}, {'train': 'absent.tsv'}, r'absent\.tsv: no such file'),
    'no train': ({'t.tsv': GOOD}, {'train': ''}, r'--config\.data\.train is empty'),
    'unknown extension': ({'t.xlsx': GOOD}, {}, r"t\.xlsx: unknown kind of table '\.xlsx'.*\.csv, \.tsv, \.jsonl"),
    'missing column': (
        {'t.tsv': GOOD}, {'label_column': 'lable'}, r"no column 'lable' \(--.*label_column\); did you mean 'label'\? columns: text, label"
    ),
    'missing text column': ({'t.tsv': GOOD}, {'text_columns': ('body',)}, r"no column 'body'.*text_columns.*columns: text, label"),
    'no header': ({'t.tsv': tsv(rows_of(20), None)}, {'text_columns': ('text',)}, r"no header with a column 'text'"),
    'number out of range': ({'t.tsv': tsv(rows_of(20), None)}, {'label_column': '2'}, r"no column '2'.*columns: 0, 1"),
    'a text twice': ({'t.tsv': GOOD}, {'text_columns': ('text', '0')}, r'--config\.data\.text_columns=text,0 names a column twice'),
    'three texts': ({'t.tsv': GOOD}, {'text_columns': ('a', 'b', 'c')}, 'one, or two for pairs'),
    'label is text': ({'t.tsv': GOOD}, {'text_columns': ('text',), 'label_column': 'text'}, 'different columns'),
    'label not in list': (
        {'t.tsv': GOOD + 'a cat\tmaybe\n'}, {'labels': ('neg', 'pos')}, r"t\.tsv:22: label 'maybe' is not in the list \(neg, pos; in config.data.labels\)"
    ),
    'label not in train': (
        {'t.tsv': GOOD, 'd.tsv': tsv([('a cat', 'pos'), ('a cat', 'maybe')])}, {'validation': 'd.tsv'},
        r"d\.tsv:3: label 'maybe' is not in the list",
    ),
    'label missing': ({'t.tsv': GOOD + 'a cat\t\n'}, {}, r"t\.tsv:22: the label \(column 'label'\) is missing"),
    'labels twice': ({'t.tsv': GOOD}, {'labels': ('pos', 'pos')}, 'two or more different'),
    'one class in what is learnt from': ({'t.tsv': GOOD}, {'max_examples': 1}, r"row to learn from \(1; without.*\) has the label '\w+'.*raise --config\.data\.max_exa"),
    'one class though more are named': (
        {'t.tsv': tsv(rows_of(20, labels=('pos',)))}, {'labels': ('neg', 'pos')}, r"every row to learn from .* has the label 'pos'.*give rows of another"
    ),
    'a weight without end': ({'t.tsv': GOOD}, {'class_weights': ('1e999', '1')}, r"class_weights has '1e999'; expected balanced, or finite numbers"),
    'too many labels': ({'t.tsv': tsv([('a cat', f'id{i}') for i in range(300)])}, {}, r'300 different labels in 300 rows.*regression'),
    'one class': ({'t.tsv': tsv(rows_of(20, labels=('pos',)))}, {}, r"every row has the label 'pos'"),
    'nan target': ({'t.tsv': SCORES + 'a dog\tnan\n'}, NUMBERS, r"t\.tsv:3: the target \(column 'score'\) is 'nan'; expected"),
    'no number': ({'t.tsv': SCORES + 'a dog\tgood\n'}, NUMBERS, r"t\.tsv:3: the target \(column 'score'\) is 'good'"),
    'a decimal comma': ({'t.tsv': SCORES + 'a dog\t0,5\n'}, NUMBERS, r"t\.tsv:3: the target .* is '0,5'; expected a finite number, with a point"),
    'infinite': ({'t.tsv': SCORES + 'a dog\t1e99\n'}, NUMBERS, r"t\.tsv:3: the target .* is '1e99'"),
    'nan in jsonl': (
        {'t.jsonl': '{"text": "a", "score": 1.5}\n{"text": "b", "score": NaN}\n'}, NUMBERS,
        r"t\.jsonl:2: the target \(column 'score'\) is 'nan'",
    ),
    'too few cells': ({'t.tsv': GOOD + 'a cat\n'}, {}, r't\.tsv:22: 1 cells where the header has 2'),
    'too many cells': ({'t.csv': 'text,label\na cat, sings,x\n'}, {}, r't\.csv:2: 3 cells where the header has 2 \(quote a cell'),
    'open quote': ({'t.csv': 'text,label\na cat,x\n"a dog,y\na cat,x\n'}, {}, r't\.csv:3: broken row'),
    'quote inside': ({'t.csv': 'text,label\n"a "cat"",x\n'}, {}, r't\.csv:2: broken row'),
    'not UTF-8': ({'t.tsv': GOOD.encode() + 'caf\xe9\tpos\n'.encode('latin-1')}, {}, r't\.tsv:22: byte 0xe9 is not UTF-8'),
    'broken gzip': ({'t.tsv': GOOD}, {'train': 'b.tsv.gz'}, r'b\.tsv\.gz: broken gzip'),
    'bad json': ({'t.jsonl': JSON + '{"text": \n'}, {}, r't\.jsonl:2: not JSON'),
    'nothing in json': ({'t.jsonl': '{}\n{}\n'}, {}, r't\.jsonl: its objects are empty; expected such as'),
    'digits without end': ({'t.jsonl': JSON + '{"text": "b", "label": ' + '1' * 5000 + '}\n'}, {}, r't\.jsonl:2: not JSON \(a number of too many digits\)'),
    'half a character': ({'t.jsonl': JSON + '{"text": "a \\ud83d b", "label": 0}\n'}, {}, r"t\.jsonl:2: '.ud83d' in it is not Unicode; mend the text"),
    'half a character in a label': ({'t.jsonl': JSON + '{"text": "a", "label": "\\uDC00"}\n'}, {}, r"t\.jsonl:2: '.udc00' in it is not Unicode"),
    'a list as label': ({'t.jsonl': JSON + '{"text": "b", "label": ["x"]}\n'}, {}, r"t\.jsonl:2: the label .* is \['x'\]; expected a text .*label_separator"),
    'an object as label': ({'t.jsonl': JSON + '{"text": "b", "label": {"x": 1}}\n'}, {}, r"t\.jsonl:2: the label .* is \{'x': 1\}; expected a text or a number$"),
    'json list': ({'t.jsonl': JSON + '[1]\n'}, {}, r't\.jsonl:2: expected a JSON object'),
    'text missing': ({'t.jsonl': JSON + '{"label": 0}\n'}, ITSELF, r"t\.jsonl:2: the text \(column 'text'\) is missing"),
    'text null': ({'t.jsonl': JSON + '{"text": null, "label": 0}\n'}, ITSELF, r"t\.jsonl:2: the text \(column 'text'\) is missing"),
    'text is a number': ({'t.jsonl': JSON + '{"text": 3, "label": 0}\n'}, ITSELF, r't\.jsonl:2: .* is 3, not a text'),
    'empty': ({'t.tsv': ' \n'}, {}, r't\.tsv: empty'),
    'only a header': ({'t.tsv': 'text\tlabel\n'}, {}, r't\.tsv: a header and no rows'),
    'header twice': ({'t.tsv': 'text\ttext\tlabel\na\tb\tx\na\tb\ty\n'}, {'text_columns': ('text',)}, r"header has 'text' twice"),
    'ambiguous texts': (
        {'t.jsonl': ''.join(json.dumps({name: f'{name} a cat sings' for name in 'abc'} | {'label': i % 2}) + '\n' for i in range(9))}, {},
        r'cannot tell which columns are texts.*--config\.data\.text_columns',
    ),
    'ambiguous targets': ({'t.tsv': 'text\tone\ttwo\na cat\t1.5\t2.5\na dog\t1.5\t3.5\n'}, NUMBERS, r'could hold the target: one, two'),
    'max_examples': ({'t.tsv': GOOD}, {'max_examples': 100}, r'max_examples=100.*18 training rows'),
    'fraction': ({'t.tsv': GOOD}, {'validation_fraction': 1.0}, r'validation_fraction=1\.0 must lie'),
    'too few rows': ({'t.tsv': tsv(rows_of(2))}, {}, r'2 rows are too few'),
    'buckets': ({'t.tsv': GOOD}, {'length_buckets': (0, 8)}, r'length_buckets=\(0, 8\)'),
    'tfds': ({'t.tsv': GOOD}, {'train': 'tfds:imdb_reveiws'}, r"tfds:imdb_reveiws: no such dataset.*, did you mean 'imdb_reviews'"),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_clear_line(make, tmp_path, case):
    files, fields, message = BAD[case]
    (tmp_path / 'b.tsv.gz').write_bytes(gzip.compress(GOOD.encode())[:-20])
    with pytest.raises(UserError, match=message) as caught:
        make(files, **fields)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))
