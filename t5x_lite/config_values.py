"""A config as plain values (dicts, JSON, flat names) and back, every value held against the type of its field; where two configs differ."""

import dataclasses
import enum
import json
import re
import typing
from typing import Any

from t5x_lite import remote
from t5x_lite.config import FREE_ON_RESUME, Config, HeadConfig
from t5x_lite.errors import UserError, nearest


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars; enums by name."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, enum.Enum):
        return config.name
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    return config


def from_dict(kind: Any, value: Any, where: str = 'config') -> Any:
    """The inverse of `to_dict`: absent fields take their default, unknown ones and values of another type raise `UserError`."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f'{where} is {value!r}; expected fields')
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise UserError(f'{where}.{name}: no such field, {nearest(name, hints)}')
        return kind(**{name: from_dict(hints[name], part, f'{where}.{name}') for name, part in value.items()})
    if (one := of_groups(kind)) and isinstance(value, (list, tuple)):
        return tuple(from_dict(one, part, f'{where}.{_name(part, number)}') for number, part in enumerate(value))
    try:
        return _converted(kind, value)
    except TypeError as error:
        raise UserError(f'{where} is {_tuples(value)!r}; expected {expected(kind, where, value)}') from error


def of_groups(kind: Any) -> Any:
    """The dataclass that a tuple is of, `heads: tuple[HeadConfig, ...]`; None for other fields."""
    inner = typing.get_args(kind)[:1] if typing.get_origin(kind) is tuple else ()
    return inner[0] if inner and dataclasses.is_dataclass(inner[0]) else None


def _name(part: Any, number: int) -> str:
    return part['name'] if isinstance(part, dict) and isinstance(part.get('name'), str) and part['name'] else str(number)


def type_of(name: str) -> Any:
    """Of a field, 'optim.b2'; `UserError` where there is none, with the nearest."""
    kind, path = Config, 'config'
    for field in name.split('.'):
        if of_groups(kind):  # a name of a head
            kind, path = of_groups(kind), f'{path}.{field}'
            continue
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if field not in hints:
            raise UserError(f'--{path}.{field}: no such field' + (f', {nearest(field, hints)}' if hints else f'; --{path} has none'))
        kind, path = hints[field], f'{path}.{field}'
    if of_groups(kind):
        raise UserError(f'--{path} are several, each with a name; begin one with its config, --{path}.NAME=configs/FILE.py')
    if kind is HeadConfig:
        return str  # the config that it begins with
    if dataclasses.is_dataclass(kind):
        raise UserError(f'--{path} is a group of fields; set one of them: {", ".join(field.name for field in dataclasses.fields(kind))}')
    return kind


def expected(kind: Any, where: str = '', given: Any = '') -> str:
    """The values that a field takes, in words.

    Args:
      where: 'config.data.stages'.
      given: what it was set to; the nearest name is said.
    """
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        near = nearest(str(given), kind.__members__)
        return 'one of ' + ', '.join(kind.__members__) + (f', {near}' if near.startswith('did') else '')
    if typing.get_origin(kind) is tuple:
        parts = ', '.join('...' if part is Ellipsis else expected(part) for part in typing.get_args(kind))
        return _TUPLES.get(where.rpartition(' ')[2], f'a tuple ({parts})' if where else f'({parts})')
    return {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'a text'}.get(kind, 'a value')


_TUPLES = {
    'config.data.span.denoisers': 'a tuple ((mode token, mean span length, noise density, rate), ...)',
    'config.data.stages': 'a tuple ((from_step, seq_len, batch_size, max_predictions), ...) of tuples of whole numbers',
    'config.optim.decay': 'a tuple ((pattern, weight decay), ...) of pairs',
    'config.tune.lora': 'a tuple ((pattern, rank, alpha), ...)',
    'config.tune.rates': 'a tuple ((pattern, factor), ...) of pairs',
    'config.tune.unfreeze': 'a tuple ((step or share of all steps, pattern, factor), ...)',
    'config.mesh.rules': 'a tuple ((logical axis, mesh axis), ...) of pairs',
    'config.log.profile_steps': 'a tuple (first, last) of steps',
}


def _converted(kind: Any, value: Any) -> Any:
    """`value` as a `kind`; TypeError where it is none."""
    if kind is Any:
        return _tuples(value)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise TypeError
        if parts[-1] is Ellipsis:
            parts = parts[:1] * len(value)
        if len(parts) != len(value):
            raise TypeError
        # Flags read column 0 or label 1 as numbers.
        texts = [str(part) if kind is str and type(part) in (int, float) else part for kind, part in zip(parts, value)]
        return tuple(map(_converted, parts, texts))
    if issubclass(kind, enum.Enum):
        if value not in kind.__members__:
            raise TypeError
        return kind[value]
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise TypeError


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def to_json(config: Any) -> str:
    return json.dumps(to_dict(config), indent=2)


def from_json(path: str) -> Config:
    try:
        with open(remote.local(path), encoding='utf-8') as file:
            fields = json.load(file)
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such config; give --config=configs/FILE.py or the workdir of a run') from error
    except json.JSONDecodeError as error:
        raise UserError(f'{path}:{error.lineno}: not JSON ({error.msg})') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 (byte {error.start})') from error
    if isinstance(fields, dict) and 'model_type' in fields:
        raise UserError(
            f'{path} is of a Hugging Face folder, not of a run; make a run of it with  python -m t5x_lite.convert --format=native  '
            '(it is what --config.init_from takes as it is; beside --adapter, --workdir is one of the runs that learnt)'
        )
    return from_dict(Config, fields, f'{path}: config')


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
    """{'optim.learning_rate': 1e-4, 'heads.NAME.loss': ..., ...} of plain values."""
    flat = {}
    for name, value in config.items() if isinstance(config, dict) else to_dict(config).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {_name(part, number): {field: each for field, each in part.items() if field != 'name'} for number, part in enumerate(value)}
        flat.update(flatten(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value})
    return flat


def differences(ours: Config, theirs: Config) -> list[str]:
    """The fields, outside `FREE_ON_RESUME`, in which two runs differ: 'optim.b1 (0.9 there, 0.8 here)'."""
    free = re.compile(r'(heads\.[\w-]+\.)?(' + '|'.join(map(re.escape, FREE_ON_RESUME)) + r')(\..*)?')
    here, there = flatten(ours), flatten(theirs)
    return [
        f'{name} ({json.dumps(there.get(name))} there, {json.dumps(here.get(name))} here)'
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name) and not free.fullmatch(name)
    ]
