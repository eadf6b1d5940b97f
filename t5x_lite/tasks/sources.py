"""Where the rows of tasks come from: tables, parallel lines, SQuAD's json, columns of tagged words, TFDS, or a generator.

A source names its splits and reads one: `read('train')` -> [(where, row), ...], rows as dicts of plain Python values, `where` for messages.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Protocol

import numpy as np

from t5x_lite.data import squad_files, table_files
from t5x_lite.errors import UserError

Row = tuple[str, dict[str, Any]]
TFDS = 'tfds:'


class Source(Protocol):
    @property
    def splits(self) -> tuple[str, ...]: ...

    def read(self, split: str, tfds_dir: str = '') -> list[Row]: ...


@dataclasses.dataclass
class _Paths:
    """A path for each split; '': no such part."""

    train: str = ''
    validation: str = ''
    test: str = ''

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ('train', 'validation', 'test') if getattr(self, split))


@dataclasses.dataclass
class Files(_Paths):
    """Tables: csv, tsv, jsonl, each also .gz, or tfds:NAME:split.

    Attributes:
      columns: names of ours for columns of the file, {'sentence': '5'}: names, or numbers from 0 where there is no header. {}: all, as they are.
      named: columns that will be asked for by name, so that a first row of such names is known for a header.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    named: tuple[str, ...] = ()

    def read(self, split: str, tfds_dir: str = '') -> list[Row]:
        return read_table(getattr(self, split), self.columns, tfds_dir, named=self.named)


@dataclasses.dataclass
class Tfds:
    """A data set of TFDS, `name` as 'glue/cola'; its splits by ours, {'validation': 'validation_matched'}."""

    name: str
    parts: Mapping[str, str] = dataclasses.field(default_factory=lambda: {'train': 'train', 'validation': 'validation'})

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def read(self, split: str, tfds_dir: str = '') -> list[Row]:
        return read_table(f'{TFDS}{self.name}:{self.parts[split]}', {}, tfds_dir, named_classes=False)


def read_table(path: str, columns: Mapping[str, str], tfds_dir: str = '', named_classes: bool = True, named: tuple[str, ...] = ()) -> list[Row]:
    """The rows of a table.

    Args:
      named_classes: class labels of TFDS by name; else as ids.
      named: of `Files`.
    """
    table = table_files.read(path, tuple(columns.values()) or named, bool(columns), tfds_dir)
    wanted = dict(columns) or {name: name for name in table.columns}
    places = {ours: table.column(name, 'columns of the task') for ours, name in wanted.items()}
    rows = []
    for number, cells in enumerate(table.rows):
        row = {}
        for name, place in places.items():
            classes = table.class_names.get(table.columns[place]) if named_classes else None
            value = cells[place]
            row[name] = classes[value] if classes and 0 <= value < len(classes) else plain(value, table.where(number))
        rows.append((table.where(number), row))
    return rows


def plain(value: Any, where: str) -> Any:
    """Texts for bytes, lists for arrays, numbers of Python."""
    if isinstance(value, bytes):
        try:
            return value.decode('utf-8')
        except UnicodeDecodeError as error:
            raise UserError(f'{where}: not UTF-8 text (byte {error.start})') from error
    if isinstance(value, Mapping):
        return {key: plain(part, where) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(part, where) for part in value]
    if isinstance(value, (list, tuple)):
        return [plain(part, where) for part in value]
    return plain(value.item(), where) if isinstance(value, (np.generic, np.ndarray)) else value


@dataclasses.dataclass
class Lines:
    """Parallel files, a sentence a line, each may be .gz: {'train': {'en': 'train.en.gz', 'de': 'train.de.gz'}, ...}; rows {'en': ..., 'de': ...}."""

    files: Mapping[str, Mapping[str, str]]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    def read(self, split: str, tfds_dir: str = '') -> list[Row]:
        del tfds_dir
        paths = self.files[split]
        texts = {}
        for name, path in paths.items():
            lines = table_files.read_text(path).split('\n')  # nothing else ends a line: U+2028 may be in a sentence
            texts[name] = [line.removesuffix('\r') for line in (lines[:-1] if lines[-1] == '' else lines)]
        counts = {paths[name]: len(lines) for name, lines in texts.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f'{" and ".join(f"{path} ({count:,} lines)" for path, count in counts.items())} are not parallel; they need equal lines')
        first = next(iter(paths.values()))
        return [
            (f'{first}:{number}', dict(zip(texts, sentences, strict=True))) for number, sentences in enumerate(zip(*texts.values(), strict=True), 1)
        ]


class SquadJson(_Paths):
    """SQuAD's own files (.json, .json.gz): rows {'id', 'title', 'context', 'question', 'answers'}, answers as texts, none where there is none."""

    def read(self, split: str, tfds_dir: str = '') -> list[Row]:
        del tfds_dir
        return [
            (found.where, {
                'id': found.id,
                'title': found.title,
                'context': found.context,
                'question': found.question,
                'answers': [answer.text for answer in found.answers],
            })
            for found in squad_files.read(getattr(self, split))
        ]  # fmt: skip


class TaggedWords(_Paths):
    """CoNLL's files (.gz too): a word a line, its tag in the last column, blank lines between sentences: rows {'tokens', 'tags'}."""

    def read(self, split: str, tfds_dir: str = '') -> list[Row]:
        del tfds_dir
        path, rows, words, first = getattr(self, split), [], [], 1
        for number, line in enumerate([*table_files.read_text(path).split('\n'), ''], 1):
            columns = line.split()
            if columns and len(columns) < 2:
                raise UserError(f'{path}:{number}: {line.strip()!r} has no tag; expected a word and its tag')
            if columns and columns[0] != '-DOCSTART-':
                first = first if words else number
                words.append((columns[0], columns[-1]))
            elif words:
                rows.append((f'{path}:{first}', {'tokens': [word for word, _ in words], 'tags': [tag for _, tag in words]}))
                words = []
        return rows


@dataclasses.dataclass
class Made:
    """Rows that a function of the split makes; it must give the same each time."""

    make: Callable[[str], list[dict[str, Any]]]
    splits: tuple[str, ...] = ('train', 'validation')

    def read(self, split: str, tfds_dir: str = '') -> list[Row]:
        del tfds_dir
        return [(f'{split}[{number}]', row) for number, row in enumerate(self.make(split))]
