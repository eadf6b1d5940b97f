"""Reads labelled tables: csv, tsv, jsonl (each also .gz) and tfds:NAME[:split], with the file and line of every row for messages.

Separated text:
- .csv: comma, semicolon or bar, the first of them that cuts the first rows into equally many cells; quotes as in RFC 4180, so a cell may hold separators and
  line ends.
- .tsv: tab, no quoting: a quotation mark is a character like any other. A .csv in which each of the first lines has a tab is read in the
  same way.
- UTF-8, with or without a byte order mark; blank lines are skipped.

The first row is a header if the config names columns and it holds all of them (a number, as in '0', is not a name: it counts columns from
0). Otherwise it is a header if its cells are distinct, short and not numbers, none of them occurs again in its own column, and either one
of them is a usual column name (text, label, sentence1, ...) or stands over a column of numbers. Columns of a file without header are named
'0', '1', ...
"""

import csv
import dataclasses
import gzip
import io
import os
import re
import zlib
from typing import Any

from t5x_lite import remote
from t5x_lite.data import json_lines
from t5x_lite.errors import UserError, nearest

EXTENSIONS = ('.csv', '.tsv', '.jsonl')
# In order of preference where several are present.
LABEL_NAMES = (
    'label', 'labels', 'gold_label', 'target', 'class', 'category', 'score', 'similarity', 'sentiment', 'polarity', 'rating', 'stars', 'y',
)  # fmt: skip
PAIR_NAMES = (
    ('text_a', 'text_b'), ('text1', 'text2'), ('sentence1', 'sentence2'), ('sentence_a', 'sentence_b'), ('premise', 'hypothesis'),
    ('question1', 'question2'), ('question', 'sentence'), ('question', 'passage'), ('question', 'context'), ('query', 'document'),
    ('query', 'passage'),
)  # fmt: skip
TEXT_NAMES = ('text', 'sentence', 'review', 'content', 'document', 'body', 'comment', 'question', 'tweet', 'message', 'input')
USUAL_NAMES = frozenset(
    LABEL_NAMES + TEXT_NAMES + tuple(name for pair in PAIR_NAMES for name in pair) + ('id', 'idx', 'index', 'guid', 'title')
)


@dataclasses.dataclass
class Table:
    """Rows of cells: strings from separated text; any JSON value, None for an absent one, from jsonl; numbers and bytes from TFDS."""

    name: str  # as the user wrote it
    columns: tuple[str, ...]
    rows: list[list[Any]]
    lines: list[int]  # of the first character of each row, from 1; the number of the example, from 0, for TFDS
    format: str = ''  # in words, for `describe`
    class_names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # of TFDS class labels

    def where(self, row: int) -> str:
        return f'{self.name}[{self.lines[row]}]' if self.name.startswith('tfds:') else f'{self.name}:{self.lines[row]}'

    def column(self, name: str, flag: str) -> int:
        """The index of a column by name, or by number from 0; UserError names `flag`, the nearest column and all of them."""
        if self.columns.count(name) > 1:
            raise UserError(f'{self.name}: the header has {name!r} twice; rename one of them')
        if name in self.columns:
            return self.columns.index(name)
        if name.isdecimal() and int(name) < len(self.columns):
            return int(name)
        hint, everything = nearest(name, self.columns), 'columns: ' + ', '.join(self.columns)
        raise UserError(f'{self.name}: no column {name!r} ({flag}); {hint + " " if hint.startswith("did") else ""}{everything}')

    def cells(self, column: int) -> list[Any]:
        return [row[column] for row in self.rows]


def read(source: str, named: tuple[str, ...] = (), complete: bool = False, tfds_dir: str = '') -> Table:
    """The table behind a path or tfds:NAME[:split].

    Args:
      named: columns that the config names.
      complete: the config names every column that will be used. In a file without header, rows may then differ in cells beyond those
        columns (as in the files of the STS benchmark); `format` counts such rows. Otherwise each row must be as long as the first, since a
        stray separator inside a text makes it longer.

    Raises:
      UserError: a missing, empty, undecodable or malformed file, with its line.
    """
    if source.startswith('tfds:'):
        return _read_tfds(source, tfds_dir)
    stem = source.removesuffix('.gz')
    kind = os.path.splitext(stem)[1].lower()
    if kind not in EXTENSIONS:
        raise UserError(
            f'{source}: unknown kind of table {kind or "(no extension)"!r}; expected {", ".join(EXTENSIONS)}, each also .gz, or tfds:NAME'
        )
    text = read_text(source)
    if not text.strip():
        raise UserError(f'{source}: empty; expected rows of text and label')
    return _read_jsonl(source, text) if kind == '.jsonl' else _read_separated(source, text, kind, named, complete)


