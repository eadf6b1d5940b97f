"""How a task is put to a language model: as it was taught, or by demonstrations; and which of its classes the model finds likeliest."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from t5x_lite.config import Config, DecodeConfig
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation.generation import Generator
from t5x_lite.tasks import examples as task_examples, few_shot
from t5x_lite.tasks.task import Task
from t5x_lite.tasks.text_formats import Example


def as_taught(config: Config, decode: DecodeConfig) -> bool:
    """Whether the model learnt from tasks, and is asked as it was then: without demonstrations."""
    source = resolve(config.data.source, 'config.data.source', 'get') if config.data.source else None
    return isinstance(source, type) and issubclass(source, task_examples.TaskExamples) and not decode.shots


def prompts_of(config: Config, task: Task, decode: DecodeConfig) -> tuple[few_shot.FewShot, DecodeConfig]:
    """What makes the prompts of a task, with demonstrations from its training part, and `decode` with the end of answers in it.

    A model that learnt from tasks is asked as it was taught. Any other, and every model where decode.shots is above 0, has answers that end at a line's end.

    Raises:
      UserError: a task without classes to rank, too few demonstrations.
    """
    ranks, taught = decode.rank or decode.calibrate, as_taught(config, decode)
    if ranks and not task.has_classes:
        raise UserError(f'task {task.name} has no classes to rank; leave config.decode.rank and config.decode.calibrate out, or the task')
    pool = task_examples.examples_of(config, task, 'train') if decode.shots else []
    if not taught and not decode.stop and not ranks:
        decode = dataclasses.replace(decode, stop=('\n',))
    return few_shot.FewShot(task, pool, decode.shots, config.seed, joint='' if taught else ' '), decode


def choice_scores(
    generator: Generator, shots: few_shot.FewShot, decode: DecodeConfig, examples: Sequence[Example], first: int = 0
) -> np.ndarray:
    """float64 [examples, classes]: log-probabilities of the classes after each prompt; over those after prompts without content where decode.calibrate.

    Args:
      first: the number of the first example, by which its demonstrations are drawn.
    """
    choices, numbered = shots.choices, list(enumerate(examples, first))
    scores = _log_probs(generator, [shots.prompt(example, number) for number, example in numbered], choices)
    if not decode.calibrate:
        return scores
    free = [shots.content_free(number, example) for number, example in numbered]
    of_free = _log_probs(generator, [prompt for some in free for prompt in some], choices).reshape(len(examples), -1, len(choices))
    return np.stack([few_shot.calibrated(row, around) for row, around in zip(scores, of_free)])


def _log_probs(generator: Generator, prompts: list[str], choices: Sequence[str]) -> np.ndarray:
    """float64 [prompts, choices]; a prompt that comes twice is read once."""
    distinct = list(dict.fromkeys(prompts))
    found = generator.score([prompt for prompt in distinct for _ in choices], list(choices) * len(distinct))
    rows = dict(zip(distinct, np.array([score.log_prob for score in found]).reshape(len(distinct), len(choices))))
    return np.stack([rows[prompt] for prompt in prompts])
