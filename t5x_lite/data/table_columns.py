"""Which columns of a table are its texts and its label, and which classes there are: as the config says, else guessed.

The guesses, in order:
- label: a usual name (table_files.LABEL_NAMES); else, for classes, the column with the fewest different short values; for regression, the
  only column of numbers that are not all whole, else the only column of numbers.
- texts: a usual pair of names (table_files.PAIR_NAMES); else one usual name; else the one or two columns that average 12 characters or
  more.
- classes: those found in the training table, sorted, as numbers where all of them are numbers; of TFDS class labels, in the order of TFDS.
What remains ambiguous is a `UserError` that names the flag.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

import numpy as np

from t5x_lite.config import DataConfig
from t5x_lite.data import table_files
from t5x_lite.data.table_files import Table
from t5x_lite.errors import UserError

LABEL_FLAG, TEXT_FLAG = '--config.data.label_column', '--config.data.text_columns'


@dataclasses.dataclass(frozen=True)
class Task:
    """Columns and labels, given or guessed."""

    text: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    regression: bool
    guessed: frozenset[str]
    labels_from: str
    separator: str = ''  # between the labels of a row, of which there may be any number

    def say(self, what: str, value: str) -> str:
        return f'{what} {value} (guessed)' if what in self.guessed else f'{what} {value}'


def load(data: DataConfig, split: str) -> tuple[Table, Table | None, Task]:
    """The table of a split, the other one if it had to be read, and the task, which is the training table's wherever that is needed."""
    if split not in ('train', 'validation'):
        raise ValueError(f'split is {split!r}; expected train or validation')
    known = bool(data.text_columns and data.label_column and (data.labels or data.regression))
    needs_train = split == 'train' or not data.validation or not known
    if needs_train and not data.train:
        raise UserError('--config.data.train is empty; give the table to learn from (csv, tsv, jsonl, each also .gz, or tfds:NAME)')
    if len(data.text_columns) > 2:
        raise UserError(f'{TEXT_FLAG} names {len(data.text_columns)} columns {data.text_columns}; give one, or two for pairs')
    named = (*data.text_columns, *((data.label_column,) if data.label_column else ()))
    complete = bool(data.text_columns and data.label_column)
    train = table_files.read(data.train, named, complete, data.tfds_dir) if needs_train else None
    source = data.validation
    validation = table_files.read(source, named, complete, data.tfds_dir) if source else None
    task = _choose(train or validation, data)
    if train is not None and validation is not None:
        # By name where both tables have names: their columns may stand in another order.
        for name, flag in (*((name, TEXT_FLAG) for name in task.text), (task.label, LABEL_FLAG)):
            validation.column(name, flag)
    if split == 'train' or not source:
        return train, validation, task
    return validation, train, task


def _choose(table: Table, data: DataConfig) -> Task:
    if len(table.columns) < 2:
        raise UserError(f'{table.name}: one column, {table.columns[0]!r}; expected a text and its label (is the separator a comma, a semicolon or a bar?)')
    guessed = {what for what, given in (('text', data.text_columns), ('label', data.label_column)) if not given}
    text, label = data.text_columns, data.label_column
    taken = {table.column(name, TEXT_FLAG) for name in text}
    if len(taken) < len(text):
        raise UserError(f'{TEXT_FLAG}={",".join(text)} names a column twice; name different ones, or one alone')
    if label:
        column = table.column(label, LABEL_FLAG)
        if column in taken:
            raise UserError(f'{LABEL_FLAG}={label} is one of {TEXT_FLAG}={text}; name different columns')
    else:
        column = _guess_label(table, taken, data.regression)
        label = table.columns[column]
    if not text:
        text = tuple(table.columns[index] for index in _guess_text(table, column))
    if data.regression:
        return Task(text, label, (), True, frozenset(guessed), '')
    if data.labels:
        if len(set(data.labels)) != len(data.labels) or len(data.labels) < 2:
            raise UserError(f'--config.data.labels={data.labels} must be two or more different names')
        return Task(text, label, tuple(map(str, data.labels)), False, frozenset(guessed), 'in config.data.labels', data.label_separator)
    labels, origin = _find_labels(table, column, data.label_separator)
    return Task(text, label, labels, False, frozenset(guessed), origin, data.label_separator)


