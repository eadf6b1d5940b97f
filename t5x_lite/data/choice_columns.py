"""Which columns of a table are a question, its choices and the right one: as the config says, else guessed. (numpy only)

The guesses, in order:
- choices: the only column of lists (jsonl); else two or more columns whose names are a word and a number or a letter: ending0, ending1, ... (SWAG), option_a,
  option_b, ..., choice1, choice2, ...; else A, B, C, ... (MMLU).
- label: a usual name (LABEL_NAMES).
- question: a usual pair of names (PAIR_NAMES), else one usual name, else the only column that is left.
- what a label says: the text of a choice, its letter, its number from 0, its number from 1: the first of these that fits every row. Where numbers could be
  counted either way, that is a `UserError`, and so is whatever else remains open.
"""

from collections.abc import Iterator
import dataclasses
import re

import numpy as np

from t5x_lite.config import DataConfig
from t5x_lite.data import table_columns, table_files
from t5x_lite.data.table_columns import LABEL_FLAG, TEXT_FLAG
from t5x_lite.data.table_files import Table
from t5x_lite.errors import UserError, nearest

CHOICE_FLAG, KIND_FLAG = '--config.data.choice_columns', '--config.data.choice_labels'
KINDS = ('text', 'letter', 'from_0', 'from_1')
LABEL_NAMES = (*table_files.LABEL_NAMES, 'answer', 'answerkey', 'answer_key', 'answer_idx', 'answer_index', 'correct', 'gold', 'right_choice')
PAIR_NAMES = (('sent1', 'sent2'), ('article', 'question'), ('passage', 'question'), ('context', 'question'))
TEXT_NAMES = ('question', 'startphrase', 'prompt', 'premise', 'ctx', 'query', 'stem', *table_files.TEXT_NAMES)
_NUMBERED = re.compile(r'(.*[a-z])[ _-]?(\d+)|(.+)[ _-]([a-z])')


@dataclasses.dataclass(frozen=True)
class Task:
    """Columns, given or guessed; `kind` is what labels say, one of KINDS."""

    text: tuple[str, ...]
    choices: tuple[str, ...]
    label: str
    kind: str = ''
    guessed: frozenset[str] = frozenset()

    def say(self, what: str, value: str) -> str:
        return f'{what} {value} (guessed)' if what in self.guessed else f'{what} {value}'


def named(data: DataConfig) -> tuple[tuple[str, ...], bool]:
    """(the columns that the config names, whether they are all that are needed), as `table_files.read` wants them."""
    return (*data.text_columns, *data.choice_columns, *((data.label_column,) if data.label_column else ())), bool(
        data.text_columns and data.choice_columns and data.label_column
    )


def choose(table: Table, data: DataConfig) -> Task:
    """The columns of a table; what labels say is left open."""
    if len(data.text_columns) > 2:
        raise UserError(f'{TEXT_FLAG} names {len(data.text_columns)} columns {data.text_columns}; give that of the question, or two')
    if data.choice_labels not in ('', *KINDS):
        raise UserError(f'{KIND_FLAG} is {data.choice_labels!r}; {nearest(data.choice_labels, KINDS)}')
    text, choices, label = data.text_columns, data.choice_columns, data.label_column
    for name, flag in (*((name, TEXT_FLAG) for name in text), *((name, CHOICE_FLAG) for name in choices), *([(label, LABEL_FLAG)] * bool(label))):
        table.column(name, flag)
    choices = choices or _guess_choices(table, {*text, label})
    label = label or _usual(table, LABEL_NAMES, {*text, *choices}, 'the right choice', LABEL_FLAG)
    text = text or _guess_text(table, {*choices, label})
    columns = [table.column(name, '') for name in (*text, *choices, label)]
    if len(set(columns)) < len(columns):
        raise UserError(f'{table.name}: {TEXT_FLAG}={text}, {CHOICE_FLAG}={choices} and {LABEL_FLAG}={label} name a column twice; name different ones')
    given = {'question': data.text_columns, 'choices': data.choice_columns, 'label': data.label_column, 'which says': data.choice_labels}
    return Task(tuple(text), tuple(choices), label, data.choice_labels, frozenset(what for what, found in given.items() if not found))


def _guess_choices(table: Table, taken: set[str]) -> tuple[str, ...]:
    free = [name for name in table.columns if name not in taken]
    lists = [name for name in free if all(isinstance(cell, (list, tuple)) for cell in table.cells(table.column(name, CHOICE_FLAG)))]
    if len(lists) == 1:
        return tuple(lists)
    groups: dict[str, list[str]] = {}
    for name in free:
        if match := _NUMBERED.fullmatch(name.lower()):
            groups.setdefault(match[1] or match[3], []).append(name)
    # 'sent1' and 'sent2' are numbered too, and are SWAG's question.
    found = [names for stem, names in groups.items() if len(names) > 1 and stem not in ('sent', 'sentence', 'text')]
    letters = [name for place, name in enumerate(name for name in free if len(name) == 1) if name.upper() == chr(ord('A') + place)]
    found = found or ([letters] if len(letters) > 1 else [])
    if len(lists) or len(found) != 1:
        several = f'{" or ".join(", ".join(names) for names in ([lists] if lists else found))} could be them' if lists or found else 'none look like them'
        raise UserError(f'{table.name}: which columns are the choices? {several}; name them with {CHOICE_FLAG} (columns: {", ".join(table.columns)})')
    return tuple(found[0])


