"""Tables of texts and labels: what is read, guessed, refused, and which example an index is."""

import csv
import gzip
import json

import numpy as np
import pytest

from t5x_lite.config import Config
from t5x_lite.data import table_files, tables, tokenizers
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.tables import LabelledExamples
from t5x_lite.errors import UserError

WORDS = 'the a cat dog sings sleeps loudly quietly man woman red green house tree runs'.split()
VOCAB = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
PAD, CLS, SEP = 0, 2, 3


@pytest.fixture(scope='session')
def tokenizer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('words')
    (folder / 'vocab.txt').write_text('\n'.join(VOCAB) + '\n')
    return str(folder)


@pytest.fixture
def make(tmp_path, tokenizer_dir):
    """make({'train.tsv': text}, **fields of config.data) -> LabelledExamples."""

    def build(files, split='train', seed=0, seq_len=16, **fields):
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
        config = Config()
        config.data.tokenizer, config.data.seq_len = tokenizer_dir, seq_len
        for name, value in {'train': next(iter(files)), **fields}.items():
            if name in ('train', 'validation') and value and not value.startswith('tfds:'):
                value = str(tmp_path / value)
            assert hasattr(config.data, name)
            setattr(config.data, name, value)
        return LabelledExamples(config, split, seed, seq_len, 0, None)

    return build


def _sentence(rng, low=2, high=9):
    return ' '.join(rng.choice(WORDS, rng.integers(low, high)))


def _rows(count, seed=0, labels=('neg', 'pos')):
    rng = np.random.default_rng(seed)
    return [(f'{WORDS[i % len(WORDS)]} {_sentence(rng)}', labels[i % len(labels)]) for i in range(count)]


def _tsv(rows, header=('text', 'label')):
    return ''.join('\t'.join(row) + '\n' for row in ([header] if header else []) + list(rows))


def _all(examples):
    return examples.get(np.arange(len(examples)))


def _words(row):
    return ' '.join(VOCAB[token] for token in row if token > 4)


def test_one_text_as_ids(make):
    features = _all(make({'t.tsv': 'text\tlabel\nthe cat\t1\na loud dog sings\t0\n'}, split='train', validation='t.tsv', seq_len=6))
    order = np.argsort(-features['labels'])
    np.testing.assert_array_equal(features['tokens'][order], [[CLS, 5, 7, SEP, PAD, PAD], [CLS, 6, 1, 8, 9, SEP]])
    np.testing.assert_array_equal(features['sequence_ids'][order], [[1, 1, 1, 1, 0, 0], [1] * 6])
    assert not features['token_types'].any()
    assert (
        features['labels'].dtype == features['tokens'].dtype == features['token_types'].dtype == features['sequence_ids'].dtype == np.int32
    )
    assert features['example_weights'].dtype == np.float32 and features['example_weights'].tolist() == [1, 1]


