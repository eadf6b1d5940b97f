"""What a generated text answers: a class, a number, a span, entities; and the metrics by name, each with the way it reads texts.

What cannot be read (no such class, no number) is wrong and counted: it is None here, and a metric gets the reading's `missing` for it.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

from t5x_lite.errors import UserError, nearest
from t5x_lite.evaluation import metrics_text
from t5x_lite.tasks import named_entities
from t5x_lite.tasks.text_formats import Example

Classes = Sequence[str]
_DETERMINERS = frozenset(
    'a an few her his each every many much my our some that the their these this those which whose your'.split()
)


def label(text: str, classes: Classes, missing: Any = None) -> Any:
    """The number of the class of exactly this name."""
    return list(classes).index(text) if text in classes else missing


def number(text: str, missing: Any = None) -> Any:
    """What Python's `float` takes, as in '3', '3.8', '10.', ' 1e3 ', 'nan'."""
    try:
        return float(text)
    except ValueError:
        return missing


def span(text: str) -> tuple[int, int] | None:
    """(2, 3) of 'start: 2 end: 3': the second and the fourth word, whatever the others are and whatever stands between them."""
    words = metrics_text.words_of(text)
    try:
        return (int(words[1]), int(words[3])) if len(words) > 3 else None
    except ValueError:
        return None


def same_referent(text: str, referent: str) -> int | None:
    """1 where one of the two has all words of the other, determiners aside, and both or neither has an apostrophe; None for a text without words.

    'fuzzy bunny' is the bunny; 'Bob's hat' is not Bob, nor are 'the boys'' the boys. Punctuation stays with its word. T5's rule for WSC (Raffel et al.,
    2020, section 2.4).
    """
    found, meant = (' '.join(word for word in part.strip().lower().split(' ') if word not in _DETERMINERS) for part in (text, referent))
    if not found:
        return None
    if ("'" in found) != ("'" in meant):
        return 0
    found, meant = set(found.split(' ')), set(meant.split(' '))
    return int(found <= meant or meant <= found)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a metric reads examples and predictions."""

    target: Callable[[Example, Classes], Any]
    prediction: Callable[[str, Example, Classes], Any]
    missing: Any = None  # instead of what could not be read


def _of_group(read: Callable[[Example, Classes], Any], *keys: str) -> Callable[[Example, Classes], Any]:
    def target(example, classes):
        found = [example[key] for key in keys]
        return {'value': read(example, classes), 'group': found[0] if len(found) == 1 else found}

    return target


def _class_of_target(example: Example, classes: Classes) -> int:
    found = label(example['targets'], classes)
    if found is None:
        raise UserError(f'the target {example["targets"]!r} is none of the classes ({", ".join(classes)})')
    return found


def _finite(text: str) -> float | None:
    """One 'nan' would be the correlation of all the others."""
    found = number(text)
    return found if found is not None and math.isfinite(found) else None


def _value(example: Example, classes: Classes) -> float:
    found = example['value'] if 'value' in example else _finite(example['targets'])
    if found is None:
        raise UserError(f'the target {example["targets"]!r} is not a number')
    return float(found)


READINGS = {
    'text': Reading(lambda example, _: example['references'], lambda text, *_: text),
    'label': Reading(_class_of_target, lambda text, _, classes: label(text, classes), -1),
    'number': Reading(_value, lambda text, *_: _finite(text), -1.0),
    'referent': Reading(lambda example, _: int(example['label']), lambda text, example, _: same_referent(text, example['targets']), -1),
    'span': Reading(lambda example, _: {'answers': example['answers'], 'context': example['context']}, lambda text, *_: span(text)),
    'entities': Reading(lambda example, _: example['entities'], lambda text, *_: named_entities.parse(text), ()),
    'label of a question': Reading(_of_group(_class_of_target, 'idx/question'), lambda text, _, classes: label(text, classes), -1),
    'text of a query': Reading(_of_group(lambda example, _: example['answers'], 'idx/passage', 'idx/query'), lambda text, *_: text),
}


@dataclasses.dataclass(frozen=True)
class Metric:
    function: Callable[..., dict[str, float]]
    reading: str = 'text'
    classes: int = 0  # how many it needs; -1: any number, which the function is given


METRICS = {
    'accuracy': Metric(metrics_text.accuracy, 'label'),
    'f1': Metric(metrics_text.binary_f1, 'label', 2),
    'macro_f1': Metric(metrics_text.macro_f1, 'label', -1),
    'matthews': Metric(metrics_text.matthews, 'label'),
    'pearson': Metric(metrics_text.pearson, 'number'),
    'spearman': Metric(metrics_text.spearman, 'number'),
    'exact_match': Metric(metrics_text.exact_match),
    'sequence_accuracy': Metric(metrics_text.sequence_accuracy),
    'bleu': Metric(metrics_text.bleu),
    'bleu_13a': Metric(metrics_text.bleu_13a),
    'chrf': Metric(metrics_text.chrf),
    'rouge': Metric(metrics_text.rouge),
    'squad': Metric(metrics_text.squad),
    'trivia_qa': Metric(metrics_text.trivia_qa),
    'coqa_f1': Metric(metrics_text.coqa_f1),
    'span_squad': Metric(metrics_text.span_squad, 'span'),
    'multirc': Metric(metrics_text.multirc, 'label of a question'),
    'record': Metric(metrics_text.record, 'text of a query'),
    'referent_accuracy': Metric(metrics_text.accuracy, 'referent'),
    'entities': Metric(metrics_text.entities, 'entities'),
}


def metric(named: str | Callable) -> Metric:
    """A metric by name, or one of yours: a function (references of each example, texts) -> {name: float}."""
    if callable(named):
        return Metric(named)
    if named not in METRICS:
        raise UserError(f'no metric {named!r}, {nearest(named, METRICS)}')
    return METRICS[named]
