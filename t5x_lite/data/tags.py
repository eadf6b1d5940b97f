"""Tags of words: schemes that mark entities (IOB1, IOB2, BIOES, ...), spans and back, what is legal, and sets of tags with ids. (numpy only)

A tag is 'O' or a mark and a type, 'B-PER'; without a type, 'B', the type is '_'. A span is (type, start, stop) in words. One sentence, two persons side by
side and a place, in every scheme:

    words   Ann Lee  Bo   in  Rome        IO cannot write it: the persons would be one
    IOB1    I   I    B    O   I           B only where an entity of the same type ends just before (Ramshaw & Marcus, 1995)
    IOB2    B   I    B    O   B           B at every start (Tjong Kim Sang & Veenstra, 1999, as IOE1 and IOE2)
    IOE1    I   E    I    O   I           E only where an entity of the same type begins just after
    IOE2    I   E    E    O   E           E at every end
    BIOES   B   E    S    O   S           S: an entity of one word
    BILOU   B   L    U    O   U           the same in other letters (Ratinov & Roth, 2009)
    IO      I   I         O   I

Tags that a model predicts may be illegal. `spans` with a scheme keeps only what is written as that scheme says (seqeval's strict mode); with CONLL it takes
every tag for part of an entity, as conlleval and seqeval's default mode do. (seqeval 1.2 loses entities of one word of IOE1 that another follows, the first
'E' of 'E E I', which its authors note; here they count.) For part-of-speech tags there is no scheme: `TagSet` takes any names.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import itertools
import re

import numpy as np

from t5x_lite.errors import UserError, nearest

Span = tuple[str, int, int]
Row = tuple[str, Sequence[str]]  # where, for messages, and its tags
OUTSIDE, UNTYPED = 'O', '_'
START, STOP = '\x02', '\x03'  # in `pairs`, what is before the first word and after the last; '$' is a tag of some sets


@dataclasses.dataclass(frozen=True, eq=False)
class Scheme:
    """A way to mark entities.

    Attributes:
      marks: all but O.
      pattern: an entity in a sentence written with a letter a word: its mark, in lower case where the word before has no tag or one of another type.
      write: (words of an entity, one of its type ends just before, one begins just after) -> its marks; None: a scheme to read with.
    """

    name: str
    marks: str
    pattern: re.Pattern
    write: Callable[[int, bool, bool], str] | None = None

    @functools.cached_property
    def pairs(self) -> frozenset[tuple[str, str, bool]]:
        """The legal neighbours, (mark, next mark, of one type), O, START and STOP among the marks.

        A sentence is legal where its neighbours are: schemes look no further than one word. So they are read off all that can be written in four words.
        """
        found = set()
        for kinds in itertools.product((None, 'x', 'y'), repeat=4):
            for cuts in itertools.product((False, True), repeat=3):  # an entity ends here, though the next word is of its type
                places = [0, *(n for n in (1, 2, 3) if kinds[n] != kinds[n - 1] or cuts[n - 1]), 4]
                entities = [(kinds[a], a, b) for a, b in itertools.pairwise(places) if kinds[a]]
                try:
                    marks = [START, *(split(tag)[0] for tag in from_spans(entities, 4, self)), STOP]
                except UserError:  # IO cannot write it
                    continue
                found |= {(a, b, n not in (0, 4) and kinds[n - 1] == kinds[n] is not None) for n, (a, b) in enumerate(itertools.pairwise(marks))}
        return frozenset(found | {(START, STOP, False)})

    def follows(self, before: str, tag: str) -> bool:
        """Whether a tag may stand after another; START and STOP are taken too."""
        a, b = (part if part in (START, STOP) else split(part) for part in (before, tag))
        same = len(a) == len(b) == 2 and a[0] != OUTSIDE and a == (a[0], b[1])
        return (a[0], b[0], same) in self.pairs


def _bioes(begin: str, end: str, single: str) -> Callable[[int, bool, bool], str]:
    return lambda words, after, before: single if words == 1 else begin + 'I' * (words - 2) + end


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme('IOB2', 'BI', re.compile('[bB]I*'), lambda words, after, before: 'B' + 'I' * (words - 1)),
        # A 'B' of one word before another type is no entity for seqeval if that begins with 'B' too, which it may not.
        Scheme('IOB1', 'BI', re.compile('BI+|B(?!b)|[iI]I*'), lambda words, after, before: 'BI'[not after] + 'I' * (words - 1)),
        Scheme('IOE2', 'IE', re.compile('[iI]I*E|[eE]'), lambda words, after, before: 'I' * (words - 1) + 'E'),
        Scheme(
            'IOE1', 'IE', re.compile('(?:[iI]I*E|[eE])(?=[IE])|[iI]I*+(?!E)'),
            lambda words, after, before: 'I' * (words - 1) + 'EI'[not before],
        ),
        Scheme('BIOES', 'BIES', re.compile('[bB]I*E|[sS]'), _bioes('B', 'E', 'S')),
        Scheme('BILOU', 'BILU', re.compile('[bB]I*L|[uU]'), _bioes('B', 'L', 'U')),
        Scheme('IO', 'I', re.compile('[iI]I*'), lambda words, after, before: 'I' * words),
    )
}  # fmt: skip
ALIASES = {'BIO': 'IOB2', 'IOB': 'IOB1', 'IOBES': 'BIOES'}
# Any tag is part of an entity; one begins at B, S, after E or S, after O and where the type changes (conlleval of CoNLL-2000). L and U are E and S by another
# name; seqeval's default mode does not know them.
CONLL = Scheme('CONLL', 'BIESLU', re.compile('[bBiI]I*[EL]?|[eElLsSuU]'))


def scheme_of(name: str, flag: str = 'the scheme of tags') -> Scheme:
    """Raises UserError, which names the flag, for an unknown name."""
    name = ALIASES.get(name, name)
    if name not in SCHEMES:
        raise UserError(f'{flag} is {name!r}; {nearest(name, [*SCHEMES, *ALIASES])}')
    return SCHEMES[name]


@functools.lru_cache(maxsize=1 << 12)
def split(tag: str) -> tuple[str, str]:
    """('B', 'PER') of 'B-PER', ('B', '_') of 'B', ('O', '') of 'O'; a type may have hyphens. UserError for any other text."""
    mark, hyphen, kind = tag.partition('-')
    if tag == OUTSIDE:
        return OUTSIDE, ''
    if len(mark) != 1 or mark not in CONLL.marks or (hyphen and not kind):
        raise UserError(f'tag {tag!r} is not O or one of {", ".join(CONLL.marks)}, a hyphen and a type, as B-PER')
    return mark, kind or UNTYPED


def join(mark: str, kind: str) -> str:
    return mark if kind == UNTYPED else f'{mark}-{kind}'


def spans(tags: Sequence[str], scheme: Scheme = CONLL) -> list[Span]:
    """The entities of a sentence, in order; words that are not written as the scheme says are in none.

    Raises:
      UserError: no tag, or one with a mark that the scheme lacks.
    """
    letters, kinds, before = [], [], ''
    for tag in tags:
        mark, kind = split(tag)
        if mark not in scheme.marks and mark != OUTSIDE:
            raise UserError(f'tag {tag!r} is not of {scheme.name}, which has {", ".join(scheme.marks)} and O')
        letters.append(mark if kind == before or mark == OUTSIDE else mark.lower())
        kinds.append(kind)
        before = kind
    return [(kinds[match.start()], *match.span()) for match in scheme.pattern.finditer(''.join(letters))]


def from_spans(entities: Iterable[Span], words: int, scheme: Scheme) -> list[str]:
    """The tags of a sentence of so many words.

    Raises:
      UserError: entities overlap or lie outside the sentence, or two touch that IO would make one.
    """
    if scheme.write is None:
        raise ValueError(f'{scheme.name} is for reading')
    tags, ordered = [OUTSIDE] * words, sorted(entities, key=lambda entity: entity[1:])
    begins, ends = {start: kind for kind, start, _ in ordered}, {stop: kind for kind, _, stop in ordered}
    last = 0
    for kind, start, stop in ordered:
        if not last <= start < stop <= words:
            raise UserError(f'entity {kind} of words {start} to {stop} overlaps another or is outside the {words} words of its sentence')
        after, before, last = ends.get(start) == kind, begins.get(stop) == kind, stop
        if scheme.name == 'IO' and after:
            raise UserError(f'IO cannot tell two entities {kind} side by side (word {start + 1}) from one; take another scheme')
        tags[start:stop] = (join(mark, kind) for mark in scheme.write(stop - start, after, before))
    return tags


def convert(tags: Sequence[str], source: Scheme, target: Scheme, where: str = '') -> list[str]:
    """Tags of one scheme in another; from CONLL, whatever they are.

    Raises:
      UserError: tags are illegal in `source`, and would be lost; or what `from_spans` raises.
    """
    if source is not CONLL:
        check(tags, source, where)
    try:
        return from_spans(spans(tags, source), len(tags), target)
    except UserError as error:
        raise UserError(f'{where}: {error}' if where else str(error)) from error


def check(tags: Sequence[str], scheme: Scheme, where: str = '') -> None:
    """Raises UserError, which names place and word, where a tag is none of the scheme's or may not follow the one before."""
    prefix = f'{where}: ' if where else ''
    for number, (before, tag) in enumerate(itertools.pairwise([START, *tags, STOP]), 1):
        try:
            if tag != STOP and split(tag)[0] not in (OUTSIDE, *scheme.marks):
                raise UserError(f'tag {tag!r} is not of {scheme.name}, which has {", ".join(scheme.marks)} and O')
            legal = scheme.follows(before, tag)
        except UserError as error:
            raise UserError(f'{prefix}word {number}: {error}') from error
        if not legal:
            said = f'{tag} may not follow {before}' if START != before and tag != STOP else f'{tag} may not begin a sentence'
            said, number = (f'{before} may not end a sentence', number - 1) if tag == STOP else (said, number)
            raise UserError(f'{prefix}word {number}: {said} in {scheme.name}; mend the tag, or name the scheme that the file is in')