def read_text(path: str) -> str:
    try:
        data = remote.read(path)
        if path.endswith('.gz'):
            data = gzip.decompress(data)
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file') from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path}: broken gzip file ({error})') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        here = f'{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8'
        if data.startswith((b'\xff\xfe', b'\xfe\xff')):
            raise UserError(f'{here}; the file is UTF-16, convert it: iconv -f utf-16 -t utf-8, or save it anew as "CSV UTF-8" in Excel') from error
        raise UserError(f'{here}; convert the file: iconv -f cp1252 -t utf-8, say, or save it anew as "CSV UTF-8" in Excel') from error
    # A file whose only line ends are carriage returns comes from an old Mac, or Excel's "CSV (Macintosh)".
    return text if '\n' in text else text.replace('\r', '\n')


def _read_jsonl(path: str, text: str) -> Table:
    objects, lines = [], []
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        value = json_lines.parsed(line, f'{path}:{number}')
        if not isinstance(value, dict):
            raise UserError(f'{path}:{number}: expected a JSON object such as {{"text": ..., "label": ...}}')
        objects.append(value)
        lines.append(number)
    columns = tuple(dict.fromkeys(key for value in objects for key in value))
    if not columns:
        raise UserError(f'{path}: its objects are empty; expected such as {{"text": ..., "label": ...}}')
    return Table(path, columns, [[value.get(name) for name in columns] for value in objects], lines, 'one JSON object a line')


def _read_separated(path: str, text: str, kind: str, named: tuple[str, ...], complete: bool) -> Table:
    head = [line for line in re.sub(r'\A\s*\n', '', text).split('\n', 50)[:20] if line.strip()]
    tabs = kind == '.tsv' or all('\t' in line for line in head)
    delimiter = '\t' if tabs else _delimiter(text, head[0])
    rows, lines = _split_tabs(text) if tabs else _split_quoted(path, text, delimiter)
    header = _has_header(path, rows, named)
    columns = tuple(cell.strip() for cell in rows[0]) if header else tuple(map(str, range(len(rows[0]))))
    if header:
        rows, lines = rows[1:], lines[1:]
        if not rows:
            raise UserError(f'{path}: a header and no rows')
    lenient = complete and not header  # all of `named` are numbers then
    needed = max(map(int, named)) + 1 if lenient else len(columns)
    for row, line in zip(rows, lines, strict=True):
        if len(row) < min(needed, len(columns)) or (len(row) > len(columns) and not lenient):
            what = 'header' if header else 'first row'
            hint = 'quotes are plain characters in tab-separated text' if tabs else 'quote a cell that holds the separator'
            if len(row) > len(columns) and not header:
                hint += '; further cells are ignored where --config.data.text_columns and label_column give all columns by number'
            raise UserError(f'{path}:{line}: {len(row)} cells where the {what} has {len(columns)} ({hint})')
    shortest = min(map(len, rows))
    longer = sum(len(row) > shortest for row in rows)
    form = 'tab-separated, unquoted' if tabs else f'separated by {delimiter!r}, quoted'
    form += ', header' if header else ', no header'
    form += f', {longer:,} rows have more than {shortest} cells (the rest is ignored)' if longer else ''
    return Table(path, columns, rows, lines, form)


def _delimiter(text: str, first: str) -> str:
    """What cuts the first rows into equally many cells; where nothing does, the semicolon of a first line without commas, else the comma."""
    part = text[:20_000]
    for delimiter in ',;|':
        try:
            counts = [len(row) for row in csv.reader(io.StringIO(part, newline=''), delimiter=delimiter, strict=True) if row]
        except csv.Error:  # of another delimiter, or the end of the part is inside a cell
            continue
        counts = counts[: -1 if len(part) < len(text) else None]
        if counts and min(counts) == max(counts) > 1:
            return delimiter
    return ';' if ',' not in first and ';' in first else ','


