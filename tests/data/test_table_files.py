"""Files of tables: what is read, headers, quotes, TFDS."""

import csv
import functools
import json

import pytest

from t5x_lite.data import table_files
from t5x_lite.errors import UserError
from tests.data.table_material import GOOD, WORDS, all_of, labelled, rows_of, tsv, words


@pytest.fixture
def make(tmp_path):
    """make({'train.tsv': text}, **fields of config.data) -> LabelledExamples."""
    return functools.partial(labelled, tmp_path)


FORMATS = {
    'csv': lambda rows: 'text,label\r\n' + ''.join(f'"{text}",{label}\r\n' for text, label in rows),
    'tsv': tsv,
    'jsonl': lambda rows: ''.join(json.dumps({'label': label, 'text': text}) + '\n' for text, label in rows),
    'bare csv': lambda rows: ''.join(f'{text},{label}\n' for text, label in rows),
    'bare tsv': lambda rows: tsv(rows, header=None),
    'semicolons csv': lambda rows: 'text;label\n' + ''.join(f'{text};{label}\n' for text, label in rows),
    'tabs in a csv': lambda rows: tsv(rows),
    'after blank lines csv': lambda rows: ' \r\n' * 30 + 'text,label\n' + ''.join(f'{text},{label}\n' for text, label in rows),
    'an old Mac tsv': lambda rows: tsv(rows).replace('\n', '\r'),
    'an old Mac csv': lambda rows: 'text,label\r' + ''.join(f'{text},{label}\r' for text, label in rows),
}


@pytest.mark.parametrize('zipped', ['', '.gz'])
@pytest.mark.parametrize('form', FORMATS)
def test_formats_hold_the_same_rows(make, form, zipped):
    name = f't.{form.split()[-1]}{zipped}'
    rows = rows_of(30)
    examples = make({name: FORMATS[form](rows)}, 'validation', validation=name)
    features = all_of(examples)
    assert [
        (words(tokens), examples.label_names[label]) for tokens, label in zip(features['tokens'], features['labels'], strict=True)
    ] == rows
    header = not form.startswith('bare')
    assert examples.resolved['data.text_columns'] == (('text',) if header else ('0',))
    assert examples.resolved['data.label_column'] == ('label' if header else '1')
    assert 'guessed' in examples.describe()


def test_quotes_are_quotes_in_csv_and_characters_in_tsv(tmp_path):
    (tmp_path / 'a.csv').write_text('text,label\n"the ""cat"",\nsings",x\n"a dog",y\n')
    table = table_files.read(str(tmp_path / 'a.csv'))
    assert table.rows == [['the "cat",\nsings', 'x'], ['a dog', 'y']]
    assert [table.where(row).rpartition(':')[2] for row in range(2)] == ['2', '4']
    (tmp_path / 'a.tsv').write_text('text\tlabel\r\n"the cat\tx\r\n\r\na "dog"\u2028sings\ty\r\n')
    table = table_files.read(str(tmp_path / 'a.tsv'))
    assert table.rows == [['"the cat', 'x'], ['a "dog"\u2028sings', 'y']]
    assert table.lines == [2, 4]
    buffer = tmp_path / 'long.csv'
    with open(buffer, 'w', newline='') as file:
        csv.writer(file).writerows([['text', 'label'], ['a' * 200_000, 'x']])
    assert len(table_files.read(str(buffer)).rows[0][0]) == 200_000


@pytest.mark.parametrize(
    ('text', 'named', 'columns'),
    [
        ('text\tlabel\na cat\tx\n', (), ('text', 'label')),
        ('phrase\tkind\na cat\t0\na dog\t1\n', (), ('phrase', 'kind')),  # names over numbers
        ('phrase\tkind\na cat\tx\n', ('phrase',), ('phrase', 'kind')),  # the config names it
        ('a cat\t1\na dog\t0\n', (), ('0', '1')),
        ('a cat\tgood\na dog\tbad\nthe dog\tgood\n', (), ('0', '1')),
        ('DESC\tDESC:manner\thow\nENTY\tENTY:x\twhat\nDESC\tDESC:y\twho\n', (), ('0', '1', '2')),
        ('label\ta cat\nother\ta dog\nlabel\tthe dog\n', (), ('0', '1')),  # a label that is called label: it comes again
        ('\ttext\tlabel\n0\ta cat\tx\n1\ta dog\ty\n', (), ('', 'text', 'label')),  # pandas with its index
        ('\ufefftext\tlabel\na cat\tx\n', (), ('text', 'label')),  # byte order mark
    ],
)  # fmt: skip
def test_header_is_found(tmp_path, text, named, columns):
    (tmp_path / 't.tsv').write_text(text, encoding='utf-8')
    assert table_files.read(str(tmp_path / 't.tsv'), named).columns == columns


@pytest.fixture
def tfds_dir(tmp_path):
    tfds = pytest.importorskip('tensorflow_datasets')

    class TinyReviews(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = {'body': tfds.features.Text(), 'mood': tfds.features.ClassLabel(names=['sour', 'sweet', 'bland'])}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {'train': self._generate(24), 'test': self._generate(5)}

        def _generate(self, count):
            for i in range(count):
                yield f'{i:03d}', {'body': f'the {WORDS[i % len(WORDS)]} sings', 'mood': i % 3}

        def _generate_examples(self):
            raise AssertionError

    TinyReviews(data_dir=str(tmp_path / 'tfds')).download_and_prepare(file_format='array_record')
    return str(tmp_path / 'tfds')


def test_tfds(make, tfds_dir):
    fields = {'tfds_dir': tfds_dir, 'text_columns': ('body',), 'label_column': 'mood'}
    examples = make({'t.tsv': GOOD}, train='tfds:tiny_reviews', validation='tfds:tiny_reviews:test', **fields)
    assert examples.label_names == ('sour', 'sweet', 'bland') and len(examples) == 24
    held_out = make({'t.tsv': GOOD}, 'validation', train='tfds:tiny_reviews', validation='tfds:tiny_reviews:test', **fields)
    assert sorted(zip(map(words, all_of(held_out)['tokens']), all_of(held_out)['labels'].tolist(), strict=True)) == sorted(
        (f'the {WORDS[i]} sings', i % 3) for i in range(5)
    )
    assert len(make({'t.tsv': GOOD}, 'validation', train='tfds:tiny_reviews:train[:10]', **fields)) == 1
    with pytest.raises(UserError, match="no split 'tset', did you mean 'test'"):
        make({'t.tsv': GOOD}, train='tfds:tiny_reviews:tset', **fields)
