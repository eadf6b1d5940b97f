"""What choosing reaches without a transformer: the place that is right most often, and a linear model over a bag of words. To be read before fine-tuning.

A question with one of its choices is a pair of texts, right or wrong, and logistic regression (`bag_of_words.BagOfWords`) learns to tell which; of the
choices of a question the one that is likeliest right is taken. It sees the words of both and which they share, so it also finds choices that give themselves
away by their wording alone, as in data that people wrote some do (Gururangan et al., 2018).
"""

from collections.abc import Sequence

import numpy as np

from t5x_lite.data.choices import Question, pair
from t5x_lite.evaluation.bag_of_words import BAG_OF_WORDS, BagOfWords

PLACE = 'most frequent place'


def most_frequent_place(labels: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """int64 [n]: of each question, the place among its choices that is right most often in int [m] labels, the first of equals."""
    counts = np.bincount(labels, minlength=max(len(choices) for _, choices in questions))
    return np.array([max(_places(choices), key=lambda place: counts[place]) for _, choices in questions])


class BestChoice:
    """A bag of words that has learnt from questions and the places of their right choices, int [n] labels."""

    def __init__(self, questions: Sequence[Question], labels: np.ndarray):
        right = [place == label for (_, choices), label in zip(questions, labels, strict=True) for place in _places(choices)]
        self._model = BagOfWords(_pairs(questions), np.array(right, np.int64), 2)

    def __call__(self, questions: Sequence[Question]) -> np.ndarray:
        """int64 [n]: the place of each question's choice that is likeliest right, the first of equals."""
        scores, found = iter(self._model.scores(_pairs(questions)).tolist()), []
        for _, choices in questions:
            of_each = {place: next(scores) for place in _places(choices)}
            found.append(max(of_each, key=of_each.get))
        return np.array(found, np.int64)


def measure(questions: Sequence[Question], labels: np.ndarray, held_out: Sequence[Question], held_out_labels: np.ndarray) -> dict[str, dict[str, float]]:
    """{baseline: {'accuracy': share of the held-out questions}}, learnt from the others."""
    found = {PLACE: most_frequent_place(labels, held_out), BAG_OF_WORDS: BestChoice(questions, labels)(held_out)}
    return {name: {'accuracy': float(np.mean(places == held_out_labels))} for name, places in found.items()}


def _places(choices: Sequence[str | None]) -> list[int]:
    """Of the choices that are there."""
    return [place for place, choice in enumerate(choices) if choice is not None]


def _pairs(questions: Sequence[Question]) -> list[tuple[str, str]]:
    return [pair(texts, choices[place]) for texts, choices in questions for place in _places(choices)]
