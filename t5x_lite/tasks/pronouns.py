"""Whom does a pronoun mean? WSC, WNLI and DPR as text: '... if *he* could lend some money.' -> 'Tom' (Raffel et al., 2020, section 2.4)."""

from collections.abc import Mapping
import re
import string
from typing import Any

from t5x_lite.errors import UserError
from t5x_lite.tasks.text_formats import UNKNOWN, Example

PREFIX = 'wsc:'
_PRONOUNS = frozenset('he she they it her his their them him'.split())


def mark_word(text: str, words: str, index: int) -> str:
    """`words` between stars, at the place nearest to that of word number `index` (by spaces).

    Nearest: a few published indices point beside the pronoun, or at one with a quotation mark attached.
    """
    place = len(' '.join(text.split(' ')[:index]))
    found = list(re.finditer(rf'(?<!\w){re.escape(words)}(?!\w)', text))
    if not found:
        raise UserError(f'{words!r} does not occur in {text!r}')
    match = min(found, key=lambda match: abs(match.start() - place))
    return f'{text[: match.start()]}*{words}*{text[match.end() :]}'


def wsc(example: Mapping[str, Any]) -> Example:
    """SuperGLUE's WSC with both spans marked, '# him #' and '* the man *' -> 'True' or 'False'."""
    text = example['text']
    starts = [match.start() for match in re.finditer(r'\S+', text)]
    # The later span first, so that the other's place still holds.
    for number, mark in sorted(((1, '*'), (2, '#')), key=lambda span: -example[f'span{span[0]}_index']):
        start, span = starts[example[f'span{number}_index']], example[f'span{number}_text']
        if text.startswith(span, start):
            text = f'{text[:start]}{mark} {span} {mark}{text[start + len(span) :]}'
    label = int(example['label'])
    return {'inputs': f'wsc text: {text}', 'targets': UNKNOWN if label < 0 else str(bool(label))}


def wsc_simple(example: Mapping[str, Any], only_right: bool = False) -> Example | list[Example]:
    """SuperGLUE's WSC as a question whose answer is a text; 'label' says whether the target is the referent.

    Args:
      only_right: [] for an example whose candidate is wrong: to learn from, it would be a wrong answer.
    """
    label = example['label'] if 'label' in example else 0
    if only_right and not label:
        return []
    marked = mark_word(example['text'], example['span2_text'], example['span2_index'])
    return {'inputs': f'{PREFIX} {marked}', 'targets': example['span1_text'], 'label': label, 'idx': example['idx']}


def dpr_simple(example: Mapping[str, Any]) -> Example:
    """Definite Pronoun Resolution (Rahman & Ng, 2012)."""
    sentence, pronoun = example['sentence'], example['pronoun']
    # The first that stands as a word of its own is meant.
    marked, found = re.subn(rf' {re.escape(pronoun)}(?=[ .,])', lambda _: f' *{pronoun}*', sentence, count=1)
    return {'inputs': f'{PREFIX} {marked if found else mark_word(sentence, pronoun, 0)}', 'targets': example['candidates'][int(example['label'])]}


def wnli_simple(example: Mapping[str, Any]) -> Example:
    """GLUE's WNLI, whose hypothesis is the premise's end with its pronoun replaced: the pronoun and what replaces it are found by aligning the two.

    Of the premise's pronouns, the one is meant whose neighbours on both sides agree with the hypothesis over most words.
    """
    premise, hypothesis = example['sentence1'], example['sentence2']
    words, guess = premise.split(' '), hypothesis.split(' ')
    bare, said = [_bare(word) for word in words], [_bare(word) for word in guess]
    best, place, candidate = 0, -1, (0, 0)
    for index in (index for index, word in enumerate(bare) if word in _PRONOUNS):
        # All ways to lay the words before and behind the pronoun on the hypothesis, with something in between.
        for start in range(len(said)):
            before = _agree(bare[:index][::-1], said[:start][::-1])
            for stop in range(start + 1, len(said) + 1):
                behind = _agree(bare[index + 1 :], said[stop:])
                # What is left over of the hypothesis on either side belongs to the candidate: it must begin and end where agreement does.
                if (start == 0 or before) and (stop == len(said) or behind) and before + behind > best:
                    best, place, candidate = before + behind, index, (start, stop)
    if place < 0:
        raise UserError(f'WNLI: no pronoun of {premise!r} can be laid on {hypothesis!r}')
    referent = ' '.join(guess[slice(*candidate)]).strip(string.punctuation.replace("'", ''))
    return {
        'inputs': f'{PREFIX} {" ".join([*words[:place], _starred(words[place]), *words[place + 1 :]])}',
        'targets': referent.removesuffix("'s").removesuffix("'"),
        'premise': premise,
        'hypothesis': hypothesis,
        'label': example['label'],
        'idx': example['idx'],
    }


def _bare(word: str) -> str:
    return word.lower().strip(string.punctuation)


def _agree(first: list[str], second: list[str]) -> int:
    """How many words two lists share from their start."""
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count


def _starred(word: str) -> str:
    """'it.' -> '*it* .': the reference sets punctuation off, for a pronoun that ends a sentence."""
    core = word.strip(string.punctuation)
    start = word.index(core)
    rest = word[start + len(core) :]
    return f'{word[:start]}*{core}*' + (f' {rest}' if rest else '')
