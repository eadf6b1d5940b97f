"""Which rows of a file a split reads; of a training file, which are held out where no file of them is given: a share, or one of several folds. (numpy only)

Folds are for cross-validation (Stone, 1974): with config.data.folds=3, the runs of config.data.fold=0, 1 and 2 hold out every row once between them, and
train on the rest. Which row is in which is drawn by seed; sizes differ by one at most, and so do the rows of each class:

    class   a a a a a a b b b c
    fold    1 1 2 0 2 0 1 0 2 0
"""

import numpy as np

from t5x_lite.config import DataConfig
from t5x_lite.data import random
from t5x_lite.data.in_epochs import subset
from t5x_lite.errors import UserError


def rows_of(
    split: str, count: int, data: DataConfig, seed: int, name: str, what: str, labels: np.ndarray | None = None, units: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """(int64 [n]: the rows of a file that a split reads, in their order; what there is to say of them, '; without the 4 set aside ...', or '').

    Args:
      split: 'train' or 'validation'.
      count: rows of the file.
      name: of the file, for messages.
      what: its rows, or what they are about: 'rows', 'sentences', 'contexts'.
      labels: of `set_aside`.
      units: int [count], what each row is about, counted from 0: rows about the same are held out together, or not at all.

    Raises:
      UserError: of `set_aside`, or config.data.max_examples exceeds what there is to learn from.
    """
    rows, said = np.arange(count), ''
    if not data.validation:
        chosen = set_aside(count if units is None else int(units.max()) + 1, data, seed, name, what, labels)
        rows = rows[(chosen if units is None else chosen[units]) == (split == 'validation')]
        number = f'the {chosen.sum():,}' if units is None else f'those about {chosen.sum():,} of {len(chosen):,} {what},'
        said = f'; {"here are" if split == "validation" else "without"} {number} {_in_words(data, seed)}'
    if split == 'train' and data.max_examples:
        rows = subset(rows, data.max_examples, seed, name)
        said += f'; a subset of {len(rows):,} by seed {seed}'
    return rows, said


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


def set_aside(count: int, data: DataConfig, seed: int, name: str, what: str, labels: np.ndarray | None = None) -> np.ndarray:
    """bool [count]: the units that are held out, config.data.fold or config.data.validation_fraction of them.

    Args:
      labels: int [count], classes: each is held out in proportion, and one of each at least is left to learn from (by folds, only if it has two). Numbers
        (float [count]) and sets of labels ([count, num_labels]) say nothing of that.

    Raises:
      UserError: too few, or no share.
    """
    classes = labels if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) else None
    if data.folds:
        if classes is not None and (np.bincount(classes) > 1).sum() < 2:
            raise UserError(f'{name}: but for single rows all are of one class, and without a fold (config.data.folds) only that may be left; give more rows')
        return folds(count, data, seed, name, what, classes) == data.fold
    fraction = data.validation_fraction
    if not 0 < fraction < 1:
        raise UserError(f'--config.data.validation_fraction={fraction} must lie between 0 and 1; or give --config.data.validation=FILE')
    order = random.permute(np.arange(count), count, random.key(seed, 'tables.validation'))
    if classes is not None:
        order = order[np.argsort(classes[order], kind='stable')]
        order = np.delete(order, np.unique(classes[order], return_index=True)[1])
    number = max(1, round(fraction * count))
    if number > len(order) - (classes is None):
        raise UserError(f'{name}: {count:,} {what} are too few to set {fraction:.0%} aside for validation; give --config.data.validation=FILE')
    # Evenly spaced in an order sorted by class: every class gives its share. In one drawn by seed any are as good as the first.
    places = np.arange(number) if labels is None else ((np.arange(number) + 0.5) * len(order) / number).astype(np.int64)
    found = np.zeros(count, bool)
    found[order[places]] = True
    return found


def _in_words(data: DataConfig, seed: int) -> str:
    """Why they are held out."""
    return f'held out as fold {data.fold} of 0 to {data.folds - 1}, by seed {seed}' if data.folds else f'set aside for validation by seed {seed}'
