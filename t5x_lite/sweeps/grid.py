"""Which runs a sweep has: the product of values of fields, the lines of a file, or both; every value held against the type of its field.

    --grid="optim.learning_rate=1e-5,3e-5; seed=0..2"      six runs: fields stand between semicolons, their values between commas
    --grid="data.fold=all"                                 0 to config.data.folds - 1
    --grid="tune.lora=(),((".*/query", 8, 16.0),)"         of a tuple each value as Python writes it; commas inside brackets and quotes are its own
    --runs=strategies.txt                                  a run a line:  tune.freeze_layers=3 optim.learning_rate=5e-5     (# begins a comment)
    --runs=strategies.jsonl                                a run a line:  {"tune.freeze_layers": 3, "optim.learning_rate": 5e-5}

Lines of text are read as a shell reads them: a value with spaces or quotes stands in quotes. With both, each line is crossed with the grid. Values are kept
as they stand in a config's JSON: {'optim.learning_rate': 1e-05, 'optim.name': 'lamb'}.
"""

import ast
from collections.abc import Sequence
import enum
import itertools
import json
import re
import shlex
import typing
from typing import Any

from t5x_lite.config import Config
from t5x_lite.config_values import expected, flatten, from_dict, to_dict, type_of
from t5x_lite.errors import UserError, nearest

Fields = dict[str, Any]  # of a run: {name: value}

_MOST = 10_000  # runs: beyond that it is a slip of the pen


