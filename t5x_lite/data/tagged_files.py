"""Files of tagged words: columns as in CoNLL's shared tasks, or jsonl, each also .gz. (numpy only)

    EU NNP B-ORG          a word a line, its tags beside it, separated by white space, or by tabs where the first line has one (words may then hold spaces);
    rejects VBZ O         every line has as many columns as the first
                          a blank line ends a sentence; '-DOCSTART-' lines and, where tabs separate, lines that begin with '# ' (CoNLL-U) say nothing
    Ann NNP B-PER

    {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}        jsonl: a sentence a line
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

from t5x_lite.data import json_lines, table_files
from t5x_lite.errors import UserError, nearest

WORD_FLAG, TAG_FLAG = '--config.data.text_columns', '--config.data.label_column'
JSON = ('.jsonl', '.json', '.ndjson')
_WORDS, _TAGS = ('words', 'tokens', 'word', 'token'), ('tags', 'ner_tags', 'labels', 'pos_tags', 'tag', 'label')


@dataclasses.dataclass(frozen=True)
class Sentence:
    where: str  # file and line of its first word, for messages
    words: tuple[str, ...]
    tags: tuple[str, ...]


def read(path: str, words: str = '', tags: str = '') -> tuple[list[Sentence], str, str]:
    """The sentences of a file, and the columns that were taken.

    Args:
      words, tags: columns, by number from 0, in jsonl by name; '': the first and the last, in jsonl usual names.

    Raises:
      UserError: no such file or none of these columns; a line with other columns than the first, or a sentence with not one tag a word.
    """
    text = table_files.read_text(path)
    if path.removesuffix('.gz').endswith(JSON):
        found, words, tags = _objects(path, text, words, tags)
    else:
        found, words, tags = _columns(path, text, words, tags)
    if not found:
        raise UserError(f'{path}: no sentences in it; expected a word and its tag a line, blank lines between sentences')
    return found, words, tags


def read_words(path: str, words: str = '') -> Iterator[tuple[str, tuple[str, ...] | str]]:
    """(where, words) of each sentence that is to be tagged; (where, text) of a row of jsonl that has a text in place of words.

        {"tokens": ["Ann", "left", "."], "tags": [...]}      ('f.jsonl:1', ('Ann', 'left', '.')): tags are not looked at, nor in column files
        {"text": "Ann left."}                                ('f.jsonl:2', 'Ann left.')

    Args:
      words: as of `read`; a name where there are columns, or a number where there are names, is passed over for what is usual there.

    Raises:
      UserError: no such file; a line with other columns than the first, or without a word; a row without words and text, or with others than texts.
    """
    text = table_files.read_text(path)
    if path.lower().removesuffix('.gz').endswith(JSON):
        yield from _asked(path, text, words)
    elif first := _first(text):
        word = _number(words if words.isdecimal() else '0', len(first[1].split(_separator(first[1]))), f'{path}:{first[0]}', WORD_FLAG)
        for begun, rows in _sentences(path, text, first, {word: 'word'}):
            yield f'{path}:{begun}', tuple(cells[word] for cells in rows)


def _asked(path: str, text: str, words: str) -> Iterator[tuple[str, tuple[str, ...] | str]]:
    for where, fields in _rows(path, text):
        name = next((known for known in (words, *_WORDS, *table_files.TEXT_NAMES) if known in fields), '')
        if not name:
            raise UserError(f'{where}: no field of words or of a text ({WORD_FLAG}); {nearest(words or _WORDS[0], fields)}')
        found = fields[name]
        if not isinstance(found, str) and not _are_texts(found):
            raise UserError(f'{where}: {name!r} is neither a list of words nor a text')
        yield where, found if isinstance(found, str) else tuple(found)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines end at line feeds alone: a word may be a character that Python takes for a line's end."""
    for number, line in enumerate(text.split('\n'), 1):
        yield number, line.removesuffix('\r')


