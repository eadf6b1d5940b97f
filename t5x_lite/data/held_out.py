"""Which rows of a training file are held out where no file of them is given: a share of them, or one of several folds. (numpy only)

Folds are for cross-validation (Stone, 1974): with config.data.folds=3, the runs of config.data.fold=0, 1 and 2 hold out every row once between them, and
train on the rest. Which row is in which is drawn by seed; sizes differ by one at most, and so do the rows of each class:

    class   a a a a a a b b b c
    fold    1 1 2 0 2 0 1 0 2 0
"""

import numpy as np

from t5x_lite.config import DataConfig
from t5x_lite.data import random
from t5x_lite.errors import UserError


def folds(count: int, data: DataConfig, seed: int, name: str, what: str, classes: np.ndarray | None = None) -> np.ndarray:
    """int64 [count]: the fold of each unit.

    Args:
      name: of the file, for messages.
      what: the units: 'rows', 'sentences'.
      classes: int [count], to be spread evenly.
    """
    if count < data.folds:
        raise UserError(f'{name}: {count:,} {what} are too few for config.data.folds={data.folds}; lower it')
    order = random.permute(np.arange(count), count, random.key(seed, 'tables.folds'))
    if classes is not None:
        order = order[np.argsort(classes[order], kind='stable')]
    found = np.empty(count, np.int64)
    found[order] = np.arange(count) % data.folds
    return found


def units(count: int, data: DataConfig, seed: int, name: str, what: str) -> np.ndarray:
    """bool [count]: the units that are held out, config.data.fold or config.data.validation_fraction of them.

    Raises:
      UserError: too few, or no share.
    """
    if data.folds:
        return folds(count, data, seed, name, what) == data.fold
    fraction = checked_fraction(data)
    number = max(1, round(fraction * count))
    if number >= count:
        raise UserError(f'{name}: {count:,} {what} are too few to set {fraction:.0%} aside for validation; give --config.data.validation=FILE')
    found = np.zeros(count, bool)
    found[random.permute(np.arange(number), count, random.key(seed, 'tables.validation'))] = True
    return found


def checked_fraction(data: DataConfig) -> float:
    fraction = data.validation_fraction
    if not 0 < fraction < 1:
        raise UserError(f'--config.data.validation_fraction={fraction} must lie between 0 and 1; or give --config.data.validation=FILE')
    return fraction


def in_words(data: DataConfig, seed: int) -> str:
    """Why they are held out."""
    return f'held out as fold {data.fold} of 0 to {data.folds - 1}, by seed {seed}' if data.folds else f'set aside for validation by seed {seed}'
