"""From 'package.module:Name' to what it names."""

import importlib
from typing import Any

from t5x_lite.errors import UserError, nearest


def resolve(name: str, field: str = '', method: str = '') -> Any:
    """The object behind 'package.module:Name': the only way in which the framework meets a model family.

    Args:
      field: that holds the name, for messages.
      method: that the object must have.
    """
    where = f'{field} {name!r}' if field else repr(name)
    module, _, attribute = name.partition(':')
    if not attribute:
        raise UserError(f'{where} is not a dotted name; write package.module:Name')
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f'{where}: {error}; is the module on PYTHONPATH?') from error
    if not hasattr(loaded, attribute):
        raise UserError(f'{where}: module {module} has no {attribute!r}, {nearest(attribute, [name for name in vars(loaded) if name[0] != "_"])}')
    found = getattr(loaded, attribute)
    if method and not hasattr(found, method):
        raise UserError(f'{where}: {attribute} cannot stand there, it has no method {method!r}; is it the value of another field?')
    return found
