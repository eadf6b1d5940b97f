"""Texts that are to be answered: a file with one a line, the rows of a table, or lines of standard input as they arrive."""

from collections.abc import Iterator, Mapping
import contextlib
import os
import select
import sys
from typing import Any

from t5x_lite import remote
from t5x_lite.data import table_columns
from t5x_lite.errors import UserError
from t5x_lite.evaluation.answer_predictor import AnswerPredictor
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from t5x_lite.evaluation.predictor import Predictor

STDIN = '-'
_TABLES = ('.csv', '.jsonl', '.csv.gz', '.jsonl.gz')  # a .tsv has pairs of texts, a tab between them


def check(predictors: Mapping[str, Any], texts: tuple[str, ...], number: int) -> None:
    """
    Args:
      predictors: {name of a head: what is asked}; '' where there is one.

    Raises:
      UserError: texts, the `number`-th from 0, that one of them cannot answer.
    """
    for name, predictor in predictors.items():
        try:
            predictor.check(texts, number)
        except UserError as error:
            raise (UserError(f'head {name}: {error}; --head=NAME asks one head alone') if name else error) from error


def texts_of(path: str, predictors: Mapping[str, Any]) -> Iterator[tuple[str, ...] | None]:
    """Texts that can be answered, None where no more wait; what cannot is refused by file and line, before anything after it is read.

    Args:
      path: STDIN is standard input.
      predictors: as of `check`. Where all give labels or numbers, a .csv or .jsonl is a table, read in the columns of training.
    """
    is_table = path.lower().endswith(_TABLES) and all(isinstance(predictor, Predictor) for predictor in predictors.values())
    number = 0
    for where, texts in _rows(path, predictors) if is_table else _lines(path, predictors):
        if texts is not None:
            try:
                check(predictors, texts, number)
            except UserError as error:
                raise UserError(f'{where}: {error}') from error
            number += 1
        yield texts
    if not number:
        raise UserError(f'--input={path}: empty; expected a text a line')


def _rows(path: str, predictors: Mapping[str, Predictor]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(file and line, texts) of the rows of a table."""
    columns = {predictor.columns for predictor in predictors.values()}
    if len(columns) > 1 or not any(columns):
        raise UserError(
            f'--input={path}: this run does not say which columns of a table hold its texts; name them with --config.data.text_columns, '
            'or give a .txt file, a text a line'
        )
    (names,) = columns
    try:
        yield from table_columns.texts_of(path, names)
    except UserError as error:
        raise UserError(f'{error}; the texts are read from {" and ".join(map(repr, names))}, as in training; a .txt file has a text a line') from error


def _lines(path: str, predictors: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """(file and line, texts) of the lines of a file or of standard input."""
    # A prompt is a whole line.
    separator = '\t' if any(isinstance(predictor, Predictor | AnswerPredictor | ChoicePredictor) for predictor in predictors.values()) else None
    if path == STDIN and sys.stdin is None:
        raise UserError('--input=-: standard input is closed')
    number = 0
    try:
        with contextlib.nullcontext(_arriving()) if path == STDIN else open(remote.local(path), 'rb') as file:
            for line in file:
                if line is None:
                    yield '', None
                    continue
                number += 1
                try:
                    text = line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')  # editors of Windows begin files with a byte order mark
                except UnicodeDecodeError as error:
                    raise UserError(f'{path}:{number}: not UTF-8 ({error.reason}); convert the file') from error
                yield f'{path}:{number}', tuple(text.split(separator)) if separator else (text,)
    except OSError as error:
        raise UserError(f'--input={path}: {error.strerror}') from error


def _arriving() -> Iterator[bytes | None]:
    """Lines of standard input; None after those that are there already, while whoever writes them waits for answers."""
    rest = b''
    while data := os.read(sys.stdin.fileno(), 1 << 16):
        *lines, rest = (rest + data).split(b'\n')
        yield from lines
        if lines and not select.select([sys.stdin], [], [], 0)[0]:
            yield None
    if rest:
        yield rest
