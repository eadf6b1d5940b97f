"""Folds: every row is held out once between them, classes evenly, for tables, tagged words and questions alike."""

import json

import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, ModelConfig
from t5x_lite.data import held_out
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.question_examples import QuestionExamples
from t5x_lite.errors import UserError
from tests.data import reading_material
from tests.data.table_material import labelled, rows_of, tsv, vocabulary
from tests.data.tagged_material import columns, sentences, tagged


@pytest.mark.parametrize('count, folds', [(10, 3), (12, 4), (5, 5), (101, 10)])
def test_sizes_differ_by_one_at_most_and_so_do_classes(count, folds):
    classes = np.random.default_rng(count).integers(0, 3, count)
    found = held_out.folds(count, DataConfig(folds=folds), 0, 'f', 'rows', classes)
    for chosen in (found, *(found[classes == kind] for kind in range(3))):
        sizes = np.bincount(chosen, minlength=folds)
        assert sizes.sum() == len(chosen) and sizes.max() - sizes.min() <= 1


def test_folds_are_by_seed_and_of_the_file_alone():
    data = DataConfig(folds=3)
    first = held_out.folds(50, data, 0, 'f', 'rows')
    np.testing.assert_array_equal(first, held_out.folds(50, DataConfig(folds=3, fold=2), 0, 'other', 'sentences'))
    assert (first != held_out.folds(50, data, 1, 'f', 'rows')).any()


def test_the_example_of_the_docstring():
    found = held_out.folds(10, DataConfig(folds=3), 0, 'f', 'rows', np.array([0] * 6 + [1] * 3 + [2]))
    assert f'fold    {" ".join(map(str, found))}\n' in held_out.__doc__


def test_rows_about_the_same_are_held_out_together_or_not_at_all():
    units, data = np.array([0, 1, 0, 2, 1, 3, 3, 0]), DataConfig(validation_fraction=0.5)
    (train, of_train), (held, of_held) = (held_out.rows_of(split, 8, data, 0, 'f', 'contexts', units=units) for split in ('train', 'validation'))
    assert sorted([*train, *held]) == list(range(8)) and (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
    assert len(set(units[held])) == 2 and set(units[train]).isdisjoint(units[held])
    assert of_train == '; without those about 2 of 4 contexts, set aside for validation by seed 0'
    assert of_held == '; here are those about 2 of 4 contexts, set aside for validation by seed 0'


def test_nothing_is_held_out_of_the_file_where_another_is():
    rows, said = held_out.rows_of('train', 8, DataConfig(validation='dev.tsv', max_examples=3), 0, 'f', 'rows')
    assert len(set(rows)) == 3 and said == '; a subset of 3 by seed 0'
    rows, said = held_out.rows_of('validation', 8, DataConfig(validation='dev.tsv', max_examples=3), 0, 'f', 'rows')
    assert rows.tolist() == list(range(8)) and said == ''


def test_tables_are_divided_into_folds(tmp_path):
    files = {'train.tsv': tsv(rows_of(31, labels=('a', 'b', 'b')))}
    seen = []
    for fold in range(4):
        parts = {split: labelled(tmp_path, files, split, folds=4, fold=fold) for split in ('train', 'validation')}
        texts = {split: part.texts for split, part in parts.items()}
        assert len(texts['train']) + len(texts['validation']) == 31 and len(texts['validation']) in (7, 8)
        share = np.bincount(parts['validation'].labels) / len(texts['validation'])
        assert share == pytest.approx([1 / 3, 2 / 3], abs=0.1)
        assert f'without the {len(texts["validation"])} held out as fold {fold} of 0 to 3, by seed 0' in parts['train'].describe()
        assert parts['train'].fingerprint not in {fingerprint for _, fingerprint in seen}, 'a run does not go on with another fold'
        seen.append((texts['validation'], parts['train'].fingerprint))
    assert sorted(text for texts, _ in seen for text in texts) == sorted(tuple(row[:1]) for row in rows_of(31, labels=('a', 'b', 'b')))


def test_numbers_are_divided_into_folds_too(tmp_path):
    files = {'train.tsv': tsv([(f'a cat {number}', str(number / 4)) for number in range(9)], ('text', 'score'))}
    found = [labelled(tmp_path, files, 'validation', folds=3, fold=fold, regression=True).labels for fold in range(3)]
    assert sorted(np.concatenate(found)) == [number / 4 for number in range(9)]


def test_tagged_words_are_divided_into_folds(tmp_path):
    rows = sentences(11)
    found = [tagged(tmp_path, {'train.conll': columns(rows)}, 'validation', folds=3, fold=fold) for fold in range(3)]
    assert sorted(sentence.words for part in found for sentence in part.sentences) == sorted(tuple(words) for words, _ in rows)
    assert 'here are the 4 held out as fold 0 of 0 to 2' in found[0].describe()


def test_questions_are_divided_by_their_contexts(tmp_path):
    paragraphs = [
        {'context': f'w{number} was Bo Li here.', 'qas': [
            {'id': f'{number}{part}', 'question': 'who ?', 'answers': [{'text': 'Bo', 'answer_start': 7}]} for part in 'ab'
        ]} for number in range(6)
    ]  # fmt: skip
    (tmp_path / 'q.json').write_text(json.dumps({'version': '1', 'data': [{'title': 'T', 'paragraphs': paragraphs}]}))
    (tmp_path / 'pieces').mkdir()
    (tmp_path / 'pieces' / 'vocab.txt').write_text('\n'.join([*reading_material.SPECIAL, *reading_material.WORDS]) + '\n')
    seen = []
    for fold in range(3):
        config = Config(data=DataConfig(train=str(tmp_path / 'q.json'), folds=3, fold=fold, max_question=8, tokenizer=str(tmp_path / 'pieces')))
        held, rest = ([question.id for question in QuestionExamples(config, split, 0, 24).windows.questions] for split in ('validation', 'train'))
        assert len(held) == 4 and {id[0] for id in held}.isdisjoint(id[0] for id in rest)
        seen += held
    assert sorted(seen) == sorted(f'{number}{part}' for number in range(6) for part in 'ab')


def test_what_cannot_be_divided(tmp_path):
    with pytest.raises(UserError, match=r'3 rows are too few for config\.data\.folds=5'):
        labelled(tmp_path, {'t.tsv': tsv([('a cat', '1'), ('a dog', '2'), ('a', '4')])}, folds=5, regression=True)
    with pytest.raises(UserError, match='but for single rows all are of one class'):
        labelled(tmp_path, {'t.tsv': tsv(rows_of(9, labels=('a',)) + [('a cat', 'b')])}, folds=3)


@pytest.mark.parametrize('fields, words', [
    ({'folds': 1}, 'config.data.folds is 1'), ({'folds': 3, 'fold': 3}, 'folds count from 0'), ({'fold': 1}, 'give the number of folds too'),
    ({'folds': 3, 'validation': 'dev.tsv'}, 'config.data.validation is given too'), ({'folds': -1}, 'at least 0'),
])  # fmt: skip
def test_fields_that_do_not_fit(fields, words):
    with pytest.raises(UserError) as caught:
        finalize(Config(model=ModelConfig(module='a:b'), data=DataConfig(**fields)))
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_other_data_have_no_folds(tmp_path):
    config = Config(data=DataConfig(source='t5x_lite.tasks.examples:TaskExamples', folds=3, tokenizer=vocabulary(tmp_path)))
    with pytest.raises(UserError, match=r'config\.data\.folds is for labelled tables, tagged words and questions, not for t5x_lite\.tasks'):
        DataFunction(config, 'train')
