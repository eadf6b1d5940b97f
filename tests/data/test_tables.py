"""Labelled examples: ids, which example an index is, parts held out, lengths; encoding for prediction."""

import functools

import numpy as np
import pytest

from t5x_lite.config import Config
from t5x_lite.data import tables, text_rows, tokenizers
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from tests.data.table_material import CLS, PAD, SEP, VOCAB, WORDS, all_of, labelled, rows_of, tsv, vocabulary, words


@pytest.fixture
def make(tmp_path):
    """make({'train.tsv': text}, **fields of config.data) -> LabelledExamples."""
    return functools.partial(labelled, tmp_path)


def test_one_text_as_ids(make):
    features = all_of(make({'t.tsv': 'text\tlabel\nthe cat\t1\na loud dog sings\t0\n'}, split='train', validation='t.tsv', seq_len=6))
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
    features = all_of(make({'t.tsv': text}, validation='t.tsv', seq_len=8))
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
                assert text_rows._truncate([first, second], budget) == _pop_one_by_one(first, second, budget)


def test_epochs_are_permutations_and_indices_are_pure(make):
    rows = [(f'{a} {b}', 'xy'[(i + j) % 2]) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS[:3])]
    examples = make({'t.tsv': tsv(rows)}, validation='t.tsv')
    count = len(examples)
    assert count == 45
    epochs = [[words(row) for row in examples.get(np.arange(count) + epoch * count)['tokens']] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(text for text, _ in rows)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    # Any subset, in any order, from another instance: the same rows.
    scattered = np.array([2 * count + 3, 1, count, 7, 1])
    other = make({'t.tsv': tsv(rows)}, validation='t.tsv').get(scattered)
    assert [words(row) for row in other['tokens']] == [epochs[i // count][i % count] for i in scattered]
    assert [words(row) for row in make({'t.tsv': tsv(rows)}, validation='t.tsv', seed=1).get(np.arange(count))['tokens']] != epochs[0]


def test_validation_keeps_the_order_of_the_file(make):
    rows = rows_of(12)
    examples = make({'t.tsv': tsv(rows)}, 'validation', validation='t.tsv')
    assert [words(row) for row in examples.get(np.arange(24))['tokens']] == [text for text, _ in rows] * 2


@pytest.mark.parametrize('seed', [0, 5])
def test_split_is_stratified_disjoint_and_complete(make, seed):
    rows = [(f'{a} {b}', 'common' if i % 10 else 'rare') for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS[:10])]
    rows.append(('a a', 'once'))
    parts = {split: make({'t.tsv': tsv(rows)}, split, seed, validation_fraction=0.2) for split in ('train', 'validation')}
    texts = {split: [words(row) for row in all_of(part)['tokens']] for split, part in parts.items()}
    assert sorted(texts['train'] + texts['validation']) == sorted(text for text, _ in rows)
    assert len(parts['validation']) == 30
    np.testing.assert_allclose(np.bincount(parts['validation'].labels, minlength=3), [27, 0, 3], atol=1)
    assert np.bincount(parts['train'].labels, minlength=3).min() >= 1  # 'once' is left to learn from
    again = [words(row) for row in all_of(make({'t.tsv': tsv(rows)}, 'validation', seed, validation_fraction=0.2))['tokens']]
    other = [words(row) for row in all_of(make({'t.tsv': tsv(rows)}, 'validation', seed + 1, validation_fraction=0.2))['tokens']]
    assert again == texts['validation'] != other


def test_subset_is_drawn_by_seed(make):
    rows = [(f'{a} {b}', 'xy'[(i + j) % 2]) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS)]
    drawn = [
        {words(row) for row in all_of(make({'t.tsv': tsv(rows)}, seed=seed, validation='t.tsv', max_examples=40))['tokens']}
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == len(drawn[2]) == 40
    assert len(make({'t.tsv': tsv(rows)}, 'validation', validation='t.tsv', max_examples=40)) == len(rows)


def test_length_buckets(make):
    rows = [(' '.join(['cat'] * count), 'xy'[count % 2]) for count in (1, 2, 4, 9, 14, 30)]
    examples = make({'t.tsv': tsv(rows)}, 'validation', validation='t.tsv', seq_len=16, length_buckets=(8, 4, 64))
    assert [examples.width([i]) for i in range(6)] == [4, 4, 8, 16, 16, 16]
    assert examples.width([0, 2]) == 8 and examples.get([0, 2])['tokens'].shape == (2, 8)
    wide, narrow = examples.get([0], width=8), examples.get([0])
    np.testing.assert_array_equal(wide['tokens'][:, :4], narrow['tokens'])
    assert not wide['sequence_ids'][:, 4:].any()
    with pytest.raises(ValueError, match='cuts'):
        examples.get([2], width=4)
    assert make({'t.tsv': tsv(rows)}, 'validation', validation='t.tsv').width([0]) == 16
    assert '1 of 6 cut at 16 (16.7%)' in examples.describe()


@pytest.fixture
def of_many_lengths(tmp_path):
    """make(count, **fields): examples with texts of 1 to 13 words in batches of 8."""

    def make(count, split='train', **fields):
        (tmp_path / 't.tsv').write_text(tsv([(' '.join(['cat'] * (1 + i * 7 % 13)), 'xy'[i % 2]) for i in range(count)]))
        config = Config(batch_size=8)
        config.data.tokenizer, config.data.seq_len, config.data.length_buckets = vocabulary(tmp_path), 16, (4, 8, 12)
        config.data.train = config.data.validation = str(tmp_path / 't.tsv')
        for name, value in fields.items():
            setattr(config.data, name, value)
        return tables.LabelledExamples(config, split, 3, 16)

    return make


@pytest.mark.parametrize('count', [5, 8, 1000, 1003])
def test_texts_of_like_length_together(of_many_lengths, count):
    grouped, plain = of_many_lengths(count, group_by_length=True), of_many_lengths(count)
    rows = [grouped.rows(np.arange(epoch * count, (epoch + 1) * count)) for epoch in range(3)]
    assert all(sorted(of_epoch) == list(range(count)) for of_epoch in rows)
    assert count < 10 or (rows[0] != rows[1]).any() and (rows[0] != plain.rows(np.arange(count))).any()
    # A function of the index: one at a time, backwards, by another object.
    again = of_many_lengths(count, group_by_length=True)
    np.testing.assert_array_equal([again.rows([index])[0] for index in range(3 * count - 1, -1, -1)], np.concatenate(rows)[::-1])
    batches = np.arange(3 * count // 8 * 8).reshape(-1, 8)
    spread = {kind: np.mean([np.ptp(one.row_lengths()[one.rows(batch)]) for batch in batches]) for kind, one in (('grouped', grouped), ('plain', plain))}
    if count >= 1000:
        assert spread['grouped'] < 1.0 < 8.0 < spread['plain']
        lengths = [grouped.width(batch) for batch in batches]
        assert np.count_nonzero(np.diff(lengths)) > len(lengths) / 3  # shuffled, not from short to long
    held_out = of_many_lengths(count, 'validation', group_by_length=True)
    np.testing.assert_array_equal(held_out.rows(np.arange(count)), np.arange(count))


def test_like_length_is_for_labelled_data(tmp_path):
    config = Config()
    config.data.source, config.data.group_by_length = 'bert_flax.objectives:MlmNsp', True
    with pytest.raises(UserError, match='config.data.group_by_length is for labelled tables'):
        DataFunction(config, 'train')


def test_hosts_that_feed_parts_of_a_batch_agree(make, tmp_path):
    rows = [(' '.join(['cat'] * (1 + i % 13)), 'xy'[i % 2]) for i in range(26)]
    make({'t.tsv': tsv(rows)}, validation='t.tsv')
    config = Config(batch_size=8)
    config.data.source, config.data.tokenizer, config.data.seq_len = 't5x_lite.data.tables:LabelledExamples', vocabulary(tmp_path), 16
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
    rows = rows_of(30)
    same = [make({'t.tsv': tsv(rows)}, validation='t.tsv').fingerprint for _ in range(2)]
    other_text = make({'t.tsv': tsv([('a cat', 'neg'), *rows[1:]])}, validation='t.tsv').fingerprint
    other_label = make({'t.tsv': tsv([(rows[0][0], 'pos'), *rows[1:]])}, validation='t.tsv').fingerprint
    other_order = make({'t.tsv': tsv(rows)}, validation='t.tsv', labels=('pos', 'neg')).fingerprint
    assert len({*same, other_text, other_label, other_order}) == 4


def test_encode_texts_for_prediction(make, tmp_path):
    tokenizer = tokenizers.load(vocabulary(tmp_path))
    features = tables.encode_texts(['the cat', 'a', ''], tokenizer, 8)
    np.testing.assert_array_equal(features['tokens'], [[CLS, 5, 7, SEP], [CLS, 6, SEP, PAD], [CLS, SEP, PAD, PAD]])
    pairs = [('the cat sleeps loudly', 'a dog'), ('a', 'a')]
    features = tables.encode_texts(pairs, tokenizer, 8, width=8)
    rows = ''.join(f'{a}\t{b}\t{label}\n' for (a, b), label in zip(pairs, 'xy', strict=True))
    table = all_of(make({'t.tsv': 'sentence1\tsentence2\tlabel\n' + rows}, 'validation', validation='t.tsv', seq_len=8))
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
