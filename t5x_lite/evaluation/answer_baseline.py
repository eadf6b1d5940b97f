"""What finding answers in texts reaches without a model: what stands nearest to the words of the question. (numpy only)

Rajpurkar et al. (2016, section 5) first judge SQuAD by such a sliding window, after Richardson et al. (2013). It understands no word, it only knows which are
rare; what a reader is above it, it has from more than the words that question and text share.
"""

import bisect
from collections import Counter
from collections.abc import Sequence
import functools
import math
import re

from t5x_lite.data.squad_files import Question
from t5x_lite.evaluation import metrics_reading, metrics_text

NEAREST, NEVER = 'what stands nearest to the words of the question', 'never an answer'

_WORD, _SENTENCE_END = re.compile(r'\w+'), re.compile(r'(?<=[.!?;])\s+')
_LENGTHS = ((1,), (2,), (3,), (1, 2, 3), (2, 3), (3, 4, 5))  # of answers, in words
_REACHES = (1.0, 0.5, 0.2)  # a word of the question at d words from an answer weighs its rarity / d ** reach
_TUNED_ON = 100  # questions: lengths and reach are all there is to learn


class NearestWords:
    """`reader(question)` -> a stretch of its context, or '' where there is no word beside those of the question.

    Of all stretches of some words within a sentence, none of them in the question, the one that weighs most: each word of the question weighs its rarity
    (inverse document frequency, Sparck Jones, 1972), the less the farther its nearest place in the sentence is; and what is answered begins and ends with
    rare words. From questions with answers it learns which words are rare, how long answers are, and how far the words of a question reach.
    """

    def __init__(self, questions: Sequence[Question]):
        texts = list(dict.fromkeys(question.context for question in questions))
        self._texts, self._counts = len(texts), Counter(word for text in texts for word in set(_words(text)))
        answered = [question for question in questions if question.answers]
        some = answered[:: max(1, len(answered) // _TUNED_ON)]
        targets = [[answer.text for answer in question.answers] for question in some]

        def score(choice: tuple[tuple[int, ...], float]) -> float:
            return metrics_text.squad(targets, [self._answer(question, *choice) for question in some])['f1'] if some else 0.0

        self._choice = max(((lengths, reach) for lengths in _LENGTHS for reach in _REACHES), key=score)

    def __call__(self, question: Question) -> str:
        return self._answer(question, *self._choice)

    def _answer(self, question: Question, lengths: Sequence[int], reach: float) -> str:
        asked, best = {word: self._rarity(word) for word in _words(question.question)}, (-math.inf, '')
        for sentence in _sentences(question.context):
            words = [question.context[start:stop].lower() for start, stop in sentence]
            places = [(place, word) for place, word in enumerate(words) if word in asked]
            for length in lengths:
                for first in range(len(words) - length + 1):
                    last = first + length - 1
                    if any(first <= place <= last for place, _ in places):
                        continue
                    near: dict[str, float] = {}
                    for place, word in places:
                        weight = asked[word] / max(first - place, place - last) ** reach
                        near[word] = max(weight, near.get(word, 0.0))
                    weight = sum(near.values()) + (self._rarity(words[first]) + self._rarity(words[last])) / 2
                    if weight > best[0]:
                        best = weight, question.context[sentence[first][0] : sentence[last][1]]
        return best[1]

    def _rarity(self, word: str) -> float:
        return math.log((self._texts + 1) / (self._counts[word] + 1))


def measure(train: Sequence[Question], held_out: Sequence[Question], no_answers: bool) -> dict[str, dict[str, float]]:
    """{baseline: scores of the held-out questions, in percent}, learnt from the others: those of SQuAD 1.1, with `no_answers` of 2.0."""
    reader, targets = NearestWords(train), [[answer.text for answer in question.answers] for question in held_out]
    texts = [reader(question) for question in held_out]
    if not no_answers:
        return {NEAREST: metrics_text.squad(targets, texts)}
    both = {NEVER: [''] * len(texts), NEAREST: texts}
    return {name: {score: metrics_reading.squad_v2(targets, each)[score] for score in ('exact', 'f1')} for name, each in both.items()}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@functools.lru_cache(maxsize=256)  # several questions are about one text, and are asked of it several times
def _sentences(text: str) -> list[list[tuple[int, int]]]:
    """(start, stop) of the words of each sentence."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    found: dict[int, list[tuple[int, int]]] = {}
    for match in _WORD.finditer(text):
        found.setdefault(bisect.bisect_right(ends, match.start()), []).append(match.span())
    return list(found.values())
