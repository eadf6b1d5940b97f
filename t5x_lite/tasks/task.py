"""A task: where its examples come from, how they become text, how answers are judged. A mixture: tasks with rates. Plain objects, registered by name.

    Task(
        'reviews', Files(train='reviews.tsv', validation='held_out.tsv'),
        functools.partial(text_formats.from_template, inputs='review: {text}', targets='{stars}'), metrics=('accuracy', 'matthews'),
    )

As seqio's Task and Mixture (Roberts et al., 2022), without TensorFlow.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from t5x_lite.config import Rates
from t5x_lite.data import random
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics_choices
from t5x_lite.tasks import answers
from t5x_lite.tasks.sources import Source
from t5x_lite.tasks.text_formats import UNKNOWN, Example


@dataclasses.dataclass
class Task:
    """Examples of text to text.

    Attributes:
      preprocess: a row (dict) to {'inputs', 'targets', ...}, a list of such, or [] for none. 'references': all right texts, where there are several.
      metrics: names of `answers.METRICS`, or functions (references of each example, texts) -> {name: float}.
      labels: names of the classes in the order of their ids; (): the targets of the training part, sorted.
      postprocess: of a text, a prediction's or a reference's, before it is judged, such as `str.lower`.
      content: columns that hold what a row is about, which a prompt without content replaces (tasks/few_shot.py).
      hold_out: where the source has no validation part, some of its training part is set aside for it.
    """

    name: str
    source: Source
    preprocess: Callable[[Example], Example | list[Example]]
    metrics: Sequence[str | Callable] = ('exact_match',)
    labels: Sequence[str] = ()
    postprocess: Callable[[str], str] | None = None
    content: Sequence[str] = ()
    hold_out: bool = True

    def __post_init__(self):
        self._tfds_dir = ''
        for metric in self.metrics:
            self._said(lambda metric=metric: answers.metric(metric))

    def has(self, split: str) -> bool:
        return split in self.source.splits or (split == 'validation' and self.hold_out and 'train' in self.source.splits)

    def rows(self, split: str, *, seed: int = 0, fraction: float = 0.1, tfds_dir: str | None = None) -> list[tuple[str, Example]]:
        """(where, row) as the source has them.

        Args:
          seed, fraction: of the training rows that are set aside, where the source has no validation part.
          tfds_dir: where TFDS keeps its data; None: as of the last call, at first its default.
        """
        self._tfds_dir = self._tfds_dir if tfds_dir is None else tfds_dir
        if not self.has(split):
            raise UserError(f'task {self.name} has no {split} part, only {", ".join(self.source.splits)}')
        aside = 'validation' not in self.source.splits and self.hold_out and split in ('train', 'validation')
        rows = self.source.read('train' if aside else split, self._tfds_dir)
        if aside:
            count = round(fraction * len(rows))
            if not 0 < count < len(rows):
                raise UserError(
                    f'task {self.name}: {fraction:.0%} of its {len(rows):,} training rows cannot be set aside for validation; '
                    'give it a validation part, or change --config.data.validation_fraction'
                )
            chosen = np.zeros(len(rows), bool)
            chosen[random.permute(np.arange(count), len(rows), random.key(seed, 'tasks.validation'))] = True
            rows = [row for row, held_out in zip(rows, chosen.tolist(), strict=True) if held_out == (split == 'validation')]
        return rows

    def examples(self, split: str, *, seed: int = 0, fraction: float = 0.1, tfds_dir: str | None = None) -> list[Example]:
        """Dicts with 'inputs', 'targets', 'references' and what the metrics need, in the order of the source. Arguments as of `rows`.

        Raises:
          UserError: naming the task, and file and line.
        """
        made = self._made(self.rows(split, seed=seed, fraction=fraction, tfds_dir=tfds_dir))
        if not made:
            raise UserError(f'task {self.name}: its {split} part holds no example')
        return made

    def _made(self, rows: Sequence[tuple[str, Example]]) -> list[Example]:
        made = []
        for where, row in rows:
            found = self._said(lambda row=row: self.preprocess(row), where)
            for example in [found] if isinstance(found, Mapping) else found:
                for key in ('inputs', 'targets'):
                    if not isinstance(example.get(key), str):
                        raise UserError(f'task {self.name}: {where}: {key} is {example.get(key)!r}, not a text; mend the preprocessing or the row')
                made.append({'references': [example['targets']], **example})
        return made

    @property
    def has_classes(self) -> bool:
        """Whether answers are one of a few labels."""
        return bool(self.labels) or any('label' in answers.metric(metric).reading for metric in self.metrics)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        # All that can be learnt from, whatever is set aside: they do not depend on a seed.
        return tuple(self.labels) or tuple(sorted({example['targets'] for example in self._made(self.source.read('train', self._tfds_dir))}))

    def check(self, examples: Sequence[Example]) -> None:
        """Raises UserError where a metric cannot read a target, before a model has learnt for nothing. Examples without a published answer pass."""
        for named in self.metrics:
            metric = answers.metric(named)
            reading, classes = answers.READINGS[metric.reading], self.classes if 'label' in metric.reading else ()
            for number, example in enumerate(examples):
                if example['references'] and UNKNOWN not in (example['targets'], *example['references'][:1]):
                    self._said(lambda example=example: reading.target(example, classes), f'example {number}, metric {named}')

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
        """Percentages of all metrics; 'unparsed' and 'unparsed_percent': predictions that could not be read, which count as wrong.

        Args:
          predictions: texts. examples: those they answer, from `examples`.

        Raises:
          UserError: no references to hold them against.
        """
        for number, example in enumerate(examples):
            if not example['references'] or UNKNOWN in (example['targets'], *example['references'][:1]):
                raise UserError(f'task {self.name}: example {number} has no published answer, so nothing can be scored; use the validation part')
        if self.postprocess:
            predictions = [self.postprocess(text) for text in predictions]
            examples = [
                example | {'targets': self.postprocess(example['targets']), 'references': list(map(self.postprocess, example['references']))}
                for example in examples
            ]
        scores: dict[str, float] = {}
        unread: set[int] = set()
        for named in self.metrics:
            metric = answers.metric(named)
            found, missed = self._judge(metric, predictions, examples)
            twice = scores.keys() & found.keys()
            if twice:
                raise UserError(f'task {self.name}: two of its metrics give {min(twice)!r}; leave one of them out')
            scores |= found
            unread |= missed
        return scores | {'unparsed': float(len(unread)), 'unparsed_percent': 100 * len(unread) / len(predictions)}

    def score_choices(self, scores: Any, examples: Sequence[Example], lengths: Any = None) -> dict[str, float]:
        """Percentages where the likeliest of the classes is the answer: nothing has to be read (see `metrics_choices.rank_classification`).

        Args:
          scores: [n, classes] log-probabilities of each class as a continuation. lengths: [classes] tokens of each, to divide by; None: as they are.
        """
        scores, count = np.asarray(scores, np.float64), len(self.classes)
        targets = np.array([self._said(lambda example=example: answers.READINGS['label'].target(example, self.classes)) for example in examples], np.int64)
        if scores.shape != (len(examples), count):
            raise UserError(f'task {self.name}: scores {scores.shape} of {len(examples)} examples with {count} classes')
        pairs = np.repeat(np.arange(len(examples)), count), np.tile(np.arange(count), len(examples))
        right = (targets[:, None] == np.arange(count)).reshape(-1)
        each = None if lengths is None else np.tile(np.asarray(lengths), len(examples))
        return self._said(lambda: metrics_choices.rank_classification(*pairs, right, scores.reshape(-1), lengths=each, num_classes=count))

    def _judge(self, metric: answers.Metric, predictions: Sequence[str], examples: Sequence[Example]) -> tuple[dict[str, float], set[int]]:
        reading = answers.READINGS[metric.reading]
        classes = self.classes if 'label' in metric.reading else ()
        if metric.classes > 0 and len(classes) != metric.classes:
            raise UserError(f'task {self.name}: f1 is of two classes, and here are {len(classes)}; use macro_f1')

        def judge():
            if len(predictions) != len(examples):
                raise ValueError(f'{len(predictions)} predictions for {len(examples)} examples')
            targets = [reading.target(example, classes) for example in examples]
            found = [reading.prediction(text, example, classes) for text, example in zip(predictions, examples, strict=True)]
            missed = {number for number, value in enumerate(found) if value is None}
            found = [reading.missing if value is None else value for value in found]
            return metric.function(targets, found, *[len(classes)] * (metric.classes < 0)), missed

        return self._said(judge)

    def _said(self, work: Callable, where: str = '') -> Any:
        """The result of `work`, its errors with the name of the task in front."""
        place = f'task {self.name}: {where}: ' if where else f'task {self.name}: '
        try:
            return work()
        except KeyError as error:
            raise UserError(f'{place}the row has no column {error}; is it the right file or data set?') from error
        except (ValueError, TypeError, IndexError, AttributeError) as error:  # of a row that is not what the preprocessing expects
            raise UserError(f'{place}{error}') from error


@dataclasses.dataclass
class Mixture:
    """Tasks, or mixtures of them, with rates.

    Attributes:
      parts: names; or {name: rate} for `rates` given, where 0 is for validation only.
      groups: of tasks that count once in the benchmark's average, such as the two halves of MNLI.
    """

    name: str
    parts: Sequence[str] | Mapping[str, float]
    rates: Rates | None = None  # None: given where parts have rates, else proportional
    maximum: int = 2**19
    temperature: float = 1.0
    groups: Sequence[Sequence[str]] = ()

    def __post_init__(self):
        if self.rates is None:
            self.rates = Rates.given if isinstance(self.parts, Mapping) else Rates.proportional
        if not self.parts:
            raise UserError(f'mixture {self.name} holds no task')
        if self.rates == Rates.given and not isinstance(self.parts, Mapping):
            raise UserError(f'mixture {self.name}: its rates are given, and parts have none; write them as {{name: rate}}')

    def average(self, scores: Mapping[str, Mapping[str, float]]) -> float:
        """Of {task: scores}: each task counts as the mean of its metrics, each of `groups` as one task. What is not a score (unparsed) stays out."""
        # A correlation that is none, since all answers are one, counts as 0: it must not take the rest with it.
        means = {
            task: np.mean(np.nan_to_num([value for name, value in found.items() if not name.startswith('unparsed')])) for task, found in scores.items()
        }
        grouped = [group for group in self.groups if set(group) <= means.keys()]
        alone = [(task,) for task in means if not any(task in group for group in grouped)]
        return float(np.mean([np.mean([means[task] for task in group]) for group in (*grouped, *alone)]))
