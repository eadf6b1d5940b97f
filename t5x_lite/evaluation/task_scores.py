"""Scores of tasks by what a model writes, or by which class it finds likeliest; after demonstrations too."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from t5x_lite.config import Config, DecodeConfig, Decoding, UserError, resolve
from t5x_lite.evaluation.generation import Generator
from t5x_lite.tasks import examples as task_examples, few_shot, registry
from t5x_lite.tasks.task import Mixture, Task
from t5x_lite.tasks.text_formats import Example


@dataclasses.dataclass(frozen=True)
class Judged:
    """One task: its scores in percent, and what was asked, expected and answered."""

    scores: dict[str, float]
    examples: list[tuple[str, str, str]]


class TaskScores:
    """`scores(task)` of the validation part, by config.decode; `config.eval.examples` bounds how many are answered.

    A model that learnt from tasks is asked as it was taught. Any other, and every model where config.decode.shots is above 0, is given demonstrations from
    the task's training part, and its answers end at a line's end.
    """

    def __init__(self, generator: Generator, config: Config):
        self._generator, self._config = generator, config
        source = resolve(config.data.source, 'config.data.source', 'get') if config.data.source else None
        self._taught = source is task_examples.TaskExamples
        self.tasks = [task for task in task_examples.of_config(config) if task.has('validation')]
        if not self.tasks:
            raise UserError('none of config.data.tasks.names has a validation part to be judged by; add a task that has one')

    def __call__(self, task: Task, decode: DecodeConfig | None = None) -> Judged:
        decode = decode or self._config.decode
        examples = task_examples.examples_of(self._config, task, 'validation')[: self._config.eval.examples or None]
        demonstrated = decode.shots > 0 or not self._taught
        if not demonstrated and not decode.rank and not decode.calibrate:
            return self._written(task, [example['inputs'] for example in examples], examples, decode)
        pool = task_examples.examples_of(self._config, task, 'train') if decode.shots else []
        shots = few_shot.FewShot(task, pool, decode.shots, self._config.seed, joint=' ' if demonstrated else '')
        prompts = [shots.prompt(example, number) for number, example in enumerate(examples)]
        if decode.rank or decode.calibrate:
            return self._ranked(task, shots, prompts, examples, decode)
        return self._written(task, prompts, examples, decode if decode.stop else dataclasses.replace(decode, stop=('\n',)))

    def average(self, scores: dict[str, dict[str, float]]) -> float:
        """Of {task: scores}: the mean over tasks, as the benchmark counts them where the config names one (the halves of MNLI once)."""
        names = self._config.data.tasks.names
        named = registry.find(names[0]) if len(names) == 1 else None
        mixture = named if isinstance(named, Mixture) else Mixture('all', tuple(scores))
        return mixture.average(scores)

    def _written(self, task: Task, prompts: list[str], examples: list[Example], decode: DecodeConfig) -> Judged:
        if decode.method == Decoding.sample:
            decode = dataclasses.replace(decode, samples=1)
        answers = [found[0].text.strip() for found in self._generator(prompts, decode, self._config.seed)]
        return Judged(task.score(answers, examples), [(p, e['targets'], a) for p, e, a in zip(prompts, examples, answers, strict=True)])

    def _ranked(self, task: Task, shots: few_shot.FewShot, prompts: list[str], examples: list[Example], decode: DecodeConfig) -> Judged:
        choices = shots.choices
        scores = self._of_choices(prompts, choices)
        if decode.calibrate:
            free = [shots.content_free(number, example) for number, example in enumerate(examples)]
            each = len(free[0])
            of_free = self._of_choices([prompt for some in free for prompt in some], choices).reshape(len(examples), each, len(choices))
            scores = np.stack([few_shot.calibrated(row, around) for row, around in zip(scores, of_free)])
        answers = [choices[best].strip() for best in scores.argmax(axis=-1)]
        return Judged(
            task.score_choices(scores, examples), [(p, e['targets'], a) for p, e, a in zip(prompts, examples, answers, strict=True)]
        )

    def _of_choices(self, prompts: list[str], choices: tuple[str, ...]) -> np.ndarray:
        """float64 [prompts, choices]: log-probabilities; a prompt that comes twice is read once."""
        distinct = list(dict.fromkeys(prompts))
        found = self._generator.score([prompt for prompt in distinct for _ in choices], list(choices) * len(distinct))
        rows = dict(zip(distinct, np.array([score.log_prob for score in found]).reshape(len(distinct), len(choices))))
        return np.stack([rows[prompt] for prompt in prompts])


def table(rows: Iterable[tuple[str, str, dict[str, float]]]) -> str:
    """Lines of (task, how it was asked, scores)."""
    lines = [f'  {"task":<24} {"asked":<16} scores in percent']
    for task, asked, scores in rows:
        shown = '  '.join(f'{name} {value:.2f}' for name, value in scores.items() if not name.startswith('unparsed'))
        unread = scores['unparsed'] if 'unparsed' in scores else 0
        lines.append(f'  {task:<24} {asked:<16} {shown}' + (f'  ({unread:.0f} answers could not be read: {scores["unparsed_percent"]:.1f} %)' if unread else ''))
    return '\n'.join(lines)
