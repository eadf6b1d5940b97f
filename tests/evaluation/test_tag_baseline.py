"""Each word's most frequent tag, by hand."""

import pytest

from t5x_lite.data.tags import SCHEMES, TagSet
from t5x_lite.evaluation import tag_baseline

NAMES = TagSet(('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER'), SCHEMES['IOB2'])
TRAIN = [
    (['Ann', 'saw', 'Rome'], ['B-PER', 'O', 'B-LOC']),
    (['Ann', 'Rome'], ['B-PER', 'I-PER']),
    (['Rome', 'is', 'Rome'], ['B-LOC', 'O', 'B-LOC']),
    (['Bo'], ['B-PER']), (['Bo'], ['B-LOC']),
]  # fmt: skip


def test_words_have_their_most_frequent_tag():
    tagger = tag_baseline.MostFrequentTag(TRAIN, NAMES)
    assert tagger(['Rome', 'Ann', 'is']) == ['B-LOC', 'B-PER', 'O']
    assert tagger(['Bo']) == ['B-LOC'], 'of equals the earlier in the set'
    assert tagger(['rome', 'Zoe']) == ['B-LOC'] * 2, 'the most frequent of all: B-LOC, 4 of 10'


def test_scores_are_those_of_an_evaluation():
    held_out = [(['Ann', 'saw', 'Rome'], ['B-PER', 'O', 'O']), (['Rome', 'Ann'], ['B-LOC', 'I-LOC'])]
    # Found: PER, LOC; LOC, PER. There: PER; a LOC of two words.
    found = tag_baseline.measure(TRAIN, held_out, NAMES)
    assert found == pytest.approx({'f1': 2 * 1 / (4 + 2), 'precision': 1 / 4, 'recall': 1 / 2, 'accuracy': 3 / 5})
    plain = TagSet(('NN', 'VB'))
    assert tag_baseline.measure([(['a', 'b'], ['NN', 'VB'])], [(['b', 'a', 'c'], ['VB', 'VB', 'NN'])], plain) == {'accuracy': pytest.approx(2 / 3)}
