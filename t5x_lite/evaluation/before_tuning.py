"""What a person should know before a fine-tuning run begins: how far one gets without a transformer. (numpy only)"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from t5x_lite.data import random
from t5x_lite.data.choices import ChoiceExamples, Question
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.question_examples import QuestionExamples
from t5x_lite.data.several import SeveralData
from t5x_lite.data.tables import LabelledExamples
from t5x_lite.data.tagged import TaggedExamples
from t5x_lite.evaluation import answer_baseline, bag_of_words, choice_baseline, tag_baseline

# Of a table's parts (of questions, their choices) and of a text, so that baselines cost seconds.
MOST_ROWS, _MOST_CHARACTERS, _ROWS_A_QUESTION = 10_000, 5_000, 10  # a question to its text takes as long as so many rows


def baselines(train: DataFunction | SeveralData, validation: DataFunction | SeveralData, most_rows: int = MOST_ROWS) -> str:
    """Lines of what can be had without a model on the held-out part of the run's own data: of a labelled table a majority vote and a bag of words, of
    questions with choices the most frequent place and a bag of words, of tagged words each word's most frequent tag, of questions about texts the words
    nearest to theirs; '' for a run on anything else.

    Args:
      most_rows: of larger parts that many rows are read, drawn at random, always the same; and that is said.
    """
    if isinstance(train, SeveralData):
        each = {name: baselines(data, validation.single[name], most_rows) for name, data in train.single.items()}
        return '\n'.join(f'{name}: {line}' for name, said in each.items() for line in said.splitlines())
    sources = [data.sources(data.stages[0])[0] for data in (train, validation)]
    if all(isinstance(source, TaggedExamples) for source in sources):
        parts = [[(sentence.words, sentence.tags) for sentence in source.sentences] for source in sources]
        return bag_of_words.say({tag_baseline.MOST_FREQUENT: tag_baseline.measure(*parts, sources[0].tags)})
    if all(isinstance(source, ChoiceExamples) for source in sources):
        rows, said = _sample(sources, [len(source.labels) for source in sources], most_rows // sources[0].resolved['model.num_labels'], 'questions')
        parts = [part for source, here in zip(sources, rows) for part in ([_short(source.questions[row]) for row in here], source.labels[here])]
        return bag_of_words.say(choice_baseline.measure(*parts)) + said
    if all(isinstance(source, QuestionExamples) for source in sources):
        questions = [source.windows.questions for source in sources]
        rows, said = _sample(sources, list(map(len, questions)), most_rows // _ROWS_A_QUESTION, 'questions')
        parts = [[dataclasses.replace(each[row], context=each[row].context[:_MOST_CHARACTERS]) for row in here] for each, here in zip(questions, rows)]
        return bag_of_words.say(answer_baseline.measure(*parts, train.config.data.no_answers)) + said
    if not all(isinstance(source, LabelledExamples) for source in sources):
        return ''
    rows, said = _sample(sources, [len(source.labels) for source in sources], most_rows, 'rows')
    parts = [part for source, here in zip(sources, rows) for part in ([_cut(source.texts[row]) for row in here], source.labels[here])]
    numbers = sources[0].labels.ndim == 1 and np.issubdtype(sources[0].labels.dtype, np.floating)
    return bag_of_words.say(bag_of_words.measure(*parts, 0 if numbers else sources[0].num_labels)) + said


def _sample(sources: Sequence[Any], counts: Sequence[int], most: int, what: str) -> tuple[list[np.ndarray], str]:
    """The rows of each part that are read, of so many, and a clause that says so where they are not all."""
    rows, said = [], []
    for source, count in zip(sources, counts, strict=True):
        rows.append(np.arange(count) if count <= most else np.sort(random.permute(np.arange(most), count, random.key(0, 'before_tuning'))))
        said += [f'{most:,} of the {count:,} {source.split} {what}'] * (count > most)
    return rows, f' (read: {" and ".join(said)})' if said else ''


def _cut(texts: Sequence[str | None]) -> tuple[str | None, ...]:
    return tuple(text and text[:_MOST_CHARACTERS] for text in texts)


def _short(question: Question) -> Question:
    texts, choices = question
    return _cut(texts), _cut(choices)
