"""Scores of tasks by what a model writes, or by which class it finds likeliest; after demonstrations too."""

from collections.abc import Iterable
import dataclasses
from typing import Any

from jax.sharding import Mesh

from t5x_lite.config import Config, DecodeConfig, Decoding
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.errors import UserError
from t5x_lite.evaluation import asking
from t5x_lite.evaluation.generation import Generator
from t5x_lite.tasks import examples as task_examples, few_shot, registry
from t5x_lite.tasks.task import Mixture, Task
from t5x_lite.tasks.text_formats import Example


@dataclasses.dataclass(frozen=True)
class Judged:
    """One task: its scores in percent, and what was asked, expected and answered."""

    scores: dict[str, float]
    examples: list[tuple[str, str, str]]


@dataclasses.dataclass(frozen=True)
class Questions:
    """One task's prompts, and how they are to be answered."""

    task: Task
    decode: DecodeConfig
    shots: few_shot.FewShot
    prompts: list[str]
    examples: list[Example]


class TaskScores:
    """`scores(scores.questions(task, decode))` of the validation part; `config.eval.examples` bounds how many are answered.

    How it is asked, `asking.prompts_of` says.
    """

    def __init__(self, generator: Generator, config: Config):
        self._generator, self._config = generator, config
        self.tasks = [task for task in task_examples.of_config(config) if task.has('validation')]
        if not self.tasks:
            raise UserError('none of config.data.tasks.names has a validation part to be judged by; add a task that has one')

    def asked(self, decode: DecodeConfig) -> str:
        """How, in words."""
        how = 'as taught' if asking.as_taught(self._config, decode) else f'{decode.shots} shots'
        return how + (', calibrated' if decode.calibrate else ', ranked' if decode.rank else '')

    def questions(self, task: Task, decode: DecodeConfig) -> Questions:
        """What a task is asked, checked: nothing of it is left to go wrong once the model runs.

        Raises:
          UserError: a task without classes to rank, too few demonstrations, a prompt that the model cannot take, by task and example.
        """
        shots, decode = asking.prompts_of(self._config, task, decode)
        examples = self._chosen(task)
        prompts = [shots.prompt(example, number) for number, example in enumerate(examples)]
        for number, prompt in enumerate(prompts):
            try:
                self._generator.check(prompt, decode)
            except UserError as error:
                with_shots = f' with {decode.shots} demonstrations' if decode.shots else ''
                raise UserError(f'task {task.name}: example {number}{with_shots}: {error}') from error
        return Questions(task, decode, shots, prompts, examples)

    def _chosen(self, task: Task) -> list[Example]:
        examples, count = task_examples.examples_of(self._config, task, 'validation'), self._config.eval.examples
        if not count or any(name.startswith('idx/') for name in examples[0]):
            return examples[: count or None]  # those that are judged together, such as the answers to a question of MultiRC, follow each other
        return task_examples.subset(examples, count, self._config.seed, task.name)

    def __call__(self, questions: Questions) -> Judged:
        return self._ranked(questions) if questions.decode.rank or questions.decode.calibrate else self._written(questions)

    def average(self, scores: dict[str, dict[str, float]]) -> float:
        """Of {task: scores}: the mean over tasks, as the benchmark counts them where the config names one (the halves of MNLI once)."""
        names = self._config.data.tasks.names
        named = registry.find(names[0]) if len(names) == 1 else None
        mixture = named if isinstance(named, Mixture) else Mixture('all', tuple(scores))
        return mixture.average(scores)

    def _written(self, questions: Questions) -> Judged:
        task, decode, prompts, examples = questions.task, questions.decode, questions.prompts, questions.examples
        if decode.method == Decoding.sample:
            decode = dataclasses.replace(decode, samples=1)
        answers = [found[0].text.strip() for found in self._generator(prompts, decode, self._config.seed)]
        return Judged(task.score(answers, examples), [(p, e['targets'], a) for p, e, a in zip(prompts, examples, answers, strict=True)])

    def _ranked(self, questions: Questions) -> Judged:
        task, shots, prompts, examples = questions.task, questions.shots, questions.prompts, questions.examples
        scores = asking.choice_scores(self._generator, shots, questions.decode, examples)
        answers = [shots.choices[best].strip() for best in scores.argmax(axis=-1)]
        return Judged(
            task.score_choices(scores, examples), [(p, e['targets'], a) for p, e, a in zip(prompts, examples, answers, strict=True)]
        )

    def of_targets(self, questions: Questions) -> dict[str, float]:
        """The scores of right answers."""
        task, examples = questions.task, questions.examples
        if not (questions.decode.rank or questions.decode.calibrate):
            return task.score([example['targets'] for example in examples], examples)
        return task.score_choices([[float(example['targets'] == name) for name in task.classes] for example in examples], examples)


class WhileTraining:
    """`judge(params)` -> {'sst2/accuracy': 91.2, ..., 'average': 88.0}: what a model in training answers, of each task
    config.eval.examples_while_training, asked as config.decode says.

    Raises:
      UserError: what `TaskScores.questions` finds wrong, before anything is learnt.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, mesh: Mesh):
        self._generator = Generator(config, None, tokenizer, mesh, config.eval.batch_size or config.batch_size)
        limited = dataclasses.replace(config, eval=dataclasses.replace(config.eval, examples=config.eval.examples_while_training))
        self._scorer = TaskScores(self._generator, limited)
        self._questions = [self._scorer.questions(task, config.decode) for task in self._scorer.tasks]

    @staticmethod
    def wanted(config: Config) -> bool:
        return config.eval.examples_while_training > 0 and bool(config.data.tasks.names or config.data.tasks.inputs)

    @property
    def metrics(self) -> list[str]:
        """The names that a call gives, found with right answers."""
        right = {asked.task.name: self._scorer.of_targets(asked) for asked in self._questions}
        return list(self._flat(right))

    def __call__(self, params: Any) -> dict[str, float]:
        self._generator.params = params
        return self._flat({asked.task.name: self._scorer(asked).scores for asked in self._questions})

    def _flat(self, scores: dict[str, dict[str, float]]) -> dict[str, float]:
        flat = {f'{task}/{metric}': value for task, found in scores.items() for metric, value in found.items()}
        return flat | ({'average': self._scorer.average(scores)} if len(scores) > 1 else {})


def table(rows: Iterable[tuple[str, str, dict[str, float]]]) -> str:
    """Lines of (task, how it was asked, scores)."""
    lines = [f'  {"task":<24} {"asked":<16} scores in percent']
    for task, asked, scores in rows:
        shown = '  '.join(f'{name} {value:.2f}' for name, value in scores.items() if not name.startswith('unparsed'))
        unread = scores['unparsed'] if 'unparsed' in scores else 0
        lines.append(f'  {task:<24} {asked:<16} {shown}' + (f'  ({unread:.0f} answers could not be read: {scores["unparsed_percent"]:.1f} %)' if unread else ''))
    return '\n'.join(lines)