def _first(text: str) -> tuple[int, str] | None:
    """The number of the first line with columns, and the line."""
    return next(((number, line) for number, line in _lines(text) if line.strip() and not line.startswith(('-DOCSTART-', '# '))), None)


def _separator(first: str) -> str | None:
    return '\t' if '\t' in first else None


def _sentences(path: str, text: str, first: tuple[int, str], needed: dict[int, str]) -> Iterator[tuple[int, list[list[str]]]]:
    """(line of its first word, cells of its lines) of each sentence; `needed`: columns that are never empty, and what is in them."""
    separator = _separator(first[1])
    count = len(first[1].split(separator))
    begun, here = 0, []
    for number, line in (*_lines(text), (0, '')):
        if not line.strip() or line.startswith('-DOCSTART-'):
            if here:
                yield begun, here
            here = []
            continue
        if separator and line.startswith('# '):
            continue
        cells = line.split(separator)
        if len(cells) != count:
            raise UserError(f'{path}:{number}: {len(cells)} columns, and {count} in line {first[0]}; give every word its tag, or mend the line')
        for column, what in needed.items():
            if not cells[column].strip():
                raise UserError(f'{path}:{number}: the {what} is empty; give one or remove the line')
        begun = begun if here else number
        here.append(cells)


def _columns(path: str, text: str, words: str, tags: str) -> tuple[list[Sentence], str, str]:
    first = _first(text)
    if first is None:
        return [], words, tags
    count = len(first[1].split(_separator(first[1])))
    if count < 2:
        raise UserError(f'{path}:{first[0]}: one column, {first[1].strip()[:40]!r}; expected a word and its tag, separated by a space or a tab')
    word = _number(words or '0', count, f'{path}:{first[0]}', WORD_FLAG)
    tag = _number(tags or str(count - 1), count, f'{path}:{first[0]}', TAG_FLAG)
    if word == tag:
        raise UserError(f'{TAG_FLAG}={tag} is the column of the words; name another')
    found = [
        Sentence(f'{path}:{begun}', tuple(cells[word] for cells in rows), tuple(cells[tag] for cells in rows))
        for begun, rows in _sentences(path, text, first, {word: 'word', tag: 'tag'})
    ]
    return found, str(word), str(tag)


def _number(column: str, count: int, where: str, flag: str) -> int:
    if not column.isdecimal() or int(column) >= count:
        raise UserError(f'{where}: no column {column!r} ({flag}); there are {count}, numbered from 0')
    return int(column)


def _rows(path: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, fields) of the lines of jsonl."""
    for number, line in _lines(text):
        if not line.strip():
            continue
        where = f'{path}:{number}'
        fields = json_lines.parsed(line, where)
        if not isinstance(fields, dict):
            raise UserError(f'{where}: expected a JSON object, found {type(fields).__name__}')
        yield where, fields


def _objects(path: str, text: str, words: str, tags: str) -> tuple[list[Sentence], str, str]:
    found: list[Sentence] = []
    for where, fields in _rows(path, text):
        words, tags = _name(words, _WORDS, fields, where, WORD_FLAG), _name(tags, _TAGS, fields, where, TAG_FLAG)
        parts = fields[words], fields[tags]
        for name, part in zip((words, tags), parts, strict=True):
            if not _are_texts(part):
                raise UserError(f'{where}: {name!r} is not a list of texts')
        if len(parts[0]) != len(parts[1]):
            raise UserError(f'{where}: {len(parts[0])} words and {len(parts[1])} tags; give one tag a word')
        if parts[0]:
            found.append(Sentence(where, tuple(parts[0]), tuple(parts[1])))
    return found, words, tags


def _name(name: str, usual: tuple[str, ...], fields: dict[str, Any], where: str, flag: str) -> str:
    name = name or next((known for known in usual if known in fields), '')
    if name not in fields:
        raise UserError(f'{where}: no field {name or usual[0]!r} ({flag}); {nearest(name or usual[0], fields)}')
    return name
