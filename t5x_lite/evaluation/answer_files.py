"""Answers, written to a file."""

from collections.abc import Iterable, Iterator
import contextlib
import json
import os
from typing import Any, TextIO

from t5x_lite.errors import UserError
from t5x_lite.training.telemetry import as_json


def line(answer: dict[str, Any]) -> str:
    return json.dumps(as_json(answer), ensure_ascii=False, allow_nan=False)


def write(path: str, answers: Iterable[dict[str, Any]], named: str = '') -> str:
    """Writes a JSON object a line to a file, which a person has named `named` where that is not its path. Returns what there is to say; UserError where it cannot be written."""
    count = cut = 0
    with _whole(path) as file:
        for count, answer in enumerate(answers, 1):
            file.write(line(answer) + '\n')
            cut += 'cut' in answer
    return f'{count:,} answers in {named or path}' + (f'; {cut:,} of the texts were too long and cut (those with "cut")' if cut else '')


def write_squad(path: str, answers: Iterable[dict[str, Any]], no_answers: bool, named: str = '') -> str:
    """Writes answers to questions with ids as the evaluation scripts of SQuAD 1.1 and 2.0 take them: {id: answer}.

    Args:
      path: ends in .json.
      no_answers: beside it NAME.na_prob.json has {id: probability of no answer}, what evaluate-v2.0.py calls --na-prob-file.

    Returns:
      what there is to say.
    """
    found, none, beside = {}, {}, f'{path.removesuffix(".json")}.na_prob.json'
    with _whole(path) as file, _whole(beside) if no_answers else contextlib.nullcontext() as probabilities:
        for answer in answers:
            found[answer['id']] = answer['answer']
            if no_answers:
                none[answer['id']] = answer['no_answer']
        json.dump(found, file, ensure_ascii=False)
        if no_answers:
            json.dump(none, probabilities)
    said = f'{len(found):,} answers in {named or path}, as {{id: answer}}'
    return f'{said}; the probabilities of none in {beside} (--na-prob-file of evaluate-v2.0.py)' if no_answers else said


@contextlib.contextmanager
def _whole(path: str) -> Iterator[TextIO]:
    """A file that is renamed when whole: a mistake in line 1,000 leaves what was there before."""
    partial = f'{path}.partial'
    try:
        with open(partial, 'w', encoding='utf-8') as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f'--output={path}: {error.strerror}') from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)
