"""Weights of classes, so that rare ones count as much as others: config.data.class_weights. (numpy only)

    class_weights           what an example of class c counts in a mean                     of sets of labels, what a label that is there counts
    ()                      1                                                               1
    balanced                examples / (classes x examples of c), as scikit-learn has it    examples without c / examples with c
    1,2.5                   these numbers, in the order of config.data.labels               these numbers

`balanced` is made numbers once the training examples are read, and the run's config.json holds those.
"""

from collections.abc import Sequence
import math

import numpy as np

from t5x_lite.config import Config, DataConfig
from t5x_lite.data.table_files import is_number
from t5x_lite.errors import UserError

BALANCED = ('balanced',)


def resolved(data: DataConfig, counts: np.ndarray, names: Sequence[str], examples: int = 0) -> tuple[str, ...]:
    """The field with numbers in it.

    Args:
      counts: how many training examples (of tags: tokens) each class has. One that has none weighs 1: it is never a target.
      examples: of sets of labels, how many there are; 0: each example has one class.

    Raises:
      UserError: something else than `balanced` or a number for each class.
    """
    given = _checked(data)
    if given != BALANCED:
        if given and len(given) != len(names):
            raise UserError(
                f'config.data.class_weights has {len(given)} numbers for {len(names)} labels; give one each, in the order {", ".join(names[:20])}, or balanced'
            )
        return given
    counts = np.asarray(counts, np.float64)
    weights = (examples - counts if examples else counts.sum() / len(counts)) / np.maximum(counts, 1)
    return tuple(repr(float(weight)) for weight in np.where(counts > 0, weights, 1.0))


def numbers(config: Config) -> tuple[float, ...]:
    """What a loss multiplies with, () for 1 everywhere; the config is complete.

    Raises:
      UserError: something else than numbers.
    """
    given = _checked(config.data)
    if given == BALANCED:
        raise UserError('config.data.class_weights=balanced is found from training examples, and there are none here; give numbers')
    return tuple(map(float, given))


def _checked(data: DataConfig) -> tuple[str, ...]:
    given = tuple(data.class_weights)
    if given in ((), BALANCED):
        return given
    wrong = [text for text in given if not is_number(text) or not 0 <= float(text) < math.inf]
    if wrong:
        raise UserError(f'config.data.class_weights has {wrong[0]!r}; expected balanced, or finite numbers of at least 0, one a label')
    if not any(map(float, given)):
        raise UserError('config.data.class_weights are all 0, and nothing would count; give some class a weight')
    return given


def say(given: Sequence[str], names: Sequence[str]) -> list[str]:
    """A line for people, or none."""
    shown = [f'{name} {float(weight):.4g}' for name, weight in list(zip(names, given, strict=True))[:20]] if given else []
    return [f'class weights: {", ".join(shown)}' + (', ...' if len(given) > 20 else '')] if shown else []
