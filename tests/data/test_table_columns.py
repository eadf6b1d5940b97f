"""Columns and labels: named, guessed, said, and taken along."""

import functools
import json

import numpy as np
import pytest

from t5x_lite.errors import UserError
from tests.data.table_material import WORDS, all_of, labelled, rows_of, tsv


@pytest.fixture
def make(tmp_path):
    """make({'train.tsv': text}, **fields of config.data) -> LabelledExamples."""
    return functools.partial(labelled, tmp_path)


def test_columns_by_number_with_longer_rows(make):
    """Tables as those of the STS benchmark: no header, the label before the texts, two more cells in some rows."""
    rows = [('g', 'f', '0001', f'{i % 6}.500', 'the cat sings', 'a dog sleeps') + (('x', 'y') if i % 5 == 0 else ()) for i in range(20)]
    examples = make({'sts.csv': tsv(rows, header=None)}, validation='sts.csv', text_columns=('4', '5'), label_column='3', regression=True)
    assert '4 rows have more than 6 cells' in examples.describe()
    features = all_of(examples)
    assert features['labels'].dtype == np.float32 and sorted(set(features['labels'].tolist())) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert features['token_types'].any()
    with pytest.raises(UserError, match=r'sts\.csv:5: 8 cells where the first row has 6'):
        make({'sts.csv': tsv(rows[1:], header=None)}, validation='sts.csv')


def test_columns_are_guessed_by_content(make):
    rows = [
        ('ABBR', f'ABBR:{i % 7}', f'the cat sings to the dog {WORDS[i % 9]}')
        if i % 3
        else ('DESC', f'DESC:{i % 7}', 'a dog sleeps in the house')
        for i in range(60)
    ]
    examples = make({'trec.tsv': tsv(rows, header=None)}, validation='trec.tsv')
    assert (examples.resolved['data.text_columns'], examples.resolved['data.label_column']) == (('2',), '0')
    rows = [('m', '0012', f'{i / 7:.3f}', 'the cat sings loudly', 'a dog sings quietly') for i in range(30)]
    examples = make({'sts.tsv': tsv(rows, header=None)}, validation='sts.tsv', regression=True)
    assert (examples.resolved['data.text_columns'], examples.resolved['data.label_column']) == (('3', '4'), '2')


def test_labels_are_sorted_as_what_they_are(make):
    rows = [('the cat sings', str(label)) for label in (10, 9, 2, 10, 1, 2)]
    examples = make({'t.tsv': tsv(rows)}, 'validation', validation='t.tsv')
    assert examples.label_names == ('1', '2', '9', '10') and examples.num_labels == 4
    np.testing.assert_array_equal(all_of(examples)['labels'], [3, 2, 1, 3, 0, 1])
    examples = make({'t.tsv': tsv(rows)}, 'validation', validation='t.tsv', labels=('10', '1', '2', '9', '7'))
    np.testing.assert_array_equal(all_of(examples)['labels'], [0, 3, 2, 0, 1, 2])
    values = [True, False, True]
    examples = make({'b.jsonl': ''.join(json.dumps({'text': 'a cat', 'label': value}) + '\n' for value in values)}, validation='b.jsonl')
    assert examples.label_names == ('false', 'true')
    examples = make(
        {'i.jsonl': ''.join(json.dumps({'text': 'a cat', 'label': value}) + '\n' for value in (1, 0, 1.0))}, validation='i.jsonl'
    )
    assert examples.label_names == ('0', '1')


def test_validation_takes_labels_and_columns_from_train(make):
    files = {'train.tsv': tsv(rows_of(20, labels=('x', 'y', 'z'))), 'dev.tsv': 'label\ttext\nz\tthe cat\nx\ta dog\n'}
    examples = make(files, 'validation', validation='dev.tsv')
    assert examples.label_names == ('x', 'y', 'z')
    np.testing.assert_array_equal(examples.get([0, 1, 2])['labels'], [2, 0, 2])


def test_resolved_fields_replace_the_training_table(make, tmp_path):
    files = {'train.tsv': tsv(rows_of(20, labels=('x', 'y', 'z'))), 'dev.tsv': tsv([('the cat', 'z')])}
    first = make(files, 'validation', validation='dev.tsv')
    (tmp_path / 'train.tsv').unlink()
    fields = {name.removeprefix('data.'): value for name, value in first.resolved.items() if name.startswith('data.')}
    again = make({'dev.tsv': files['dev.tsv']}, 'validation', train='train.tsv', validation='dev.tsv', **fields)
    assert again.label_names == first.label_names and 'guessed' not in again.describe()
    np.testing.assert_array_equal(all_of(again)['labels'], all_of(first)['labels'])


def test_describe_counts(make):
    text = 'text\tlabel\n\tx\nthe cat\ty\na dog sings\tx\n'
    said = make({'t.tsv': text}, validation='t.tsv').describe()
    for part in (
        '3 rows',
        'header',
        "text 'text' (guessed)",
        "label 'label' (guessed)",
        'x (2), y (1)',
        '1 text is empty',
        'at most 5',
        '0 of 3 cut',
    ):
        assert part in said, said
    said = make({'t.tsv': text}, validation='t.tsv', text_columns=('text',), label_column='label').describe()
    assert 'guessed' not in said
