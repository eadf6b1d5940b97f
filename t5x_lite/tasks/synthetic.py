"""Tasks made of a seed: sums, in GPT-3's words (Brown et al., 2020, section 3.9.1)."""

from collections.abc import Mapping

import numpy as np

from t5x_lite.data import random
from t5x_lite.tasks.sources import Made
from t5x_lite.tasks.task import Task
from t5x_lite.tasks.text_formats import Example


def addition(digits: int, train: int = 4000, validation: int = 2000, seed: int = 0) -> Task:
    """'Q: What is 48 plus 76?\\nA:' -> '124', numbers drawn uniformly below 10 ** digits.

    No pair of numbers occurs twice, so none of the validation part is in the training part.

    Args:
      train, validation: examples of each part; GPT-3 was judged by 2,000.
    """
    base = 10**digits
    if digits < 1 or train + validation > base**2:
        raise ValueError(f'{train + validation:,} different sums of numbers below {base:,}; there are {base**2:,}')

    def make(split: str) -> list[dict]:
        numbers = np.arange(train) if split == 'train' else np.arange(train, train + validation)
        first, second = np.divmod(random.permute(numbers, base**2, random.key(seed, 'tasks.addition', digits)), base)
        return [{'first': a, 'second': b} for a, b in zip(first.tolist(), second.tolist(), strict=True)]

    return Task(f'addition_{digits}_digits', Made(make), question_of_sum, ('exact_match',), content=('first', 'second'))


def question_of_sum(row: Mapping[str, int]) -> Example:
    # A prompt without content has words for numbers, and no sum.
    a, b = row['first'], row['second']
    return {'inputs': f'Q: What is {a} plus {b}?\nA:', 'targets': str(a + b) if isinstance(a, int) else ''}
