"""Tables as people's programs write them: what is taken as it is, and what is one line that names the mend."""

import csv
import io

import pytest

from t5x_lite.errors import UserError
from tests.data.table_material import labelled

ROWS = [(f'good {number} of, "a" kind\nreally' if number % 2 else f'bad {number} of a kind', ('neg', 'pos')[number % 2]) for number in range(40)]
FLAT = [(text.replace('\n', ' '), label) for text, label in ROWS]


def written(rows, separator=',', header=('text', 'label')) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows([header, *rows] if header else rows)
    return file.getvalue()


TAKEN = {
    'quotes, commas and line ends in cells': (written(ROWS), "separated by ',', quoted, header"),
    'semicolons (Excel in German)': (written(ROWS, ';'), "separated by ';', quoted, header"),
    'semicolons, commas in every text, no header': (written([(f'so, {text}', label) for text, label in ROWS], ';', None), "separated by ';', quoted, no header"),
    'semicolons, a comma in the header': (written(ROWS, ';', ('Text, of review', 'label')), "text 'Text, of review' (guessed)"),
    'bars': (written(ROWS, '|'), "separated by '|'"),
    'a byte order mark': ('\ufeff' + written(ROWS), "text 'text' (guessed)"),
    "an index of pandas": (written([(number, *row) for number, row in enumerate(ROWS)], header=('', 'review', 'sentiment')), "text 'review' (guessed), label 'sentiment'"),
    'line ends of old Macs': (written(FLAT).replace('\r\n', '\r'), '40 rows'),
    'labels 0 and 1': (written([(text, int(label == 'pos')) for text, label in ROWS]), '2 labels: 0 ('),
    'an empty text': (written([('', 'neg'), *ROWS]), '1 text is empty'),
    'a text of 100,000 words': (written([('word ' * 100_000, 'pos'), *ROWS]), '1 of '),
    'few numbers': (written([(text, number % 5 * 0.5) for number, (text, _) in enumerate(ROWS)]), 'numbers are taken for classes here, to predict them'),
    'capitals': (written([(text, label.upper() if number < 6 else label) for number, (text, label) in enumerate(ROWS)]), 'differ in capitals alone'),
}
REFUSED = {
    'cp1252': (written(ROWS).replace('kind', 'caf\u00e9').encode('cp1252'), r't.csv:2: byte 0xe9 is not UTF-8; convert the file: iconv -f cp1252 -t utf-8'),
    'UTF-16': (written(ROWS).encode('utf-16'), r't.csv:1: byte 0x\w+ is not UTF-8; the file is UTF-16, convert it'),
    'a name twice': (written([(text, text, label) for text, label in ROWS], header=('text', 'text', 'label')), "the header has 'text' twice; rename one"),
    'another name twice': (written([(t, 'x', label, 'y') for t, label in ROWS], header=('text', 'note', 'label', 'note')), "the header has 'note' twice"),
    'one column': (written([(text,) for text, _ in FLAT], header=('text',)), "one column, 'text'; expected a text and its label"),
    'one class': (written([(text, 'a') for text, _ in ROWS]), "every row has the label 'a'"),
    'no label': (written([*FLAT, ('x y', '')]), r't.csv:42: the label .* is missing'),
    'a cell more': (written(FLAT) + 'a,b,c\n', r't.csv:42: 3 cells where the header has 2'),
    'a cell less': (written(FLAT) + 'abc\n', r't.csv:42: 1 cells where the header has 2'),
    'an open quote': (written(FLAT) + '"open,pos\nx,y\n', r't.csv:42: broken row'),
    'amounts': (written([(text, number * 0.13) for number, (text, _) in enumerate(ROWS)]), 'numbers to predict .--config.data.regression=True'),
}


@pytest.mark.parametrize('name', TAKEN)
def test_taken(name, tmp_path):
    content, said = TAKEN[name]
    source = labelled(tmp_path, {'t.csv': content})
    assert said in source.describe(), source.describe()
    assert 35 < len(source) < 38


@pytest.mark.parametrize('name', REFUSED)
def test_refused_in_one_line(name, tmp_path):
    content, said = REFUSED[name]
    with pytest.raises(UserError, match=said) as caught:
        labelled(tmp_path, {'t.csv': content})
    assert '\n' not in str(caught.value)


def test_a_first_row_that_looks_like_a_header_is_data_where_it_comes_again(tmp_path):
    """'text' twice is no header where the words are answers."""
    rows = ''.join(f'text,text\nlabel number {number},label\n' for number in range(20))
    assert 'no header' in labelled(tmp_path, {'t.csv': rows}).describe()
