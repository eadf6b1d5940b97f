"""Files of tagged words: columns as in CoNLL's shared tasks, or jsonl, each also .gz. (numpy only)

    EU NNP B-ORG          a word a line, its tags beside it, separated by white space, or by tabs where the first line has one (words may then hold spaces);
    rejects VBZ O         every line has as many columns as the first
                          a blank line ends a sentence; '-DOCSTART-' lines and, where tabs separate, lines that begin with '# ' (CoNLL-U) say nothing
    Ann NNP B-PER

    {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}        jsonl: a sentence a line
"""

from collections.abc import Iterator
import dataclasses
import json

from t5x_lite.data import table_files
from t5x_lite.errors import UserError, nearest

WORD_FLAG, TAG_FLAG = '--config.data.text_columns', '--config.data.label_column'
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
    if path.removesuffix('.gz').endswith(('.jsonl', '.json', '.ndjson')):
        found, words, tags = _objects(path, text, words, tags)
    else:
        found, words, tags = _columns(path, text, words, tags)
    if not found:
        raise UserError(f'{path}: no sentences in it; expected a word and its tag a line, blank lines between sentences')
    return found, words, tags


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines end at line feeds alone: a word may be a character that Python takes for a line's end."""
    for number, line in enumerate(text.split('\n'), 1):
        yield number, line.removesuffix('\r')


def _columns(path: str, text: str, words: str, tags: str) -> tuple[list[Sentence], str, str]:
    first = next(((number, line) for number, line in _lines(text) if line.strip() and not line.startswith(('-DOCSTART-', '# '))), None)
    if first is None:
        return [], words, tags
    separator = '\t' if '\t' in first[1] else None
    count = len(first[1].split(separator))
    if count < 2:
        raise UserError(f'{path}:{first[0]}: one column, {first[1].strip()[:40]!r}; expected a word and its tag, separated by a space or a tab')
    word = _number(words or '0', count, f'{path}:{first[0]}', WORD_FLAG)
    tag = _number(tags or str(count - 1), count, f'{path}:{first[0]}', TAG_FLAG)
    if word == tag:
        raise UserError(f'{TAG_FLAG}={tag} is the column of the words; name another')
    found: list[Sentence] = []
    begun, here = 0, []
    for number, line in (*_lines(text), (0, '')):
        if not line.strip() or line.startswith('-DOCSTART-'):
            if here:
                found.append(Sentence(f'{path}:{begun}', tuple(cells[word] for cells in here), tuple(cells[tag] for cells in here)))
            here = []
            continue
        if separator and line.startswith('# '):
            continue
        cells = line.split(separator)
        if len(cells) != count:
            raise UserError(f'{path}:{number}: {len(cells)} columns, and {count} in line {first[0]}; give every word its tag, or mend the line')
        if not cells[word].strip() or not cells[tag].strip():
            raise UserError(f'{path}:{number}: the {"tag" if cells[word].strip() else "word"} is empty; give one or remove the line')
        begun = begun if here else number
        here.append(cells)
    return found, str(word), str(tag)


def _number(column: str, count: int, where: str, flag: str) -> int:
    if not column.isdecimal() or int(column) >= count:
        raise UserError(f'{where}: no column {column!r} ({flag}); there are {count}, numbered from 0')
    return int(column)


def _objects(path: str, text: str, words: str, tags: str) -> tuple[list[Sentence], str, str]:
    found: list[Sentence] = []
    for number, line in _lines(text):
        if not line.strip():
            continue
        where = f'{path}:{number}'
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{where}: not JSON ({error})') from error
        if not isinstance(fields, dict):
            raise UserError(f'{where}: expected a JSON object, found {type(fields).__name__}')
        words, tags = _name(words, _WORDS, fields, where, WORD_FLAG), _name(tags, _TAGS, fields, where, TAG_FLAG)
        parts = fields[words], fields[tags]
        for name, part in zip((words, tags), parts, strict=True):
            if not isinstance(part, list) or not all(isinstance(item, str) for item in part):
                raise UserError(f'{where}: {name!r} is not a list of texts')
        if len(parts[0]) != len(parts[1]):
            raise UserError(f'{where}: {len(parts[0])} words and {len(parts[1])} tags; give one tag a word')
        if parts[0]:
            found.append(Sentence(where, tuple(parts[0]), tuple(parts[1])))
    return found, words, tags


def _name(name: str, usual: tuple[str, ...], fields: dict, where: str, flag: str) -> str:
    name = name or next((known for known in usual if known in fields), '')
    if name not in fields:
        raise UserError(f'{where}: no field {name or usual[0]!r} ({flag}); {nearest(name or usual[0], fields)}')
    return name
