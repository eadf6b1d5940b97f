"""The rules by which T5's corpus C4 was cleaned, each by name, for pages of which a line is a paragraph, as text extracted from the web has them.

Raffel et al. (2020), section 2.2, in the order and with the numbers of the reference implementation (tensorflow_datasets/text/c4_utils.py), which differ from
the paper's: lines of at least 5 words and pages of at least 3 sentences; the paper says 3 and 5. Both are settings.

Lines are removed by
  long_words            a word of more than 1,000 characters
  terminal_punctuation  no . ! ? or " at the end, or an ellipsis
  short_lines           fewer than `min_line_words` words
  javascript            the word, as in notices that it must be switched on
  policy                terms of use, privacy and cookie policies
and edited by
  citations             [1], [], [edit] and [citation needed] are taken out.
Documents are removed by
  lorem_ipsum           the phrase, in a line that was kept so far
  curly_brackets        an opening one, likewise
  few_sentences         fewer than `min_sentences` in the lines that are left
  bad_words             a word or phrase of a file that the user gives, in the lines that are left.
And sentences by
  repeated_spans        see `t5x_lite.data.spans`.

Unlike the reference a blank line between lines that are kept stays, as one; sentences are counted by `t5x_lite.data.sentences` instead of nltk; a document of
several blocks is cleaned in parts, so that a line which a part ends in is judged in two. Absent: C4's language filter (langdetect, at 0.99) and the limit of
190,000 characters a page that later versions of the reference have.
"""

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import re

from t5x_lite.data import sentences
from t5x_lite.errors import UserError, nearest

