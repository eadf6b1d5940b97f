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
_WHITE = re.compile(r'[^\S\x1c-\x1f]')  # Unicode's; Python counts four separators more
_BLANK_RUN = re.compile(r'(?<!\s)[ \t\f\v]*\n[ \t\f\v]*\n')  # with the white space before it
_LINE_END = re.compile(r'(?<!\s)[^\S\n\x1c-\x1f]*+\n')
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


def cut(text: str, lines: bool = False) -> list[str]:
    """The same sentences with the white space before each, none of it changed or lost: joined, they are the text.

    For tokenizers to which white space is text. Cuts lie where GPT-2's byte-level BPE cuts as well, so that the sentences' ids in a row are
    those of the text.

    Args:
      text: as for `split`.
      lines: each line that is not blank is a sentence instead.
    """
    flat = _WHITE.sub(' ', text)  # each character by one, so that places stay
    if lines:
        ends = [match.start() for match in _LINE_END.finditer(text)]
    else:
        blanks = [match.start() for match in _BLANK_RUN.finditer(text)]
        stops, start = [], 0
        for match in _STOP.finditer(flat):
            end = match.end() - 1 if flat[match.end() - 1] == ' ' else match.end()
            # After a stop of CJK a letter may follow at once; any other character could belong to the same piece.
            if (flat[end : end + 1] == ' ' or flat[end : end + 1].isalnum()) and _ends(flat, start, match):
                stops.append(end)
                start = match.end()
        ends = sorted({*blanks, *stops})
    if ends and not text[ends[-1] :].strip():
        ends.pop()  # white space at the end belongs to the last sentence
    bounds = [0, *(end for end in ends if end), len(text)]
    return [text[first:last] for first, last in zip(bounds[:-1], bounds[1:], strict=True) if first < last]


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
    following = text[match.end() : match.end() + 8].lstrip(' ').lstrip(_OPENERS)[:1]  # spaces in a row: only in text that is cut as it is
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
