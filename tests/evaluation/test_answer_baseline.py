"""Answers near the words of a question, by hand."""

import pytest

from t5x_lite.evaluation import answer_baseline
from tests.data import reading_material

TEXT = 'Rome was built by Romulus Rex in those days. The cat of the house sat on the mat. In Paris, Napoleon Bonaparte was crowned.'
OTHERS = ['The king was there in those days.', 'It was the house on the hill by the sea.', 'The crowned cat was in the house.']


def asked(text, answer=None, context=TEXT):
    return reading_material.question(context, answer, text=text)


LEARNT = [
    asked('Who built Rome?', 'Romulus Rex'),
    asked('Who was crowned in Paris?', 'Napoleon Bonaparte'),
    *(asked('Where?', context=text) for text in OTHERS),
]


@pytest.fixture(scope='module')
def reader():
    return answer_baseline.NearestWords(LEARNT)


def test_it_answers_what_stands_among_the_rare_words_of_the_question(reader):
    assert reader(asked('By whom was Rome built?')) == 'Romulus Rex', 'two words, as answers are that it has seen'
    assert reader(asked('Who was crowned in PARIS?')) == 'Napoleon Bonaparte', 'capitals are small letters, and no sentence is left'


def test_it_does_not_answer_with_words_of_the_question(reader):
    assert reader(asked('Romulus Rex?', context='Romulus Rex')) == '' == reader(asked('Who?', context='...'))
    assert reader(asked('Is Bo there?', context='Bo Li is')) == '', 'one word is left, and answers have two'


def test_scores_are_those_of_the_scripts():
    held_out = [asked('Who built Rome?', 'Romulus Rex'), asked('Who was crowned in Paris?', 'Napoleon'), asked('What sat on the mat?')]
    found = answer_baseline.measure(LEARNT, held_out[:2], no_answers=False)
    assert found == {answer_baseline.NEAREST: {'em': 50.0, 'f1': pytest.approx(100 * (1 + 2 / 3) / 2)}}
    found = answer_baseline.measure(LEARNT, held_out, no_answers=True)
    assert found[answer_baseline.NEVER] == {'exact': pytest.approx(100 / 3), 'f1': pytest.approx(100 / 3)}
    assert found[answer_baseline.NEAREST] == {'exact': pytest.approx(100 / 3), 'f1': pytest.approx(100 * (1 + 2 / 3) / 3)}


def test_nothing_to_learn_from_is_no_error():
    assert answer_baseline.NearestWords([asked('Who built Rome?')])(asked('Who built Rome?')) == 'was', 'all words are as rare, and the first is as good as any'