BAD_WORDS, FEW_SENTENCES, REPEATED_SPANS = 'bad_words', 'few_sentences', 'repeated_spans'
RULES = (
    'long_words', 'citations', 'terminal_punctuation', 'short_lines', 'lorem_ipsum', 'javascript', 'curly_brackets', 'policy', FEW_SENTENCES, REPEATED_SPANS, BAD_WORDS,
)  # fmt: skip
C4 = 'c4'  # all of them
_LONGEST_WORD = 1000  # characters
_CITATION = re.compile(r'\[\d*\]|\[edit\]|\[citation needed\]')
_POLICIES = ('terms of use', 'privacy policy', 'cookie policy', 'uses cookies', 'use of cookies', 'use cookies')


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which are applied, and their numbers."""

    names: frozenset[str]
    min_line_words: int = 5
    min_sentences: int = 3
    bad_words: tuple[str, ...] = ()  # in lower case

    @property
    def of_pages(self) -> bool:
        """Whether any applies to documents by themselves."""
        return bool(self.names - {REPEATED_SPANS})

    def verdict(self, broken: str, kept: int) -> str:
        """The rule that removes a document, or '', from the `Page.rule` of its first part that has one, and the sentences of all."""
        return broken or (FEW_SENTENCES if FEW_SENTENCES in self.names and kept < self.min_sentences else '')


@dataclasses.dataclass
class Page:
    """A document, or a part of a long one, after the rules for lines.

    Attributes:
      text: what is left.
      rule: the first rule that removes the document whatever else it holds; ''.
      sentences: counted up to Rules.min_sentences.
      lines: how many each rule removed, or edited.
    """

    text: str
    rule: str
    sentences: int
    lines: collections.Counter


def chosen(names: Sequence[str], bad_words: str, min_line_words: int = 5, min_sentences: int = 3) -> Rules | None:
    """The rules behind --clean; None for none.

    Args:
      names: of RULES, or C4.
      bad_words: a file with a word or phrase a line, '' for none.

    Raises:
      UserError: an unknown rule, or bad words without their file, a file that nothing asks for, that holds nothing or cannot be read.
    """
    for name in names:
        if name not in (*RULES, C4):
            raise UserError(f'--clean={name}: no such rule, {nearest(name, (*RULES, C4))}')
    for flag, value in (('min_line_words', min_line_words), ('min_sentences', min_sentences)):
        if value < 1:
            raise UserError(f'--{flag}={value}: it must be at least 1')
    found = set(RULES) - (set() if bad_words else {BAD_WORDS}) if C4 in names else set(names)
    found |= {BAD_WORDS} & set(names)
    if BAD_WORDS in found and not bad_words:
        raise UserError(f'--clean={BAD_WORDS}: which? Give --bad_words=FILE, a word or phrase a line')
    if bad_words and BAD_WORDS not in found:
        raise UserError(f'--bad_words={bad_words}: no rule uses it; give --clean={BAD_WORDS} or --clean={C4} too')
    return Rules(frozenset(found), min_line_words, min_sentences, _words_of(bad_words) if bad_words else ()) if found else None


def _words_of(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding='utf-8') as file:
            words = {line.strip().lower() for line in file}
    except (OSError, UnicodeError) as error:
        raise UserError(f'--bad_words={path}: {error}; give a text file in UTF-8, a word or phrase a line') from error
    if not words - {''}:
        raise UserError(f'--bad_words={path}: the file is empty; give a word or phrase a line')
    return tuple(sorted(words - {''}))


def fingerprint(rules: Rules) -> str:
    """sha256 of the bad words: two files that hold the same are the same setting."""
    return hashlib.sha256('\n'.join(rules.bad_words).encode()).hexdigest()


def clean(text: str, rules: Rules) -> Page:
    """Applies the rules to one document.

    Worked example, with all of them:

        Home | About | Contact                          terminal_punctuation
        The river rose in spring.[3] It fell again.     kept, without [3]
        Read our privacy policy to learn more.          policy
                                                        (blank lines are no lines)
        Boats came up from the sea. They had salt.      kept: four sentences
        All rights reserved.                            short_lines
    """
    has, lines = rules.names.__contains__, collections.Counter()
    lower = text.lower()
    # What the text does not hold no line does.
    lorem, javascript = has('lorem_ipsum') and 'lorem ipsum' in lower, has('javascript') and 'javascript' in lower
    policy, citations = has('policy') and any(phrase in lower for phrase in _POLICIES), has('citations') and '[' in text
    curly, punctuation, short, long_words = has('curly_brackets') and '{' in text, has('terminal_punctuation'), has('short_lines'), has('long_words')
    kept: list[str] = []
    blank, count = False, 0
    for line in text.splitlines():
        line = line.strip()
        if not line:
            blank = True
            continue
        if long_words and len(line) > _LONGEST_WORD and any(len(word) > _LONGEST_WORD for word in line.split()):
            lines['long_words'] += 1
            continue
        if citations and '[' in line:
            edited = _CITATION.sub('', line)
            lines['citations'] += edited != line
            line = edited
        if punctuation and (not line.endswith(('.', '?', '!', '"')) or line.endswith('...')):
            lines['terminal_punctuation'] += 1
            continue
        if short and len(line.split(maxsplit=rules.min_line_words - 1)) < rules.min_line_words:
            lines['short_lines'] += 1
            continue
        if lorem and 'lorem ipsum' in line.lower():
            return Page('', 'lorem_ipsum', 0, lines)
        if javascript and 'javascript' in line.lower():
            lines['javascript'] += 1
            continue
        if curly and '{' in line:
            return Page('', 'curly_brackets', 0, lines)
        if policy and any(phrase in line.lower() for phrase in _POLICIES):
            lines['policy'] += 1
            continue
        if count < rules.min_sentences:
            count += len(sentences.split_paragraph(' '.join(line.split())))
        if kept and blank:
            kept.append('')
        kept.append(line)
        blank = False
    result = '\n'.join(kept).strip()
    rule = BAD_WORDS if has(BAD_WORDS) and _pattern(rules.bad_words).search(result.lower()) else ''
    return Page(result, rule, min(count, rules.min_sentences), +lines)


@functools.lru_cache(1)
def _pattern(words: Iterable[str]) -> re.Pattern:
    return re.compile(rf'(?:\W|^)(?:{"|".join(map(re.escape, words))})(?:\W|$)')
