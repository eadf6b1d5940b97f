"""What choosing reaches without a model: places by hand, and a bag of words that finds what wording gives away."""

import numpy as np
import pytest

from t5x_lite.evaluation import choice_baseline
from t5x_lite.evaluation.choice_baseline import BestChoice, most_frequent_place

WORDS = [f'w{number}' for number in range(30)]


def asked(*choices):
    return ('what is it ?',), choices


def test_the_most_frequent_place_among_the_choices_that_are_there():
    questions = [asked('a', 'b', 'c'), asked('a', 'b', None), asked('a', None, 'c'), asked('a', 'b', 'c', 'd')]
    assert most_frequent_place(np.array([2, 2, 1, 1, 2, 0]), questions).tolist() == [2, 1, 2, 2]
    assert most_frequent_place(np.array([1, 0, 0, 1]), questions).tolist() == [0, 0, 0, 0], 'of equals the first'


def drawn(count, seed, rule):
    """Questions with two to four choices in random order, one of them made by `rule`: (rng, words of the question, right) -> words."""
    rng, questions, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        words = rng.choice(WORDS, 6, replace=False)
        places = sorted(rng.choice(4, rng.integers(2, 5), replace=False).tolist())
        label = int(rng.choice(places))
        choices = tuple(' '.join(rule(rng, words, place == label)) if place in places else None for place in range(4))
        questions.append(((' '.join(words[:3]), ' '.join(words[3:])), choices))
        labels.append(label)
    return questions, np.array(labels)


def given_away(rng, words, right):
    """Wrong ones say 'never': the question need not be read."""
    return [*rng.choice(WORDS, 3), *(['always'] if right else ['never'])]


def shared(rng, words, right):
    """The right one has the words of the question, in another order."""
    return rng.permutation(words[:3]) if right else rng.choice([word for word in WORDS if word not in words], 3)


@pytest.mark.parametrize('rule', [given_away, shared])
def test_a_bag_of_words_finds_wording_and_what_is_shared(rule):
    train, held_out = drawn(300, 0, rule), drawn(100, 1, rule)
    found = choice_baseline.measure(*train, *held_out)
    assert found['bag of words']['accuracy'] > 0.95 > 0.6 > found['most frequent place']['accuracy'], found
    chosen = BestChoice(*train)(held_out[0])
    assert found['bag of words']['accuracy'] == np.mean(chosen == held_out[1])
    assert all(choices[place] is not None for (_, choices), place in zip(held_out[0], chosen, strict=True))


def test_nothing_to_learn_from_means_the_first_choice():
    assert BestChoice([(('',), ('', ''))], np.array([1]))([asked('a', 'b'), asked(None, 'b', 'c')]).tolist() == [0, 1]