def detect(rows: Iterable[Row]) -> Scheme:
    """The scheme that sentences are in: of those that have all their marks, the one with the fewest illegal neighbours, first of SCHEMES in a tie.

    It may have some all the same: `check` says where. Tags of I and O alone are IOB1, in which they mean the same as in IO.

    Raises:
      UserError: a tag is none, or no scheme has all the marks.
    """
    neighbours: Counter[tuple[str, str]] = Counter()
    for where, tags in rows:
        try:
            marks = {split(tag)[0] for tag in tags}
        except UserError as error:
            raise UserError(f'{where}: {error}') from error
        if not any(marks <= {OUTSIDE, *scheme.marks} for scheme in SCHEMES.values()):
            raise UserError(f'{where}: no scheme has all of the marks {", ".join(sorted(marks))}; known: {", ".join(SCHEMES)}')
        neighbours.update(itertools.pairwise([START, *tags, STOP]))
    marks = {split(tag)[0] for pair in neighbours for tag in pair if tag not in (START, STOP)}
    fitting = [scheme for scheme in SCHEMES.values() if marks <= {OUTSIDE, *scheme.marks}]
    if not fitting:
        raise UserError(f'no scheme has all of the marks {", ".join(sorted(marks))}, which are in these sentences; known: {", ".join(SCHEMES)}')
    wrong = {scheme.name: sum(count for pair, count in neighbours.items() if not scheme.follows(*pair)) for scheme in fitting}
    return min(fitting, key=lambda scheme: wrong[scheme.name])


