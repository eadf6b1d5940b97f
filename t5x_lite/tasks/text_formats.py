"""Examples as text: pure functions dict -> {'inputs', 'targets', and what metrics need}, exact to the character of T5's code (Raffel et al., 2020).

A function gives one dict, a list of them (several examples of one row), or [] (a row that is none). Labels are class ids, -1 where they are not published.
Questions are in tasks/questions.py, pronouns in tasks/pronouns.py.

    sentence_pair = {'sentence1': 'He left.', 'sentence2': 'He has left.', 'label': 1, 'idx': 7}
    classification(sentence_pair, 'mrpc', ('not_equivalent', 'equivalent'))
        inputs   'mrpc sentence1: He left. sentence2: He has left.'
        targets  'equivalent'
"""

from collections.abc import Mapping, Sequence
import math
import re
import string
from typing import Any

import numpy as np

from t5x_lite.errors import UserError, nearest
from t5x_lite.tasks import languages

Example = dict[str, Any]
UNKNOWN = '<unk>'  # target of an example whose label is not published


def classification(example: Mapping[str, Any], name: str, labels: Sequence[str], features: Sequence[str] = (), index: str = 'idx') -> Example:
    """GLUE's and SuperGLUE's: 'name feature: text feature: text' -> the label's name.

    Args:
      features: (): all but label and index, sorted by name.

    Raises:
      UserError: a label that is neither -1 nor the number of a class.
    """
    features = features or sorted(key for key in example if key not in ('label', index))
    inputs = ' '.join([name, *(f'{feature}: {example[feature]}' for feature in features)])
    if name == 'multirc':  # its paragraphs are marked up
        inputs = re.sub('</?b>', '', inputs.replace('<br>', ' '))
    return {'inputs': inputs, 'targets': label_name(example['label'], labels)} | _index(example, index)


def label_name(label: Any, labels: Sequence[str]) -> str:
    """Of the number of a class; -1 is a label that is not published: '<unk>'."""
    try:
        number = int(label)
    except (TypeError, ValueError, OverflowError):  # a text, None, nan
        number = None
    if number is None or not -1 <= number < len(labels) or isinstance(label, float) and label != number:
        raise UserError(f'label {label!r} is no class; expected {_counted(labels)}, or -1 for none')
    return UNKNOWN if number < 0 else labels[number]


def _counted(labels: Sequence[str]) -> str:
    return ', '.join(f'{number} ({label})' for number, label in enumerate(labels))


def _index(example: Mapping[str, Any], index: str) -> Example:
    """'idx', or 'idx/part' of each part of one."""
    if index not in example:
        return {}
    found = example[index]
    return {f'idx/{part}': value for part, value in found.items()} if isinstance(found, Mapping) else {'idx': found}


def stsb_target(score: float) -> str:
    """The nearest multiple of 0.2 as text: regression as 26 strings. In float32, ties to even: 1.66 -> '1.6', 0.3 -> '0.4'."""
    # np.round at zero places is the rule itself; float32 throughout, as ties depend on it.
    return f'{np.round(np.float32(score) * np.float32(5)) / np.float32(5):.1f}'


def stsb(example: Mapping[str, Any]) -> Example:
    """A pair with a score of 0 to 5. A score below 0 is none that is published: the target is '-1.0' all the same, as in T5's code; there is no reference.

    Raises:
      UserError: a score that is not a finite number.
    """
    inputs = f'stsb sentence1: {example["sentence1"]} sentence2: {example["sentence2"]}'
    try:
        score = float(example['label'])
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f'score {example["label"]!r} is not a number; give one of 0 to 5, or -1 for none')
    # Scores are held against what people said, not against its rounding.
    made = {'inputs': inputs, 'targets': stsb_target(score), 'value': score} | _index(example, 'idx')
    return made | {'references': [UNKNOWN]} if score < 0 else made


def translate(example: Mapping[str, Any], source: str, target: str) -> Example:
    """`source`, `target`: codes of languages (tasks/languages.py), which are also the columns: 'translate English to German: ...'."""
    return {'inputs': f'translate {languages.name(source)} to {languages.name(target)}: {example[source]}', 'targets': example[target]}


