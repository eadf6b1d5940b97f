"""Files of questions about texts in the form of SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016, 2018), and where in its text an answer stands. (numpy only)

    {"data": [{"title": "...", "paragraphs": [{"context": "...", "qas": [
        {"id": "q1", "question": "...", "answers": [{"text": "in 1997", "answer_start": 24}], "is_impossible": false}]}]}]}

Files of your own may leave out `title`, `is_impossible` and `answer_start`: an answer without a place is looked for.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from t5x_lite.data import json_lines, table_files
from t5x_lite.errors import UserError

_EXPECTED = 'expected data, paragraphs, qas, answers'


@dataclasses.dataclass(frozen=True)
class Answer:
    """Attributes: text; start: its first character in the context as the file says, None where it does not."""

    text: str
    start: int | None


@dataclasses.dataclass(frozen=True)
class Question:
    """Attributes: where: file and id, for messages; answers: () where there is none, or none was given."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[Answer, ...]
    where: str


def read(path: str, answered: bool = True) -> list[Question]:
    """The questions of a .json or .json.gz file, in its order.

    Args:
      answered: each question must say its answers, if only [] or that it `is_impossible`; False for questions that are to be answered.

    Raises:
      UserError: a file that is absent, not JSON, of another form, without questions, with an id twice, or with text that is not Unicode.
    """
    text = table_files.read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f':{error.lineno}' if isinstance(error, json.JSONDecodeError) else ''
        raise UserError(f'{path}{line}: not JSON ({json_lines.not_json(error)})') from error
    try:
        found = [
            _question(path, question, paragraph['context'], article.get('title', ''), answered)
            for article in content['data']
            for paragraph in article['paragraphs']
            for question in paragraph['qas']
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: not a file of SQuAD 1.1 or 2.0 ({type(error).__name__}: {error}); {_EXPECTED}') from error
    if not found:
        raise UserError(f'{path}: there are no questions in it; {_EXPECTED}')
    seen = set()
    for question in found:
        if question.id in seen:
            raise UserError(f'{question.where}: a question before it has the same id; answers are told apart by it, give each its own')
        seen.add(question.id)
    return found


def _question(path: str, row: dict[str, Any], context: str, title: str, answered: bool) -> Question:
    where = f'{path}[{row["id"]}]'
    impossible = row.get('is_impossible', False)
    given = row['answers'] if answered and not impossible else row.get('answers', [])
    # SQuAD 2.0 has the answers of an impossible question under `plausible_answers`; what others leave in `answers` is none either.
    answers = () if impossible else tuple(Answer(answer['text'], answer.get('answer_start')) for answer in given)
    texts = [context, row['question'], *(answer.text for answer in answers), str(row['id'])]
    starts = [answer.start for answer in answers if answer.start is not None]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(start, int) for start in starts):
        raise UserError(f'{where}: context, question and the text of answers must be strings and answer_start a whole number')
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # json can spell half a surrogate pair
            raise UserError(f'{where}: {text[error.start]!r} is not Unicode, in {text!r:.60}; mend the text') from error
    return Question(str(row['id']), title, context, row['question'], answers, where)


@dataclasses.dataclass(frozen=True)
class Located:
    """The places of the answers of some questions.

    Attributes:
      spans: of each question ((start, stop), ...), characters of its context without white space around them, in the order of its answers.
      moved: questions of which an answer stands elsewhere than the file says, at the only place with its text.
      lost: questions of which an answer does not stand in the context, or stands there several times but not where the file says, or is blank.
    """

    spans: list[tuple[tuple[int, int], ...]]
    moved: list[Question]
    lost: list[Question]

    def describe(self, shown: int = 3) -> list[str]:
        """A line for each kind of trouble, with some of the questions named."""
        lines = []
        for questions, trouble in (
            (self.moved, 'an answer that begins elsewhere than answer_start says; its only place is taken'),
            (self.lost, 'an answer that is not in the context, or several times and not at answer_start; it is left out'),
        ):
            if questions:
                names = ', '.join(question.where for question in questions[:shown]) + (', ...' if len(questions) > shown else '')
                lines.append(f'{len(questions):,} of {len(self.spans):,} questions have {trouble}: {names}')
        return lines


def locate(questions: Sequence[Question]) -> Located:
    """Where the answers stand in their contexts."""
    found = Located([], [], [])
    for question in questions:
        places = [_place(question.context, answer) for answer in question.answers]
        found.spans.append(tuple((start, stop) for start, stop, _ in filter(None, places)))
        if any(place is not None and place[2] for place in places):
            found.moved.append(question)
        if None in places:
            found.lost.append(question)
    return found


def _place(context: str, answer: Answer) -> tuple[int, int, bool] | None:
    """(start, stop, whether the file said another start); None where it is not to be found."""
    text = answer.text.strip()
    if not text:
        return None
    if answer.start is not None:
        start = answer.start + len(answer.text) - len(answer.text.lstrip())
        if start >= 0 and context.startswith(text, start):
            return start, start + len(text), False
    start = context.find(text)
    if start < 0 or context.find(text, start + 1) >= 0:
        return None
    return start, start + len(text), answer.start is not None