def _guess_label(table: Table, taken: set[int], regression: bool) -> int:
    """The index of the label's column, by the rules at the top."""
    free = [index for index in range(len(table.columns)) if index not in taken]
    lower = {table.columns[index].lower(): index for index in reversed(free)}
    for name in table_files.LABEL_NAMES:
        if name in lower:
            return lower[name]
    cells = {index: [label_text(cell) for cell in table.cells(index)] for index in free}
    if regression:
        numeric = [index for index in free if all(map(table_files.is_number, cells[index]))]
        fractions = [index for index in numeric if any('.' in cell and float(cell) % 1 for cell in cells[index])]
        candidates = fractions or numeric
        if len(candidates) == 1:
            return candidates[0]
        found = ', '.join(table.columns[index] for index in candidates) or 'none'
        raise UserError(f'{table.name}: columns that could hold the target: {found}; name it with {LABEL_FLAG}')
    different = {index: len(set(cells[index])) for index in free if max(map(len, cells[index])) <= 50}
    for fewest in (2, 1):  # a constant column only where there is nothing else
        candidates = [
            index for index, count in different.items() if count >= fewest and (count <= max(2, len(table.rows) // 2) or len(free) == 1)
        ]
        if candidates:
            return min(candidates, key=lambda index: (different[index], -index))
    raise UserError(f'{table.name}: no column looks like a label; name it with {LABEL_FLAG} (columns: {", ".join(table.columns)})')


def _guess_text(table: Table, label: int) -> list[int]:
    """A pair or a single column with a usual name, else the one or two columns of several words."""
    free = [index for index in range(len(table.columns)) if index != label]
    lower = {table.columns[index].lower(): index for index in reversed(free)}
    for pair in table_files.PAIR_NAMES:
        if all(name in lower for name in pair):
            return [lower[name] for name in pair]
    for name in table_files.TEXT_NAMES:
        if name in lower:
            return [lower[name]]
    wordy = []
    for index in free:
        cells = [cell.decode('utf-8', 'replace') if isinstance(cell, bytes) else cell for cell in table.cells(index)]
        if all(isinstance(cell, str) for cell in cells) and sum(map(len, cells)) >= 12 * len(cells):
            wordy.append(index)
    if len(free) == 1 or 1 <= len(wordy) <= 2:
        return wordy or free
    raise UserError(
        f'{table.name}: cannot tell which columns are texts; name one or two with {TEXT_FLAG} (columns: {", ".join(table.columns)})'
    )


def _find_labels(table: Table, column: int, separator: str) -> tuple[tuple[str, ...], str]:
    name = table.columns[column]
    if name in table.class_names:
        return table.class_names[name], f'as TFDS lists them in {table.name}'
    found = {label for row in range(len(table.rows)) for label in _classes(table, row, column, separator)}
    if separator and len(found) < 2:
        raise UserError(
            f'{table.name}: column {name!r}, split at {separator!r} (config.data.label_separator), has {len(found)} labels; there must be two or more'
        )
    if len(found) == 1:
        raise UserError(f'{table.name}: every row has the label {found.pop()!r} (column {name!r}); nothing can be learnt from one class')
    if len(found) > max(100, len(table.rows) // 4) or 4 < len(found) == len(table.rows):
        raise UserError(
            f'{table.name}: column {name!r} has {len(found):,} different labels in {len(table.rows):,} rows; '
            f'is it another column ({LABEL_FLAG}), or numbers to predict (--config.data.regression=True)?'
        )
    numeric = all(map(table_files.is_number, found))
    origin = f'found in {table.name}, sorted'
    if numeric and any(float(label) % 1 for label in found):
        origin += '; numbers are taken for classes here, to predict them as numbers: --config.data.regression=True'
    spelt = {label.lower(): label for label in found}
    if twins := sorted(label for label in found if spelt[label.lower()] != label):
        origin += f'; {twins[0]!r} and {spelt[twins[0].lower()]!r} are two labels that differ in capitals alone'
    return tuple(sorted(found, key=(lambda label: (float(label), label)) if numeric else None)), origin


def label_ids(table: Table, task: Task) -> np.ndarray:
    """int32 [n] class ids, float32 [n] targets, or float32 [n, labels] of 0 and 1 where a row has any number of them."""
    column = table.column(task.label, LABEL_FLAG)
    if task.regression:
        return np.asarray([_target(table, row, column) for row in range(len(table.rows))], np.float32)
    ids = {label: index for index, label in enumerate(task.labels)}
    out = np.zeros((len(table.rows), len(ids)), np.float32) if task.separator else np.empty(len(table.rows), np.int32)
    for row in range(len(table.rows)):
        for label in _classes(table, row, column, task.separator):
            if label not in ids:
                listed = ', '.join(task.labels[:10]) + (', ...' if len(task.labels) > 10 else '')
                raise UserError(
                    f'{table.where(row)}: label {label!r} is not in the list ({listed}; {task.labels_from}); mend it, or --config.data.labels'
                )
            if task.separator:
                out[row, ids[label]] = 1
            else:
                out[row] = ids[label]
    return out


def label_text(cell: Any) -> str:
    if isinstance(cell, bytes):
        return cell.decode('utf-8', 'replace').strip()
    if isinstance(cell, (bool, np.bool_)):
        return str(bool(cell)).lower()
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        return str(int(cell))
    return '' if cell is None else str(cell).strip()


def _class(table: Table, row: int, column: int) -> str:
    cell = table.rows[row][column]
    names = table.class_names.get(table.columns[column])
    if names:
        return names[cell] if 0 <= cell < len(names) else str(cell)
    if isinstance(cell, (list, tuple, dict)):
        hint = ' (sets of labels: --config.data.label_separator="|", which takes lists as they are)' if not isinstance(cell, dict) else ''
        raise UserError(f'{table.where(row)}: the label (column {table.columns[column]!r}) is {_short(cell)}; expected a text or a number{hint}')
    label = label_text(cell)
    if not label:
        raise UserError(f'{table.where(row)}: the label (column {table.columns[column]!r}) is missing; give one or remove the row')
    return label


def _short(cell: Any) -> str:
    return text if len(text := str(cell)) <= 40 else f'{text[:37]}...'


def _classes(table: Table, row: int, column: int, separator: str) -> list[str]:
    """The labels of a row: one, or with a separator any number; a list of jsonl is taken as it is."""
    if not separator:
        return [_class(table, row, column)]
    cell = table.rows[row][column]
    if cell is None:
        raise UserError(f'{table.where(row)}: the labels (column {table.columns[column]!r}) are missing; give some, or an empty text for none')
    parts = cell if isinstance(cell, (list, tuple)) else label_text(cell).split(separator)
    return [label for label in map(label_text, parts) if label]


def _target(table: Table, row: int, column: int) -> float:
    label = label_text(table.rows[row][column])
    if not table_files.is_number(label) or abs(float(label)) > float(np.finfo(np.float32).max):
        hint = ', with a point for its decimals' if table_files.is_number(label.replace(',', '.')) else ''
        raise UserError(f'{table.where(row)}: the target (column {table.columns[column]!r}) is {label!r}; expected a finite number{hint}')
    return float(label)


def texts_of(path: str, columns: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(where, texts) of each row of a table that is to be answered; it needs no label.

    Raises:
      UserError: no such file or column, or a cell that is no text.
    """
    table = table_files.read(path, columns, complete=True)
    places = [table.column(name, TEXT_FLAG) for name in columns]
    for row in range(len(table.rows)):
        yield table.where(row), tuple(text_cell(table, row, place) for place in places)


def text_cell(table: Table, row: int, column: int) -> str:
    cell = table.rows[row][column]
    if isinstance(cell, bytes):
        try:
            return cell.decode('utf-8')
        except UnicodeDecodeError as error:
            raise UserError(f'{table.where(row)}: column {table.columns[column]!r} is not UTF-8 text') from error
    if not isinstance(cell, str):
        what = 'is missing' if cell is None else f'is {cell!r}, not a text'
        raise UserError(f'{table.where(row)}: the text (column {table.columns[column]!r}) {what}')
    return cell