@dataclasses.dataclass(frozen=True)
class TagSet:
    """The tags of a task; their ids are their places.

    Attributes:
      scheme: of entities; None: plain names, as of parts of speech.
    """

    names: tuple[str, ...]
    scheme: Scheme | None = None

    @classmethod
    def of(cls, rows: Iterable[Row], scheme: Scheme | None = None) -> 'TagSet':
        """What sentences hold. With a scheme, every mark of every type, met or not: O, then types in alphabetical order, marks in the scheme's."""
        names = {tag for _, tags in rows for tag in tags}
        if scheme is None:
            return cls(tuple(sorted(names)))
        kinds = sorted({split(name)[1] for name in names if name != OUTSIDE})
        return cls((OUTSIDE, *(join(mark, kind) for kind in kinds for mark in scheme.marks)), scheme)

    @functools.cached_property
    def _ids(self) -> Mapping[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def ids(self, tags: Sequence[str], where: str = '') -> np.ndarray:
        """int32 [words]; UserError, which names place and word, for a tag that the set lacks."""
        for number, tag in enumerate(tags, 1):
            if tag not in self._ids:
                place = f'{where}: ' if where else ''
                raise UserError(f'{place}word {number}: tag {tag!r} is not among the {len(self.names)} of training; {nearest(tag, self.names)}')
        return np.array([self._ids[tag] for tag in tags], np.int32)

    def tags(self, ids: Iterable[int]) -> list[str]:
        return [self.names[index] for index in ids]

    @functools.cached_property
    def transitions(self) -> np.ndarray:
        """bool [tags + 2, tags + 2]: column's tag may follow row's; the last two are START and STOP. Without a scheme anything may follow anything."""
        ends = (*self.names, START, STOP)
        legal = np.array([[self.scheme is None or self.scheme.follows(before, tag) for tag in ends] for before in ends])
        legal[-1], legal[:, -2] = False, False  # nothing after the end nor before the start
        return legal