def test_a_pair_as_ids_longest_first(make):
    text = 'sentence1\tsentence2\tlabel\nthe cat sleeps loudly\ta dog\tx\na\ta\ty\n'
    features = _all(make({'t.tsv': text}, validation='t.tsv', seq_len=8))
    row = int(np.flatnonzero(features['labels'] == 0)[0])
    np.testing.assert_array_equal(features['tokens'][row], [CLS, 5, 7, 10, SEP, 6, 8, SEP])  # 'loudly' went
    np.testing.assert_array_equal(features['token_types'][row], [0, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(features['token_types'][1 - row], [0, 0, 0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(features['sequence_ids'][1 - row], [1, 1, 1, 1, 1, 0, 0, 0])


def _pop_one_by_one(first, second, budget):
    while first + second > budget:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return [first, second]


def test_truncation_drops_the_last_token_of_the_longer_until_it_fits():
    for budget in range(1, 12):
        for first in range(14):
            for second in range(14):
                assert tables._truncate([first, second], budget) == _pop_one_by_one(first, second, budget)


FORMATS = {
    'csv': lambda rows: 'text,label\r\n' + ''.join(f'"{text}",{label}\r\n' for text, label in rows),
    'tsv': _tsv,
    'jsonl': lambda rows: ''.join(json.dumps({'label': label, 'text': text}) + '\n' for text, label in rows),
    'bare csv': lambda rows: ''.join(f'{text},{label}\n' for text, label in rows),
    'bare tsv': lambda rows: _tsv(rows, header=None),
    'semicolons csv': lambda rows: 'text;label\n' + ''.join(f'{text};{label}\n' for text, label in rows),
    'tabs in a csv': lambda rows: _tsv(rows),
}


@pytest.mark.parametrize('zipped', ['', '.gz'])
@pytest.mark.parametrize('form', FORMATS)
def test_formats_hold_the_same_rows(make, form, zipped):
    name = f't.{form.split()[-1]}{zipped}'
    rows = _rows(30)
    examples = make({name: FORMATS[form](rows)}, 'validation', validation=name)
    features = _all(examples)
    assert [
        (_words(tokens), examples.label_names[label]) for tokens, label in zip(features['tokens'], features['labels'], strict=True)
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


def test_columns_by_number_with_longer_rows(make):
    """Tables as those of the STS benchmark: no header, the label before the texts, two more cells in some rows."""
    rows = [('g', 'f', '0001', f'{i % 6}.500', 'the cat sings', 'a dog sleeps') + (('x', 'y') if i % 5 == 0 else ()) for i in range(20)]
    examples = make({'sts.csv': _tsv(rows, header=None)}, validation='sts.csv', text_columns=('4', '5'), label_column='3', regression=True)
    assert '4 rows have more than 6 cells' in examples.describe()
    features = _all(examples)
    assert features['labels'].dtype == np.float32 and sorted(set(features['labels'].tolist())) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert features['token_types'].any()
    with pytest.raises(UserError, match=r'sts\.csv:5: 8 cells where the first row has 6'):
        make({'sts.csv': _tsv(rows[1:], header=None)}, validation='sts.csv')


def test_columns_are_guessed_by_content(make):
    rows = [
        ('ABBR', f'ABBR:{i % 7}', f'the cat sings to the dog {WORDS[i % 9]}')
        if i % 3
        else ('DESC', f'DESC:{i % 7}', 'a dog sleeps in the house')
        for i in range(60)
    ]
    examples = make({'trec.tsv': _tsv(rows, header=None)}, validation='trec.tsv')
    assert (examples.resolved['data.text_columns'], examples.resolved['data.label_column']) == (('2',), '0')
    rows = [('m', '0012', f'{i / 7:.3f}', 'the cat sings loudly', 'a dog sings quietly') for i in range(30)]
    examples = make({'sts.tsv': _tsv(rows, header=None)}, validation='sts.tsv', regression=True)
    assert (examples.resolved['data.text_columns'], examples.resolved['data.label_column']) == (('3', '4'), '2')


def test_labels_are_sorted_as_what_they_are(make):
    rows = [('the cat sings', str(label)) for label in (10, 9, 2, 10, 1, 2)]
    examples = make({'t.tsv': _tsv(rows)}, 'validation', validation='t.tsv')
    assert examples.label_names == ('1', '2', '9', '10') and examples.num_labels == 4
    np.testing.assert_array_equal(_all(examples)['labels'], [3, 2, 1, 3, 0, 1])
    examples = make({'t.tsv': _tsv(rows)}, 'validation', validation='t.tsv', labels=('10', '1', '2', '9', '7'))
    np.testing.assert_array_equal(_all(examples)['labels'], [0, 3, 2, 0, 1, 2])
    values = [True, False, True]
    examples = make({'b.jsonl': ''.join(json.dumps({'text': 'a cat', 'label': value}) + '\n' for value in values)}, validation='b.jsonl')
    assert examples.label_names == ('false', 'true')
    examples = make(
        {'i.jsonl': ''.join(json.dumps({'text': 'a cat', 'label': value}) + '\n' for value in (1, 0, 1.0))}, validation='i.jsonl'
    )
    assert examples.label_names == ('0', '1')


def test_validation_takes_labels_and_columns_from_train(make):
    files = {'train.tsv': _tsv(_rows(20, labels=('x', 'y', 'z'))), 'dev.tsv': 'label\ttext\nz\tthe cat\nx\ta dog\n'}
    examples = make(files, 'validation', validation='dev.tsv')
    assert examples.label_names == ('x', 'y', 'z')
    np.testing.assert_array_equal(examples.get([0, 1, 2])['labels'], [2, 0, 2])


def test_resolved_fields_replace_the_training_table(make, tmp_path):
    files = {'train.tsv': _tsv(_rows(20, labels=('x', 'y', 'z'))), 'dev.tsv': _tsv([('the cat', 'z')])}
    first = make(files, 'validation', validation='dev.tsv')
    (tmp_path / 'train.tsv').unlink()
    fields = {name.removeprefix('data.'): value for name, value in first.resolved.items() if name.startswith('data.')}
    again = make({'dev.tsv': files['dev.tsv']}, 'validation', train='train.tsv', validation='dev.tsv', **fields)
    assert again.label_names == first.label_names and 'guessed' not in again.describe()
    np.testing.assert_array_equal(_all(again)['labels'], _all(first)['labels'])


def test_epochs_are_permutations_and_indices_are_pure(make):
    rows = [(f'{a} {b}', 'xy'[(i + j) % 2]) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS[:3])]
    examples = make({'t.tsv': _tsv(rows)}, validation='t.tsv')
    count = len(examples)
    assert count == 45
    epochs = [[_words(row) for row in examples.get(np.arange(count) + epoch * count)['tokens']] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(text for text, _ in rows)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    # Any subset, in any order, from another instance: the same rows.
    scattered = np.array([2 * count + 3, 1, count, 7, 1])
    other = make({'t.tsv': _tsv(rows)}, validation='t.tsv').get(scattered)
    assert [_words(row) for row in other['tokens']] == [epochs[i // count][i % count] for i in scattered]
    assert [_words(row) for row in make({'t.tsv': _tsv(rows)}, validation='t.tsv', seed=1).get(np.arange(count))['tokens']] != epochs[0]


def test_validation_keeps_the_order_of_the_file(make):
    rows = _rows(12)
    examples = make({'t.tsv': _tsv(rows)}, 'validation', validation='t.tsv')
    assert [_words(row) for row in examples.get(np.arange(24))['tokens']] == [text for text, _ in rows] * 2


@pytest.mark.parametrize('seed', [0, 5])
def test_split_is_stratified_disjoint_and_complete(make, seed):
    rows = [(f'{a} {b}', 'common' if i % 10 else 'rare') for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS[:10])]
    rows.append(('a a', 'once'))
    parts = {split: make({'t.tsv': _tsv(rows)}, split, seed, validation_fraction=0.2) for split in ('train', 'validation')}
    texts = {split: [_words(row) for row in _all(part)['tokens']] for split, part in parts.items()}
    assert sorted(texts['train'] + texts['validation']) == sorted(text for text, _ in rows)
    assert len(parts['validation']) == 30
    np.testing.assert_allclose(np.bincount(parts['validation'].labels, minlength=3), [27, 0, 3], atol=1)
    assert np.bincount(parts['train'].labels, minlength=3).min() >= 1  # 'once' is left to learn from
    again = [_words(row) for row in _all(make({'t.tsv': _tsv(rows)}, 'validation', seed, validation_fraction=0.2))['tokens']]
    other = [_words(row) for row in _all(make({'t.tsv': _tsv(rows)}, 'validation', seed + 1, validation_fraction=0.2))['tokens']]
    assert again == texts['validation'] != other


def test_subset_is_drawn_by_seed(make):
    rows = [(f'{a} {b}', 'xy'[(i + j) % 2]) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS)]
    drawn = [
        {_words(row) for row in _all(make({'t.tsv': _tsv(rows)}, seed=seed, validation='t.tsv', max_examples=40))['tokens']}
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == len(drawn[2]) == 40
    assert len(make({'t.tsv': _tsv(rows)}, 'validation', validation='t.tsv', max_examples=40)) == len(rows)


def test_length_buckets(make):
    rows = [(' '.join(['cat'] * count), 'xy'[count % 2]) for count in (1, 2, 4, 9, 14, 30)]
    examples = make({'t.tsv': _tsv(rows)}, 'validation', validation='t.tsv', seq_len=16, length_buckets=(8, 4, 64))
    assert [examples.width([i]) for i in range(6)] == [4, 4, 8, 16, 16, 16]
    assert examples.width([0, 2]) == 8 and examples.get([0, 2])['tokens'].shape == (2, 8)
    wide, narrow = examples.get([0], width=8), examples.get([0])
    np.testing.assert_array_equal(wide['tokens'][:, :4], narrow['tokens'])
    assert not wide['sequence_ids'][:, 4:].any()
    with pytest.raises(ValueError, match='cuts'):
        examples.get([2], width=4)
    assert make({'t.tsv': _tsv(rows)}, 'validation', validation='t.tsv').width([0]) == 16
    assert '1 of 6 cut at 16 (16.7%)' in examples.describe()


def test_hosts_that_feed_parts_of_a_batch_agree(make, tmp_path, tokenizer_dir):
    rows = [(' '.join(['cat'] * (1 + i % 13)), 'xy'[i % 2]) for i in range(26)]
    make({'t.tsv': _tsv(rows)}, validation='t.tsv')
    config = Config(batch_size=8)
    config.data.source, config.data.tokenizer, config.data.seq_len = 't5x_lite.data.tables:LabelledExamples', tokenizer_dir, 16
    config.data.train = config.data.validation = str(tmp_path / 't.tsv')
    config.data.length_buckets = (8, 16)
    for split in ('train', 'validation'):
        data, other = DataFunction(config, split), DataFunction(config, split)
        batches = [list(source.evaluation_batches(0, rows)) for source, rows in ((data, None), (other, slice(0, 4)), (other, slice(4, 8)))]
        batches[0] += [data.batch(step) for step in (0, 5)]
        batches[1] += [other.batch(step, slice(0, 4)) for step in (0, 5)]
        batches[2] += [other.batch(step, slice(4, 8)) for step in (0, 5)]
        assert sum(batch['example_weights'].sum() for batch in batches[0][:4]) == 26
        for whole, *parts in zip(*batches, strict=True):
            for name in whole:
                np.testing.assert_array_equal(whole[name], np.concatenate([part[name] for part in parts]))


def test_fingerprint_tells_what_examples_are_made_of(make):
    rows = _rows(30)
    same = [make({'t.tsv': _tsv(rows)}, validation='t.tsv').fingerprint for _ in range(2)]
    other_text = make({'t.tsv': _tsv([('a cat', 'neg'), *rows[1:]])}, validation='t.tsv').fingerprint
    other_label = make({'t.tsv': _tsv([(rows[0][0], 'pos'), *rows[1:]])}, validation='t.tsv').fingerprint
    other_order = make({'t.tsv': _tsv(rows)}, validation='t.tsv', labels=('pos', 'neg')).fingerprint
    assert len({*same, other_text, other_label, other_order}) == 4


def test_describe_counts(make):
    text = 'text\tlabel\n\tx\nthe cat\ty\na dog sings\tx\n'
    said = make({'t.tsv': text}, validation='t.tsv').describe()
    for part in (
        '3 rows',
        'header',
        "text 'text' (guessed)",
        "label 'label' (guessed)",
        'x (2), y (1)',
        '1 texts are empty',
        'at most 5',
        '0 of 3 cut',
    ):
        assert part in said, said
    said = make({'t.tsv': text}, validation='t.tsv', text_columns=('text',), label_column='label').describe()
    assert 'guessed' not in said


def test_encode_texts_for_prediction(make, tokenizer_dir):
    tokenizer = tokenizers.load(tokenizer_dir)
    features = tables.encode_texts(['the cat', 'a', ''], tokenizer, 8)
    np.testing.assert_array_equal(features['tokens'], [[CLS, 5, 7, SEP], [CLS, 6, SEP, PAD], [CLS, SEP, PAD, PAD]])
    pairs = [('the cat sleeps loudly', 'a dog'), ('a', 'a')]
    features = tables.encode_texts(pairs, tokenizer, 8, width=8)
    rows = ''.join(f'{a}\t{b}\t{label}\n' for (a, b), label in zip(pairs, 'xy', strict=True))
    table = _all(make({'t.tsv': 'sentence1\tsentence2\tlabel\n' + rows}, 'validation', validation='t.tsv', seq_len=8))
    for name in features:
        np.testing.assert_array_equal(features[name], table[name])
    with pytest.raises(UserError, match='one form'):
        tables.encode_texts(['a', ('a', 'a')], tokenizer, 8)
    assert tables.encode_texts([], tokenizer, 8)['tokens'].shape == (0, 0)


def test_tokenizer_is_found_beside_weights_or_corpus(tmp_path):
    def folder(*parts):
        path = tmp_path.joinpath(*parts)
        path.mkdir(parents=True)
        (path / 'vocab.txt').write_text('\n'.join(VOCAB))
        return str(path)

    def found(init_from='', path=(), tokenizer=''):
        config = Config(init_from=init_from)
        config.data.path, config.data.tokenizer = path, tokenizer
        return tables.find_tokenizer(config)

    run, hf, corpus = folder('run', 'tokenizer'), folder('hf'), folder('corpus', 'tokenizer')
    (tmp_path / 'run' / 'checkpoints' / '100').mkdir(parents=True)
    assert found(str(tmp_path / 'run')) == found(str(tmp_path / 'run' / 'checkpoints' / '100')) == run
    assert found(hf) == hf
    assert found(path=(str(tmp_path / 'corpus'),)) == corpus
    assert found(hf, (str(tmp_path / 'corpus'),)) == hf
    assert found(hf, tokenizer=run) == run
    with pytest.raises(UserError, match='config.data.tokenizer'):
        found()
    with pytest.raises(UserError, match='none beside'):
        found(path=(str(tmp_path),))


GOOD = _tsv(_rows(20))
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
    'no header': ({'t.tsv': _tsv(_rows(20), None)}, {'text_columns': ('text',)}, r"no header with a column 'text'"),
    'number out of range': ({'t.tsv': _tsv(_rows(20), None)}, {'label_column': '2'}, r"no column '2'.*columns: 0, 1"),
    'three texts': ({'t.tsv': GOOD}, {'text_columns': ('a', 'b', 'c')}, 'one, or two for pairs'),
    'label is text': ({'t.tsv': GOOD}, {'text_columns': ('text',), 'label_column': 'text'}, 'different columns'),
    'label not in list': (
        {'t.tsv': GOOD + 'a cat\tmaybe\n'}, {'labels': ('neg', 'pos')}, r"t\.tsv:22: label 'maybe' is not in the list \(neg, pos; in config.data.labels\)"
    ),
    'label not in train': (
        {'t.tsv': GOOD, 'd.tsv': _tsv([('a cat', 'pos'), ('a cat', 'maybe')])}, {'validation': 'd.tsv'},
        r"d\.tsv:3: label 'maybe' is not in the list",
    ),
    'label missing': ({'t.tsv': GOOD + 'a cat\t\n'}, {}, r"t\.tsv:22: the label \(column 'label'\) is missing"),
    'labels twice': ({'t.tsv': GOOD}, {'labels': ('pos', 'pos')}, 'two or more different'),
    'too many labels': ({'t.tsv': _tsv([('a cat', f'id{i}') for i in range(300)])}, {}, r'300 different labels in 300 rows.*regression'),
    'one class': ({'t.tsv': _tsv(_rows(20, labels=('pos',)))}, {}, r"every row has the label 'pos'"),
    'nan target': ({'t.tsv': SCORES + 'a dog\tnan\n'}, NUMBERS, r"t\.tsv:3: the target \(column 'score'\) is 'nan'; expected"),
    'no number': ({'t.tsv': SCORES + 'a dog\tgood\n'}, NUMBERS, r"t\.tsv:3: the target \(column 'score'\) is 'good'"),
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
    'too few rows': ({'t.tsv': _tsv(_rows(2))}, {}, r'2 rows are too few'),
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
    assert sorted(zip(map(_words, _all(held_out)['tokens']), _all(held_out)['labels'].tolist(), strict=True)) == sorted(
        (f'the {WORDS[i]} sings', i % 3) for i in range(5)
    )
    assert len(make({'t.tsv': GOOD}, 'validation', train='tfds:tiny_reviews:train[:10]', **fields)) == 1
    with pytest.raises(UserError, match="no split 'tset', did you mean 'test'"):
        make({'t.tsv': GOOD}, train='tfds:tiny_reviews:tset', **fields)
