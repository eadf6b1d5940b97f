"""Prompts for a model that was not tuned: demonstrations in front of a question (Brown et al., 2020, section 2), zero, one or a few.

    shots = FewShot(task, examples_of(config, task, 'train'), shots=2, seed=0)
    shots.prompt(example, 7)          'review: dull\\nlabel: 0\\n\\nreview: fine\\nlabel: 1\\n\\nreview: great fun\\nlabel:'
    shots.choices                     (' 0', ' 1'): what may follow, for ranking by likelihood
    shots.content_free(7)             the same demonstrations, then a question about nothing, for calibration (Zhao et al., 2021)

The space between prompt and answer belongs to the answer: so tokenizers with pieces like ' 0' have seen it.
"""

from collections.abc import Sequence

import numpy as np

from t5x_lite.data import random
from t5x_lite.errors import UserError
from t5x_lite.tasks.task import Task
from t5x_lite.tasks.text_formats import Example

CONTENT_FREE = ('N/A', '[MASK]', '')  # Zhao et al. (2021), section 5


class FewShot:
    """Prompts of a task. Which demonstrations a question gets is a function of (seed, its number); a demonstration is never the question itself.

    Raises:
      UserError: more demonstrations than the training part holds.
    """

    def __init__(
        self,
        task: Task,
        pool: Sequence[Example],
        shots: int,
        seed: int = 0,
        *,
        same: bool = False,
        instruction: str = '',
        separator: str = '\n\n',
        joint: str = ' ',
    ):
        """
        Args:
          pool: what demonstrations are drawn from, the task's training part (where none is published, without what the run sets aside).
          same: the same demonstrations for every question (which `calibrated` needs no more than once, then).
          instruction: in front of everything, its separator included.
          separator: between demonstrations. joint: between a question and its answer.
        """
        if shots < 0:
            raise UserError(f'{shots} demonstrations; config.decode.shots must be at least 0')
        self.task, self.shots, self._seed, self._same = task, shots, seed, same
        self._instruction, self._separator, self._joint = instruction, separator, joint
        self._pool = list(pool)
        if len(self._pool) < shots:
            raise UserError(f'task {task.name}: {shots} demonstrations from a training part of {len(self._pool)}; lower --config.decode.shots')

    @property
    def choices(self) -> tuple[str, ...]:
        """What may follow a prompt, in the order of the task's classes."""
        return tuple(self._joint + name for name in self.task.classes)

    def answer(self, example: Example) -> str:
        """What should follow the prompt."""
        return self._joint + example['targets']

    def demonstrations(self, example: Example, number: int = 0) -> list[Example]:
        """Of the question of this number, in order; none whose inputs are the question's."""
        found: list[Example] = []
        root = random.key(self._seed, 'tasks.few_shot', self.task.name, 0 if self._same else number)
        start = 0
        while len(found) < self.shots:
            if start >= len(self._pool):
                raise UserError(
                    f'task {self.task.name}: fewer than {self.shots} training examples differ from question {number}; lower --config.decode.shots'
                )
            some = np.arange(start, min(len(self._pool), start + 2 * self.shots))
            drawn = [self._pool[place] for place in random.permute(some, len(self._pool), root).tolist()]
            found += [demonstration for demonstration in drawn if demonstration['inputs'] != example['inputs']]
            start += len(some)
        return found[: self.shots]

    def prompt(self, example: Example, number: int = 0) -> str:
        """Up to where the answer begins, which `answer` or one of `choices` continues."""
        return self._joined(self.demonstrations(example, number), example['inputs'])

    def content_free(self, number: int = 0, example: Example | None = None) -> list[str]:
        """The prompt of question `number` with a question about nothing, one for each of CONTENT_FREE: what a model answers by bias alone.

        Args:
          example: question `number`, so that the same demonstrations come; None: those of a question that is none of the pool.
        """
        demonstrations = self.demonstrations(example or {'inputs': None}, number)
        return [self._joined(demonstrations, text) for text in self._empty_questions()]

    def _empty_questions(self) -> list[str]:
        if not self.task.content:
            raise UserError(f'task {self.task.name} does not say which columns hold content, so no prompt is free of it; give content=(...)')
        split = 'train' if self.task.has('train') else 'validation'
        _, row = self.task.rows(split)[0]
        made = []
        for text in CONTENT_FREE:
            found = self.task.preprocess(row | {column: text for column in self.task.content if column in row})
            made.append((found if isinstance(found, dict) else found[0])['inputs'])
        return made

    def _joined(self, demonstrations: Sequence[Example], question: str) -> str:
        shown = [f'{example["inputs"]}{self._joint}{example["targets"]}' for example in demonstrations]
        return self._instruction + self._separator.join([*shown, question])


def calibrated(scores: np.ndarray, free: np.ndarray) -> np.ndarray:
    """float64 [C]: scores of choices minus the logarithm of their mean probability after prompts without content (Zhao et al., 2021, section 5).

    Args:
      scores: [C] log-probabilities after the question. free: [prompts, C] after prompts without content.
    """
    scores, free = np.asarray(scores, np.float64), np.atleast_2d(np.asarray(free, np.float64))
    if free.shape[1:] != scores.shape:
        raise ValueError(f'{scores.shape} scores, and {free.shape} of prompts without content; expected as many choices')
    # The mean in logarithms: a choice that is never likely must not become log 0.
    return _log_shares(scores) - (np.logaddexp.reduce(_log_shares(free), axis=0) - np.log(len(free)))


def _log_shares(scores: np.ndarray) -> np.ndarray:
    """Logarithms of shares among the choices."""
    highest = scores.max(-1, keepdims=True)
    return scores - highest - np.log(np.exp(scores - highest).sum(-1, keepdims=True))