def multi_translate(example: Mapping[str, Any], source: str, target: str) -> Example | list[Example]:
    """Of a row in many languages, {'language': codes, 'translation': texts}; [] where one of the two is missing."""
    found = dict(zip(example['translations']['language'], example['translations']['translation'], strict=True))
    return translate(found, source, target) if source in found and target in found else []


def summarize(example: Mapping[str, Any], document: str = 'article', summary: str = 'highlights', prefix: str = 'summarize') -> Example:
    """'summarize: document'; with prefix 'tldr', 'tldr: document'. A summary may be a list: the first is learnt, all are references."""
    found = example[summary]
    several = [found] if isinstance(found, str) else list(found)
    if not several:
        raise UserError(f'column {summary!r} is an empty list; give at least one summary or remove the row')
    return {'inputs': f'{prefix}: {example[document]}', 'targets': several[0], 'references': several}


def summarize_after(example: Mapping[str, Any], document: str = 'article', summary: str = 'highlights') -> Example:
    """GPT-2's prompt for summaries (Radford et al., 2019, section 3.6): the document, then 'TL;DR:'."""
    return summarize(example, document, summary) | {'inputs': f'{example[document]}\nTL;DR:'}


def language_model(example: Mapping[str, Any], text: str = 'text') -> Example:
    return {'inputs': '', 'targets': example[text]}


def next_sentence(first: str, second: str, is_next: bool, named: bool = False) -> Example:
    """'nsp: first second' -> 'next' or 'not_next'; `named`: each introduced by its number."""
    inputs = f'nsp: sentence1: {first} sentence2: {second}' if named else f'nsp: {first} {second}'
    return {'inputs': inputs, 'targets': 'next' if is_next else 'not_next'}


def columns_of(template: str) -> tuple[str, ...]:
    """The columns that '{column}' names in a template.

    Raises:
      UserError: unbalanced braces, {} without a name.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f'template {template!r}: {error}; write {{column}}, and {{{{ or }}}} for a brace') from error
    if '' in names:
        raise UserError(f'template {template!r}: {{}} names no column; write {{column}}')
    return tuple(dict.fromkeys(names))


def fill(template: str, example: Mapping[str, Any]) -> str:
    """The template with each {column} replaced by the example's text.

    Numbers as Python writes them; a list of texts joined by spaces. What a text holds is never read as a template.

    Raises:
      UserError: a column that is not there, with the nearest; a cell without a value.
    """
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(_cell(template, name, example))
    return ''.join(parts)


def _cell(template: str, name: str, example: Mapping[str, Any]) -> str:
    if name not in example:
        raise UserError(f'template {template!r}: no column {name!r}, {nearest(name, example)}')
    value = example[name]
    if value is None:
        raise UserError(f'template {template!r}: column {name!r} has no value here; give one or remove the row')
    if isinstance(value, (list, tuple)):
        return ' '.join(map(str, value))
    return str(value)


def from_template(example: Mapping[str, Any], inputs: str, targets: str) -> Example:
    """Of any table. Targets '{column}' whose cells are lists are several references, of which the first is learnt."""
    result = {'inputs': fill(inputs, example)}
    column = columns_of(targets)[0] if columns_of(targets) and targets == f'{{{columns_of(targets)[0]}}}' else ''
    if column and isinstance(example.get(column), (list, tuple)) and example[column]:
        references = list(map(str, example[column]))
        return result | {'targets': references[0], 'references': references}
    return result | {'targets': fill(targets, example)}


def choices(
    examples: Sequence[Mapping[str, Any]], inputs: str | Sequence[str], targets: str | Sequence[str], label: str = 'label', only_right: bool = False
) -> list[Example]:
    """Templates filled for each choice of each example, for ranking by likelihood; either `inputs` or `targets` is one template a choice.

    Returns:
      'idx': (example, choice), 'inputs', 'targets', 'is_correct'; with `only_right` (training) none but right ones.
    """
    count = len(targets) if isinstance(inputs, str) else len(inputs)
    inputs, targets = ([template] * count if isinstance(template, str) else list(template) for template in (inputs, targets))
    return [
        {
            'idx': (number, choice),
            'inputs': fill(inputs[choice], example),
            'targets': fill(targets[choice], example),
            'is_correct': choice == example[label],
        }
        for number, example in enumerate(examples)
        for choice in range(count)
        if choice == example[label] or not only_right
    ]