def _split_tabs(text: str) -> tuple[list[list[str]], list[int]]:
    # Not str.splitlines: it also splits at characters that texts may hold, such as U+2028.
    numbered = [(number, line.removesuffix('\r')) for number, line in enumerate(text.split('\n'), 1)]
    numbered = [(number, line) for number, line in numbered if line.strip()]
    return [line.split('\t') for _, line in numbered], [number for number, _ in numbered]


def _split_quoted(path: str, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
    rows, lines = [], []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return rows, lines
        except csv.Error as error:
            raise UserError(f'{path}:{line}: broken row ({error}); is a quotation mark left open, or not doubled inside quotes?') from error
        if row and (len(row) > 1 or row[0].strip()):
            rows.append(row)
            lines.append(line)


def _has_header(path: str, rows: list[list[str]], named: tuple[str, ...]) -> bool:
    first = [cell.strip() for cell in rows[0]]
    names = [name for name in named if not name.isdecimal()]
    if all(name in first for name in names) and names:
        return True
    columns = [[row[index].strip() for row in rows[1:1000] if index < len(row)] for index in range(len(first))]
    twice = next((cell for cell in first if cell and first.count(cell) > 1), None)
    if twice is not None and any(cell.lower() in USUAL_NAMES for cell in first) and all(len(cell) <= 40 and not is_number(cell) for cell in first):
        if not any(cell and cell in column for cell, column in zip(first, columns, strict=True)):
            raise UserError(f'{path}: the header has {twice!r} twice; rename one of them')
    plain = (
        len(set(first)) == len(first)
        and all(first[1:] or first)  # the first name is empty where pandas wrote its index
        and all(len(cell) <= 40 and not is_number(cell) for cell in first)
        and not any(cell in column for cell, column in zip(first, columns, strict=True))
    )
    usual = any(cell.lower() in USUAL_NAMES for cell in first)
    over_numbers = any(column and all(map(is_number, column)) for column in columns)
    header = plain and (usual or over_numbers)
    if names and not header:
        missing = next(name for name in names if name not in first)
        raise UserError(
            f'{path}: no header with a column {missing!r}; its first row is {_short(" | ".join(first))}. '
            'Without header, columns are numbers from 0'
        )
    return header


def is_number(text: str) -> bool:
    """As in '3', '-0.5', '1e-3'; nan and inf are not numbers here."""
    return re.fullmatch(r'\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*', text) is not None


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + '...')


def _read_tfds(source: str, data_dir: str) -> Table:
    name, _, split = source.removeprefix('tfds:').partition(':')
    split = split or 'train'
    try:
        import tensorflow_datasets as tfds  # Slow to import, and needed here only.
        import tensorflow_datasets.text  # noqa: F401  Some builders are found only after this.
    except ImportError as error:
        raise UserError(f'{source}: tensorflow_datasets cannot be imported ({error})') from error
    try:
        builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
        if not os.path.exists(os.path.join(builder.data_path, 'dataset_info.json')):
            print(f'{source}: not in {builder.data_dir} yet; TFDS downloads and prepares it, which may take long (--config.data.tfds_dir)', flush=True)
        # array_record is the one format that is read without TensorFlow.
        builder.download_and_prepare(file_format='array_record')
        if split.split('[')[0] not in builder.info.splits:
            raise UserError(f'{source}: no split {split!r}, {nearest(split, builder.info.splits)}')
        examples = builder.as_data_source(split)
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        hint = nearest(name, tfds.list_builders(with_community_datasets=False))
        hint = f', {hint}' if hint.startswith('did') else ''
        raise UserError(
            f'{source}: no such dataset in TFDS or in {data_dir or "its default folder"} (--config.data.tfds_dir){hint}'
        ) from error
    except Exception as error:  # TFDS and what it calls raise anything, across pages.
        raise UserError(
            f'{source}: TFDS cannot load it ({_short(" ".join(str(error).split()), 200)}); without a way to its host, name a folder that holds it: --config.data.tfds_dir'
        ) from error
    features = builder.info.features
    classes = {
        key: tuple(feature.names) for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel) and feature.names
    }
    columns = tuple(features)
    rows = [[example[key] for key in columns] for example in examples]
    if not rows:
        raise UserError(f'{source}: no examples')
    return Table(
        source if ':' in source.removeprefix('tfds:') else f'{source}:{split}', columns, rows, list(range(len(rows))), 'TFDS', classes
    )