def combinations(grid: str, path: str, base: Config) -> list[Fields]:
    """The fields of each run, in the order in which they are to be trained; [{}], the base alone, where neither is given.

    Args:
      grid: of --grid.
      path: of --runs.

    Raises:
      UserError: naming the field, and the line where there is one.
    """
    lines = read_lines(path, base) if path else [({}, '--runs')]
    axes = read_grid(grid, base) if grid.strip() else {}
    count = len(lines)
    for name, values in axes.items():
        count *= len(values)
        if twice := next((where for fields, where in lines if name in fields), ''):
            raise UserError(f'{twice}: {name} stands in --grid too; leave it out of one of them')
    if count > _MOST:
        raise UserError(f'--grid makes {count:,} runs; name fewer values')
    found: list[Fields] = []
    for fields, _ in lines:
        found += [fields | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return found


def read_grid(text: str, base: Config) -> dict[str, list[Any]]:
    """{field: values} of `a=1,2; b=x`."""
    axes: dict[str, list[Any]] = {}
    for part in _split(text, ';', '--grid'):
        name, equals, values = part.partition('=')
        name = _named(name, '--grid', base)
        if not equals or not values.strip():
            raise UserError(f'--grid: {part.strip()!r} has no values; write {name}=VALUE,VALUE')
        if name in axes:
            raise UserError(f'--grid: {name} stands there twice; give all of its values in one place')
        found = [value for item in _split(values, ',', '--grid') for value in _several(name, item.strip(), base)]
        if twice := [value for number, value in enumerate(found) if value in found[:number]]:
            raise UserError(f'--grid: {name} has the value {as_text(name, twice[0])} twice')
        axes[name] = found
    return axes


def read_lines(path: str, base: Config) -> list[tuple[Fields, str]]:
    """(fields, 'file:line') of each run of a file."""
    try:
        with open(path, encoding='utf-8-sig') as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 (byte {error.start})') from error
    found: list[tuple[Fields, str]] = []
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        where = f'{path}:{number}'
        if path.endswith('.jsonl'):
            if not line.strip():
                continue
            fields = _of_json(line, where, base)
        elif (fields := _of_text(line, where, base)) is None:
            continue
        key = json.dumps(fields, sort_keys=True)
        if key in seen:
            raise UserError(f'{where}: the same run as in {seen[key]}; remove one of them')
        seen[key] = where
        found.append((fields, where))
    if not found:
        raise UserError(f'{path}: no runs in it; write one a line: optim.learning_rate=1e-5 seed=0')
    return found


def _of_json(line: str, where: str, base: Config) -> Fields:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: not JSON ({error})') from error
    if not isinstance(values, dict):
        raise UserError(f'{where}: expected a JSON object, {{"optim.learning_rate": 1e-5, "seed": 0}}')
    return {(field := _named(name, where, base)): _checked(field, value, where) for name, value in flatten(values).items()}


def _of_text(line: str, where: str, base: Config) -> Fields | None:
    try:
        parts = shlex.split(line, comments=True)
    except ValueError as error:
        raise UserError(f'{where}: {str(error).lower()}; close it') from error
    if not parts:
        return None
    fields: Fields = {}
    for part in parts:
        name, equals, value = part.partition('=')
        name = _named(name, where, base)
        if not equals:
            raise UserError(f'{where}: {part!r} has no value; write {name}=VALUE')
        if name in fields:
            raise UserError(f'{where}: {name} stands there twice')
        fields[name] = value_of(name, value, where)
    return fields


def _named(name: str, where: str, base: Config) -> str:
    """A field's whole name, without --config. before it; 'heads.mood.weight' where `base` has such a head."""
    name = re.sub(r'^(--)?config\.', '', name.strip())
    known = {field: value for field, value in flatten(base).items() if field != 'heads'}
    if name in known:
        return name
    if any(field.startswith(f'{name}.') for field in known):
        type_of(name)  # says that it is a group, and what is in it
    last = name.rpartition('.')[2]
    same = [field for field in known if field.rpartition('.')[2] == last]
    raise UserError(f'{where}: {name or "a value"}: no such field, ' + (f'did you mean {same[0]!r}?' if same else _near(name, known)))


def _near(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return near if near.startswith('did') else 't5x_lite/config.py has them all'


def _several(name: str, text: str, base: Config) -> list[Any]:
    """The values that `0..4`, `all` or one value stand for."""
    if name == 'data.fold' and text == 'all':
        if not base.data.folds:
            raise UserError('--grid: data.fold=all, and config.data.folds is 0; say how many there are: --config.data.folds=5')
        return list(range(base.data.folds))
    if type_of(name) is int and (ends := re.fullmatch(r'(-?\d+)\.\.(-?\d+)', text)):
        first, last = map(int, ends.groups())
        if not 0 <= last - first < _MOST:
            raise UserError(f'--grid: {name}={text} names {max(last - first + 1, 0):,} values; write the smaller first')
        return list(range(first, last + 1))
    return [value_of(name, text, '--grid')]


def value_of(name: str, text: str, where: str) -> Any:
    """A value as a person writes it, as it stands in JSON."""
    kind = type_of(name)
    quoted = text[:1] in ('"', "'") and text[-1:] == text[:1] and len(text) > 1
    value: Any = text
    if kind is bool:
        value = {'true': True, 'false': False, '1': True, '0': False}.get(text.lower(), text)
    elif kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            pass  # `_checked` says it
    elif kind == tuple[str, ...] and not text.startswith(('(', '[')):
        value = (text,) if text else ()
    elif quoted or typing.get_origin(kind) is tuple:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass
    return _checked(name, value, where)


def _checked(name: str, value: Any, where: str) -> Any:
    """A value of the field's type, as JSON has it."""
    kind = type_of(name)
    try:
        return to_dict(from_dict(kind, value))
    except UserError as error:
        shown = value if isinstance(value, str) else repr(value)
        raise UserError(f'{where}: {name}={shown}: expected {expected(kind, f"config.{name}", shown)}') from error


def _split(text: str, separator: str, where: str) -> list[str]:
    """Parts between separators that stand in no bracket and no quotes; empty ones at the end left out."""
    parts, depth, quote = [''], 0, ''
    for character in text:
        if quote:
            quote = '' if character == quote else quote
        elif character in '"\'':
            quote = character
        elif character in '([{':
            depth += 1
        elif character in ')]}':
            depth -= 1
        elif character == separator and not depth:
            parts.append('')
            continue
        parts[-1] += character
    if quote or depth:
        raise UserError(f'{where}: {text.strip()!r}: {"a quote" if quote else "a bracket"} is not closed')
    return [part for part in parts if part.strip()]


def changed(base: Config, fields: Fields) -> Config:
    """The base with these fields."""
    tree = to_dict(base)
    for name, value in fields.items():
        *groups, field = name.split('.')
        place = tree
        for group in groups:
            place = place[group] if isinstance(place, dict) else next(head for head in place if head['name'] == group)
        place[field] = value
    return from_dict(Config, tree)


def as_text(name: str, value: Any) -> str:
    """A value as a flag takes it: the inverse of `value_of`."""
    kind = type_of(name)
    if isinstance(value, str) or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))  # epochs=3
    return _literal(value)


def _literal(value: Any) -> str:
    return f'({", ".join(map(_literal, value))}{"," * (len(value) == 1)})' if isinstance(value, (list, tuple)) else repr(value)
