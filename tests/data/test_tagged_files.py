"""Sentences that are to be tagged: words as a file divides them, whatever tags stand beside them. (Files to learn from: test_tagged.py)"""

import gzip

import pytest

from t5x_lite.data import tagged_files
from t5x_lite.errors import UserError


def read(folder, name, text, *words):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith('.gz') else text.encode())
    return [(where.removeprefix(f'{folder}/'), found) for where, found in tagged_files.read_words(str(path), *words)]


def test_columns(tmp_path):
    text = '-DOCSTART- X O\n\nU.S. NNP B-ORG\n(left) V O\n\n\nAnn N O\n'
    assert read(tmp_path, 'a.conll', text) == [('a.conll:3', ('U.S.', '(left)')), ('a.conll:7', ('Ann',))]
    assert read(tmp_path, 'a.bio.gz', text, '1') == [('a.bio.gz:3', ('NNP', 'V')), ('a.bio.gz:7', ('N',))]
    assert read(tmp_path, 'a.iob', 'Ann\nleft\n\nBo', 'tokens') == [('a.iob:1', ('Ann', 'left')), ('a.iob:4', ('Bo',))], 'words alone; a name is of jsonl'
    assert read(tmp_path, 'a.conll', '# text = New York\n1\tNew York\t\n2\tis\tO\n', '1') == [('a.conll:2', ('New York', 'is'))], 'a tag may be missing'
    assert read(tmp_path, 'a.conll', '\n \n') == []


def test_json(tmp_path):
    text = '{"tokens": ["U.S.", "(x)"], "tags": [1, 2, 3]}\n\n{"text": "Ann (of Rome) left."}\n{"words": [], "text": "no"}\n'
    assert read(tmp_path, 'a.jsonl', text) == [('a.jsonl:1', ('U.S.', '(x)')), ('a.jsonl:3', 'Ann (of Rome) left.'), ('a.jsonl:4', ())]
    assert read(tmp_path, 'a.jsonl', text, '0') == read(tmp_path, 'a.jsonl', text), 'a number is of columns'
    assert read(tmp_path, 'a.jsonl.gz', '{"words": ["a"], "mine": ["b"]}\n{"words": ["c"]}\n', 'mine') == [('a.jsonl.gz:1', ('b',)), ('a.jsonl.gz:2', ('c',))]


@pytest.mark.parametrize(
    ('name', 'text', 'words', 'said'),
    [
        ('a.conll', 'Ann N O\nleft\n', '', r'a\.conll:2: 1 columns, and 3 in line 1'),
        ('a.conll', 'Ann\n', '1', r"a\.conll:1: no column '1' \(--config\.data\.text_columns\); there are 1, numbered from 0"),
        ('a.conll', 'Ann\tO\n \tO\n', '', r'a\.conll:2: the word is empty'),
        ('a.jsonl', '{"words": ["a"]}\n{"word": 3}\n', '', r"a\.jsonl:2: 'word' is neither a list of words nor a text"),
        ('a.jsonl', '{"words": ["a", 3]}\n', '', r"a\.jsonl:1: 'words' is neither"),
        ('a.jsonl', '{"wrods": ["a"]}\n', '', r"a\.jsonl:1: no field of words or of a text \(--config\.data\.text_columns\); did you mean 'wrods'"),
        ('a.jsonl', '["a"]\n', '', r'a\.jsonl:1: expected a JSON object, found list'),
        ('a.jsonl', '{"words": ["\\ud83d"]}\n', '', r'a\.jsonl:1: .* is not Unicode'),
    ],
)
def test_mistakes(tmp_path, name, text, words, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, name, text, words)


def test_what_stands_before_a_mistake_was_given(tmp_path):
    (tmp_path / 'a.conll').write_text('Ann O\n\nleft\n')
    found = tagged_files.read_words(f'{tmp_path}/a.conll')
    assert next(found)[1] == ('Ann',)
    with pytest.raises(UserError, match='a.conll:3'):
        next(found)
