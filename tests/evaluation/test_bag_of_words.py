"""Baselines: they learn what a bag of words can, and say so where there is nothing to learn."""

import subprocess
import sys

import numpy as np
import pytest

from t5x_lite.errors import UserError
from t5x_lite.evaluation import bag_of_words
from t5x_lite.evaluation.bag_of_words import BagOfWords, measure


def _reviews(count, seed):
    """Texts whose class is in one word of twelve, or in 'not' before it."""
    rng = np.random.default_rng(seed)
    labels, texts = rng.integers(0, 2, count), []
    for label in labels:
        words = rng.choice(['the', 'film', 'was', 'a', 'plot', 'with', 'some', 'people'], 11).tolist()
        told = ['good'] if rng.random() < 0.5 else ['not', 'bad']
        if not label:
            told = ['bad'] if told == ['good'] else ['not', 'good']
        place = rng.integers(0, 11)
        texts.append(' '.join(words[:place] + told + words[place:]))
    return texts, labels


def test_classes():
    train, test = _reviews(600, 0), _reviews(200, 1)
    found = measure(*train, *test, 2)
    share = float(np.mean(test[1] == np.argmax(np.bincount(train[1]))))
    assert found['majority']['accuracy'] == share and found['majority']['matthews'] == 0
    assert found['bag of words']['accuracy'] > 0.95  # 'not good' is seen as a pair of words
    assert measure(*train, *test, 2) == found
    lines = bag_of_words.say(found, 'f1').split('\n')
    assert lines[0].startswith('baseline, majority: f1 ') and lines[1].startswith('baseline, bag of words: f1 ')
    assert bag_of_words.say(found).split('\n')[0].startswith(f'baseline, majority: accuracy {share:.4f}, f1 ')


def test_class_ids_without_examples_and_more_than_two():
    model = BagOfWords(['red', 'blue', 'red red', 'blue sky'], [3, 1, 3, 1], 5)
    assert model.predict(['a red', 'the blue']).tolist() == [3, 1] and model.predict([]).shape == (0,)


def test_pairs_of_texts():
    rng = np.random.default_rng(0)
    words = [f'w{index}' for index in range(30)]

    def pairs(count):
        rows, labels = [], rng.integers(0, 2, count)
        for label in labels:
            first = rng.choice(words, 6, replace=False)
            second = rng.permutation(first) if label else rng.choice(words, 6, replace=False)
            rows.append((' '.join(first), ' '.join(second)))
        return rows, labels

    assert measure(*pairs(400), *pairs(100), 2)['bag of words']['accuracy'] > 0.95  # no word tells, what is shared does


def test_numbers():
    rng = np.random.default_rng(0)

    def rows(count):
        marks = rng.integers(0, 6, count)
        return [' '.join(['good'] * mark + ['bad'] * (5 - mark)) for mark in marks], marks / 2

    found = measure(*rows(200), *rows(50), 0)
    assert found['bag of words']['pearson'] > 0.95 and np.isnan(found['majority']['pearson'])
    assert 'pearson undefined' in bag_of_words.say(found).splitlines()[0]
    assert found['bag of words']['mean_squared_error'] < 0.2 * found['majority']['mean_squared_error']


def test_several_labels():
    texts = ['red', 'blue', 'red blue', 'grey'] * 20
    labels = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0]] * 20)  # the third always, the fourth never
    model = BagOfWords(texts, labels, 4)
    np.testing.assert_array_equal(model.predict(texts[:4]), labels[:4])
    found = measure(texts, labels, texts[:4], labels[:4], 4)
    assert found['bag of words']['subset_accuracy'] == 1 and found['majority']['subset_accuracy'] == 0.25


def test_scripts_without_spaces():
    texts = ['この映画は良い', '映画は悪い', '良い話だ', '悪い話だった'] * 5
    assert BagOfWords(texts, [1, 0, 1, 0] * 5, 2).predict(['とても良い', 'とても悪い']).tolist() == [1, 0]


@pytest.mark.parametrize(
    ('texts', 'labels', 'classes', 'note', 'predicted'),
    [
        (['a', 'b'], [1, 1], 2, 'there is one class only', [1]),
        (['', ' '], [0, 0], 2, 'the texts hold no words', [0]),
        (['', '', '\n'], [0, 1, 1], 2, 'the texts hold no words', [1]),
        (['a', 'b'], [2.5, 2.5], 0, 'all numbers are the same', [2.5]),
    ],
)
def test_nothing_to_learn(texts, labels, classes, note, predicted):
    model = BagOfWords(texts, labels, classes)
    assert model.note == note and model.predict(['anything']).tolist() == predicted


def test_an_empty_text_and_an_endless_one():
    model = BagOfWords(['good', 'bad', ''], [1, 0, 0], 2)
    assert model.predict(['', 'good ' * 100_000]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ('texts', 'labels', 'said'),
    [
        ([], [], '0 texts and 0 labels'),
        (['a'], [1, 0], '1 texts and 2 labels'),
        (['a', ('b', 'c')], [1, 0], 'groups of 1, 2; expected single texts, or pairs throughout'),
        ([('a', 'b', 'c')], [1], 'groups of 3'),
    ],
)
def test_tables_that_do_not_fit(texts, labels, said):
    with pytest.raises(UserError, match=said):
        BagOfWords(texts, labels, 2)
    with pytest.raises(UserError, match='groups of 2, and the bag of words has learnt from groups of 1'):
        BagOfWords(['a', 'b'], [0, 1], 2).predict([('a', 'b')])


def test_the_import_waits_until_it_is_needed():
    code = 'import sys, t5x_lite.evaluation.bag_of_words; print(any(name.startswith(("sklearn", "scipy")) for name in sys.modules))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'False\n'