def _guess_text(table: Table, taken: set[str]) -> tuple[str, ...]:
    lower = {name.lower(): name for name in reversed(table.columns) if name not in taken}
    for pair in PAIR_NAMES:
        if all(name in lower for name in pair):
            return tuple(lower[name] for name in pair)
    if len(lower) == 1:
        return tuple(lower.values())
    return (_usual(table, TEXT_NAMES, taken, 'the question', TEXT_FLAG),)


def _usual(table: Table, names: tuple[str, ...], taken: set[str], what: str, flag: str) -> str:
    lower = {name.lower(): name for name in reversed(table.columns) if name not in taken}
    for name in names:
        if name in lower:
            return lower[name]
    raise UserError(f'{table.name}: no column looks like {what}; name it with {flag} (columns: {", ".join(table.columns)})')


def choices_of(table: Table, task: Task) -> list[tuple[str | None, ...]]:
    """The choices of each row, None where one of several columns is empty.

    Raises:
      UserError: a choice that is no text, a list of some, or fewer than two in a row.
    """
    columns = [table.column(name, CHOICE_FLAG) for name in task.choices]
    return [_choices_of_row(table, row, columns, task.choices) for row in range(len(table.rows))]


def _choices_of_row(table: Table, row: int, columns: list[int], names: tuple[str, ...]) -> tuple[str | None, ...]:
    cells = [table.rows[row][column] for column in columns]
    if len(columns) == 1:
        if not isinstance(cells[0], (list, tuple)):
            raise UserError(f'{table.where(row)}: the choices (column {names[0]!r}) are not a list; give one, or a column a choice ({CHOICE_FLAG})')
        cells = cells[0]
    cells = [cell.decode('utf-8', 'replace') if isinstance(cell, bytes) else cell for cell in cells]
    for number, cell in enumerate(cells, 1):
        if cell is not None and (not isinstance(cell, str) or (len(columns) == 1 and not cell.strip())):
            raise UserError(f'{table.where(row)}: choice {number} is {cell!r}; expected a text')
    there = tuple(cell if cell and cell.strip() else None for cell in cells)
    if sum(cell is not None for cell in there) < 2:
        raise UserError(f'{table.where(row)}: {sum(cell is not None for cell in there)} choices; a question has two or more')
    return there


def asked(path: str, texts: tuple[str, ...], choices: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(where, the texts of the question and behind them its choices) of each row of a table that is to be answered; it needs no label.

    Args:
      texts, choices: columns; without choices the question alone is read.

    Raises:
      UserError: no such file or column, or a row as `choices_of` refuses it.
    """
    table = table_files.read(path, (*texts, *choices), complete=True)
    places = [table.column(name, TEXT_FLAG) for name in texts]
    columns = [table.column(name, CHOICE_FLAG) for name in choices]
    for row in range(len(table.rows)):
        found = _choices_of_row(table, row, columns, choices) if choices else ()
        yield table.where(row), (*(table_columns.text_cell(table, row, place) for place in places), *(choice for choice in found if choice is not None))


def decide_kind(table: Table, task: Task, choices: list[tuple[str | None, ...]]) -> Task:
    """With `kind` guessed from the labels of a table where the config leaves it open."""
    if task.kind:
        return task
    labels = _labels(table, task)
    fitting = [kind for kind in KINDS if all(read(label, row, kind) is not None for label, row in zip(labels, choices, strict=True))]
    if not fitting:
        # The line that is wrong by the reading that most rows agree with.
        best = max(KINDS, key=lambda kind: sum(read(label, row, kind) is not None for label, row in zip(labels, choices, strict=True)))
        label_ids(table, dataclasses.replace(task, kind=best), choices)
    if fitting[:2] == ['from_0', 'from_1']:
        raise UserError(
            f'{table.name}: no label (column {task.label!r}) is 0 or the number of choices, so they may be counted from 0 or from 1; say which: '
            f'{KIND_FLAG}=from_0 or from_1'
        )
    return dataclasses.replace(task, kind=fitting[0])


def label_ids(table: Table, task: Task, choices: list[tuple[str | None, ...]]) -> np.ndarray:
    """int32 [n]: the place of the right choice; UserError, which names the line, where there is none."""
    found = np.empty(len(choices), np.int32)
    for row, (label, there) in enumerate(zip(_labels(table, task), choices, strict=True)):
        place = read(label, there, task.kind)
        if place is None:
            said = {'text': 'the text of one choice', 'letter': 'the letter of a choice', 'from_0': 'its number from 0', 'from_1': 'its number from 1'}
            shown = ' | '.join(choice or '(none)' for choice in there)
            raise UserError(
                f'{table.where(row)}: the label is {label!r}, not {said[task.kind]} ({shown[:120]}); mend it, or say what labels are with {KIND_FLAG}'
            )
        found[row] = place
    return found


def read(label: str, choices: tuple[str | None, ...], kind: str) -> int | None:
    """The place of the right choice by a label, None where it says none that is there: read('B', ('red', 'blue'), 'letter') is 1."""
    if kind == 'text':
        places = [place for place, choice in enumerate(choices) if choice is not None and choice.strip() == label]
        return places[0] if len(places) == 1 else None
    if kind == 'letter':
        place = ord(label.upper()) - ord('A') if len(label) == 1 and label.isascii() and label.isalpha() else -1
    else:
        place = int(label) - (kind == 'from_1') if re.fullmatch(r'\d{1,6}', label) else -1
    return place if 0 <= place < len(choices) and choices[place] is not None else None


def _labels(table: Table, task: Task) -> list[str]:
    return [table_columns.label_text(cell) for cell in table.cells(table.column(task.label, LABEL_FLAG))]
