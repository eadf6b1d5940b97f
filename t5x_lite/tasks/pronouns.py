"""Whom does a pronoun mean? WSC, WNLI and DPR as text: '... if *he* could lend some money.' -> 'Tom' (Raffel et al., 2020, section 2.4)."""

from collections.abc import Mapping
import re
from typing import Any

from t5x_lite.errors import UserError
from t5x_lite.tasks.text_formats import UNKNOWN, Example, label_name

PREFIX = 'wsc:'
_PRONOUNS = frozenset('he she they it her his their them him'.split())
_ARTICLES = ('a', 'an', 'the')
_MARKS = '.,?!'
_BLANK = '\t\n\f\r '  # a no-break space is a character like any other


def mark_word(text: str, words: str, index: int) -> str:
    """`words` between stars, where they are word number `index` (by single spaces): 'Ann saw that *she* won'.

    A few published indices point beside the pronoun, or at one with punctuation attached. Then the nearest is meant, what is attached to it is set off,
    and white space at the end of the text goes, which is how the reference spells those rows: 'for him," he said. ' -> 'for *him* ," he said.'
    """
    parts = text.split(' ')
    if index < len(parts) and parts[index] == words:
        # As in the reference, what follows is joined by a blank even where nothing does.
        return ' '.join([*parts[:index], f'*{words}*', ' '.join(parts[index + 1 :])])
    place = len(' '.join(parts[:index]))
    found = list(re.finditer(rf'(?<!\w){re.escape(words)}(?!\w)', text))
    if not found:
        raise UserError(f'{words!r} does not occur in {text!r}')
    match = min(found, key=lambda match: abs(match.start() - place))
    rest = text[match.end() :].rstrip()
    return f'{text[: match.start()]}*{words}*{" " if rest and not rest[0].isspace() else ""}{rest}'


def wsc(example: Mapping[str, Any]) -> Example:
    """SuperGLUE's WSC with both spans marked, '# him #' and '* the man *' -> 'True' or 'False'.

    A span that is not at its index, by single blanks, stays unmarked; the index of the other counts the two stars all the same.
    """
    text = _mark_span(example['text'], example['span1_text'], example['span1_index'], '*')
    index = example['span2_index'] + 2 * (example['span1_index'] < example['span2_index'])
    text = _mark_span(text, example['span2_text'], index, '#')
    return {'inputs': f'wsc text: {text}', 'targets': label_name(example['label'], ('False', 'True'))}


def _mark_span(text: str, span: str, index: int, mark: str) -> str:
    return re.sub(rf'^((?:[^{_BLANK}]+[{_BLANK}]){{{index}}}){re.escape(span)}', lambda match: f'{match[1]}{mark} {span} {mark}', text)


def wsc_simple(example: Mapping[str, Any], only_right: bool = False) -> Example | list[Example]:
    """SuperGLUE's WSC as a question whose answer is a text; 'label' says whether the target is the referent, -1 that this is not published.

    Args:
      only_right: [] for an example whose candidate is wrong: to learn from, it would be a wrong answer.
    """
    label = int(example['label']) if 'label' in example else 0
    if only_right and not label:
        return []
    marked = mark_word(example['text'], example['span2_text'], example['span2_index'])
    made = {'inputs': f'{PREFIX} {marked}', 'targets': example['span1_text'], 'label': label, 'idx': example['idx']}
    return made | {'references': [UNKNOWN]} if label < 0 else made


def dpr_simple(example: Mapping[str, Any]) -> Example:
    """Definite Pronoun Resolution (Rahman & Ng, 2012).

    The first pronoun that stands between blanks, or before a full stop or a comma, is meant; where there is none, as at the start of a sentence, the
    reference marks nothing.
    """
    pronoun, candidates = example['pronoun'], list(example['candidates'])
    marked = re.sub(rf' {re.escape(pronoun)}(?=[ .,])', lambda _: f' *{pronoun}*', example['sentence'], count=1)
    return {'inputs': f'{PREFIX} {marked}', 'targets': label_name(example['label'], candidates)}


def wnli_simple(example: Mapping[str, Any]) -> Example:
    """GLUE's WNLI, whose hypothesis is the premise's end with its pronoun replaced: the pronoun and what replaces it are found by aligning the two.

    The pronoun is meant that has the longest runs of words on both sides which occur in the hypothesis; what stands there between these runs is the
    referent, from its last article on, without a possessive ending.

    Raises:
      UserError: no pronoun, or none with such runs.
    """
    premise, hypothesis = example['sentence1'], example['sentence2']
    words, said = _bare(premise), _bare(hypothesis)
    best, place, candidate = 0, -1, ''
    for index in (index for index, word in enumerate(words) if word in _PRONOUNS):
        before = _run(said[::-1], words[:index][::-1])
        behind = _run(said, words[index + 1 :])
        if before + behind > best:
            best, place = before + behind, index
            candidate = _between(said, words[index - before : index], words[index + 1 : index + 1 + behind])
    found = _as_written(candidate, hypothesis) if candidate else ''
    if not found:
        raise UserError(f'WNLI: no pronoun of {premise!r} can be laid on {hypothesis!r}')
    made = {'inputs': f'{PREFIX} {_starred(premise, place)}', 'targets': found, 'premise': premise, 'hypothesis': hypothesis}
    label = int(example['label']) if 'label' in example else 0
    made |= {'label': label, 'idx': example['idx']}
    return made | {'references': [UNKNOWN]} if label < 0 else made


def _bare(text: str) -> list[str]:
    """Words in small letters, each without a mark at its end."""
    words = (word[:-1] if word[-1:] in _MARKS else word for word in text.strip().lower().split(' '))
    return [word for word in words if word]


def _run(text: list[str], words: list[str]) -> int:
    """How many of `words`, from the first on, occur in a row in the text (to the character: 'he' also inside 'the')."""
    whole, count = ' '.join(text), 0
    while count < len(words) and ' '.join(words[: count + 1]) in whole:
        count += 1
    return count


def _between(text: list[str], before: list[str], behind: list[str]) -> str:
    """What stands between two runs of words; else up to the second from the start, else after the first to the end; else ''."""
    whole = ' '.join(text)
    before, behind = (list(map(re.escape, words)) for words in (before, behind))
    for pattern in ([*before, '(.+)', *behind], ['^(.+)', *behind], [*before, '(.+)$']):
        if match := re.search(' '.join(pattern), whole):
            return match[1]
    return ''


def _as_written(candidate: str, hypothesis: str) -> str:
    """The candidate as the hypothesis spells it."""
    words = candidate.split(' ')
    # The run before may have been cut short, and the candidate begin too early.
    words = words[max(words.index(article) if article in words else 0 for article in _ARTICLES) :]
    match = re.search(' '.join(f'{re.escape(word)}[{_MARKS}]?' for word in words), hypothesis, re.IGNORECASE)
    if not match:
        return ''
    found = match[0][:-1] if match[0][-1:] in _MARKS else match[0]
    return found[:-1] if found.endswith("'") else found.removesuffix("'s")


def _starred(text: str, index: int) -> str:
    """Word number `index` of `_bare` between stars, a mark that ends it set off: 'it.' -> '*it* .'"""
    words = text.split(' ')
    place = [number for number, word in enumerate(words) if _bare(word)][index]
    word = words[place].strip()
    marked = f'*{word[:-1]}* {word[-1]}' if word[-1] in _MARKS else f'*{word}*'
    return ' '.join([*words[:place], marked, *words[place + 1 :]])
