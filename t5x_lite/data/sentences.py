"""A small rule-based sentence splitter: linear in the text, no model, no dependency.

A stop ends a sentence where white space follows and what comes next does not start in lower case, unless the word before is an
abbreviation, an initial or the number of a list item. Quotes and brackets that close after the stop belong to it. CJK stops need no white
space. Meant for next-sentence pairs and for packing, where a missed or superfluous cut costs little; text with one sentence a line is
better taken as it is.
"""

import re

_CLOSERS = '"\'’”»)\\]】」』）'
_OPENERS = '"\'‘“«([¿¡—–-*_'
# The look-behind lets a run of stops be tried once, the possessive quantifiers never give back: both keep '......' and '.""""""' linear.
_STOP = re.compile(rf'(?<![.!?…])[.!?…]++[{_CLOSERS}]*+ |[。！？]++[{_CLOSERS}]*+ ?')
_BLANK = re.compile(r'\n[ \t\f\v]*\n')
_NEVER_LAST = frozenset(
    'mr mrs ms dr prof rev hon st mt messrs mme mlle gen col lt capt sgt maj cmdr gov sen rep pres supt vs viz cf e.g i.e al approx ca'
    ' jan feb mar apr jun jul aug sep sept oct nov dec'.split()
)
_BEFORE_NUMBER = frozenset('no nos nr vol vols p pp fig figs sec ch chap art eq ed op bk pt'.split())
_INITIAL = re.compile(r'(?:[^\W\d_]\.)*[^\W\d_]')


def split(text: str, lines: bool = False) -> list[str]:
    """The sentences of a document, white space collapsed to single spaces; empty ones are dropped.

    Args:
      text: paragraphs separated by blank lines; a single newline is white space. No sentence reaches over a blank line.
      lines: each line is a sentence instead.
    """
    if lines:
        collapsed = (' '.join(line.split()) for line in text.split('\n'))
        return [line for line in collapsed if line]
    sentences = []
    for paragraph in _BLANK.split(text):
        sentences.extend(split_paragraph(' '.join(paragraph.split())))
    return sentences


def split_paragraph(text: str) -> list[str]:
    """The sentences of text whose white space is single spaces."""
    sentences, start = [], 0
    for match in _STOP.finditer(text):
        if _ends(text, start, match):
            sentence = text[start : match.end()].strip()
            if sentence:
                sentences.append(sentence)
            start = match.end()
    rest = text[start:].strip()
    if rest:
        sentences.append(rest)
    return sentences


def _ends(text: str, start: int, match: re.Match) -> bool:
    stop = match.group()
    if stop[0] in '。！？':
        return True
    following = text[match.end() : match.end() + 8].lstrip(_OPENERS)[:1]
    if following.islower():
        return False
    if stop != '. ':
        return True
    before = text[max(start, match.start() - 24) : match.start()].rpartition(' ')[2].lstrip(_OPENERS)
    word = before.lower()
    if word in _NEVER_LAST or (word in _BEFORE_NUMBER and following.isdigit()):
        return False
    if before.isdigit() and match.start() - start <= len(before):  # '1. Introduction'
        return False
    return before == 'I' or not _INITIAL.fullmatch(before)
