"""Texts that are to be answered: a file with one a line, or lines of standard input as they arrive; and what a kind of run reads beside them.

    labels, numbers    .csv .jsonl               rows of a table, in the columns of training
    choices            .csv .tsv .jsonl          likewise
    answers in texts   .json                     questions as SQuAD has them
                       .csv .jsonl               rows of a table, in config.data.text_columns or columns of usual names
    tags               .jsonl                    rows of words, or of a text
                       .conll .bio .iob          a word a line, blank lines between sentences

Each also .gz. No labels, answers or tags are looked at.
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
import select
import sys
from typing import Any

from t5x_lite import remote
from t5x_lite.data import choice_columns, question_tables, squad_files, table_columns, tagged_files
from t5x_lite.data.choice_columns import CHOICE_FLAG
from t5x_lite.data.table_columns import TEXT_FLAG
from t5x_lite.data.tagged_files import Sentence
from t5x_lite.errors import UserError
from t5x_lite.evaluation.answer_predictor import AnswerPredictor
from t5x_lite.evaluation.batching import Asked
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.evaluation.tag_predictor import TagPredictor

STDIN = '-'
_COLUMNS = ('.conll', '.bio', '.iob')
Found = Iterator[tuple[str, Asked]]  # (file and line, what stands there)


def check(predictors: Mapping[str, Any], asked: Asked, number: int) -> None:
    """
    Args:
      predictors: {'head NAME' or '--adapter=RUN': what is asked}; '' where there is one.

    Raises:
      UserError: what is asked, the `number`-th from 0, and one of them cannot answer.
    """
    for name, predictor in predictors.items():
        try:
            predictor.check(asked, number)
        except UserError as error:
            raise (UserError(f'{name}: {error}; --head=NAME asks one head alone, --workdir=RUN one run') if name else error) from error


def texts_of(path: str, predictors: Mapping[str, Any]) -> Iterator[Asked | None]:
    """What can be answered, None where no more waits; what cannot is refused by file and line, before anything after it is read.

    Args:
      path: STDIN is standard input.
      predictors: as of `check`. Where all are of one kind, a file with one of the endings above is read as that kind reads it.
    """
    number = 0
    for where, asked in _found(path, predictors):
        if asked is not None:
            try:
                check(predictors, asked, number)
            except UserError as error:
                raise UserError(f'{where}: {error}') from error
            number += 1
        yield asked
    if not number:
        raise UserError(f'--input={path}: empty; expected a text a line')


def is_squad(path: str, predictors: Mapping[str, Any]) -> bool:
    """Whether a file is read as questions in the form of SQuAD."""
    return _ending(path) == '.json' and _all(AnswerPredictor, predictors)


def _found(path: str, predictors: Mapping[str, Any]) -> Iterator[tuple[str, Asked | None]]:
    ending = _ending(path)
    if _all(Predictor, predictors) and ending in ('.csv', '.jsonl'):  # of these a .tsv has pairs of texts, a tab between them
        return _rows(path, predictors)
    if _all(ChoicePredictor, predictors) and ending in ('.csv', '.tsv', '.jsonl'):
        return _choices(path, predictors)
    if is_squad(path, predictors):
        return ((question.where, question) for question in squad_files.read(path, answered=False))
    if _all(AnswerPredictor, predictors) and ending in ('.csv', '.jsonl'):
        return ((question.where, question) for question in question_tables.read(path, _columns_of(predictors)))
    if _all(TagPredictor, predictors) and ending in (*tagged_files.JSON, *_COLUMNS):
        return _words(path, predictors)
    return _lines(path, predictors)


def _ending(path: str) -> str:
    return os.path.splitext(path.lower().removesuffix('.gz'))[1]


def _all(kind: type, predictors: Mapping[str, Any]) -> bool:
    return all(isinstance(predictor, kind) for predictor in predictors.values())


def _columns_of(predictors: Mapping[str, Any]) -> Any:
    """Those of a table that all of them read."""
    found = {predictor.columns for predictor in predictors.values()}
    if len(found) > 1:
        raise UserError(f'{", ".join(predictors)}: that does not say which columns of a table to read, for they learnt from others; ask one of them alone')
    return found.pop()


def _rows(path: str, predictors: Mapping[str, Predictor]) -> Found:
    names = _columns_of(predictors)
    if not names:
        raise UserError(
            f'--input={path}: this run does not say which columns of a table hold its texts; name them with {TEXT_FLAG}, or give a .txt file, a text a line'
        )
    try:
        yield from table_columns.texts_of(path, names)
    except UserError as error:
        raise UserError(f'{error}; the texts are read from {" and ".join(map(repr, names))}, as in training; a .txt file has a text a line') from error


def _choices(path: str, predictors: Mapping[str, ChoicePredictor]) -> Found:
    texts, choices = _columns_of(predictors)
    if not texts or not choices and any(predictor.brings_choices for predictor in predictors.values()):
        raise UserError(
            f'--input={path}: this run does not say which columns of a table hold questions and choices; name them with {TEXT_FLAG} and {CHOICE_FLAG}, '
            'or give a .txt file, a question and its choices a line, tabs between them'
        )
    try:
        yield from choice_columns.asked(path, texts, choices)
    except UserError as error:
        named = f'{" and ".join(map(repr, texts))}' + (f', their choices from {", ".join(map(repr, choices))}' if choices else '')
        raise UserError(f'{error}; questions are read from {named}, as in training; a .txt file has a question a line') from error


def _words(path: str, predictors: Mapping[str, TagPredictor]) -> Found:
    columns = _columns_of(predictors)
    for where, found in tagged_files.read_words(path, columns[0] if columns else ''):
        yield where, (found,) if isinstance(found, str) else Sentence(where, found, ())


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
