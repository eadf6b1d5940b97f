"""A Hugging Face config.json, read and written with care: numbers, names of activations, fields that have one value only."""

from collections.abc import Iterable, Mapping
import enum
from typing import Any

from absl import logging

from t5x_lite.config import Activation, ModelConfig
from t5x_lite.errors import UserError, nearest

ACTIVATIONS = {
    'gelu': Activation.gelu,
    'gelu_python': Activation.gelu,
    # Five spellings of 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    'gelu_new': Activation.gelu_tanh,
    'gelu_fast': Activation.gelu_tanh,
    'gelu_pytorch_tanh': Activation.gelu_tanh,
    'gelu_python_tanh': Activation.gelu_tanh,
    'gelu_accurate': Activation.gelu_tanh,
    'relu': Activation.relu,
}
WRITTEN = {Activation.gelu: 'gelu', Activation.gelu_tanh: 'gelu_new', Activation.relu: 'relu'}


def whole_number(fields: Mapping[str, Any], name: str, where: str) -> int:
    """A field that must be there and be a whole number above 0; `UserError` otherwise."""
    if name not in fields:
        raise UserError(f'{where}: field {name} is missing, {nearest(name, fields)}')
    value = fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UserError(f'{where}: {name} is {value!r}; expected a whole number above 0')
    return value


def whole_number_or(fields: Mapping[str, Any], name: str, where: str, default: int) -> int:
    """The same for a field that old folders lack, or that may be null."""
    return default if fields.get(name) is None else whole_number(fields, name, where)


def number(fields: Mapping[str, Any], name: str, where: str, default: float) -> float:
    """A field that must be a number of at least 0 where it is there; `UserError` otherwise."""
    value = fields[name] if name in fields else default
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float('inf'):
        raise UserError(f'{where}: {name} is {value!r}; expected a number of at least 0')
    return float(value)


def share(fields: Mapping[str, Any], name: str, where: str, default: float) -> float:
    """The same, and below 1: a rate of dropout."""
    value = number(fields, name, where, default)
    if value >= 1:
        raise UserError(f'{where}: {name} is {value}; it must be at least 0 and below 1')
    return value


def flag(fields: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    """A field that must be true or false where it is there; `UserError` otherwise."""
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, bool):
        raise UserError(f'{where}: {name} is {value!r}; expected true or false')
    return value


def activation(value: Any, name: str, where: str, known: Mapping[str, Activation] | None = None) -> Activation:
    """The activation that field `name` spells `value`."""
    known = ACTIVATIONS if known is None else known
    if value not in list(known):
        raise UserError(f'{where}: {name} is {value!r}, which is not supported; {nearest(str(value), known)}')
    return known[value]


def refuse_others(fields: Mapping[str, Any], only: Mapping[str, Any], where: str) -> None:
    """Refuses folders that compute what our model does not: by fields with one value that we have, and by two that must be empty."""
    for name, value in only.items():
        if fields.get(name, value) not in (value, None):
            raise UserError(f'{where}: {name} is {fields[name]!r}; only {value!r} is supported')
    for name in ('pruned_heads', 'quantization_config'):
        if fields.get(name):
            raise UserError(f'{where}: {name} is {fields[name]!r}; such folders are not supported')


def check_exportable(config: ModelConfig, model: str, only: Mapping[str, Any], no_dropout: Iterable[str] = ()) -> None:
    """Refuses to export what a model of transformers cannot compute.

    Args:
      model: its name, for messages.
      only: our fields, and the value that it has for each.
      no_dropout: our rates of dropout that it lacks; they are left out, and that is said.

    Raises:
      UserError: naming the field.
    """
    for name, value in only.items():
        found = getattr(config, name)
        if found != value:
            raise UserError(f'config.model.{name}={_shown(found)} cannot be exported: {model} in transformers has {_shown(value)} only')
    for name in no_dropout:
        if getattr(config, name):
            logging.warning('config.model.%s=%s is left out: %s in transformers has no such dropout', name, getattr(config, name), model)


def check_heads(config: ModelConfig, model: str) -> None:
    """Refuses to export heads of a size of their own to a model whose width they share out."""
    if config.head_size not in (0, config.d_model // config.num_heads):
        raise UserError(f'config.model.head_size={config.head_size} cannot be exported: {model} in transformers has d_model / num_heads only')


def _shown(value: Any) -> str:
    return value.name if isinstance(value, enum.Enum) else repr(value)
