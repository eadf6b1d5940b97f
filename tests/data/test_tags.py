"""Tag schemes: what they write, read and allow; conversions through spans; detection; sets of tags."""

import itertools
import pathlib
import random

import numpy as np
import pytest

from t5x_lite.data import tags
from t5x_lite.data.tags import CONLL, SCHEMES, TagSet
from t5x_lite.errors import UserError
from t5x_lite.tasks.sources import TaggedWords

CONLL_2003 = pathlib.Path(__file__).resolve().parents[2] / '..' / 'shared' / 'data' / 'conll2003' / 'eng.testa.gz'
WRITTEN = {
    'IOB1': 'I-PER I-PER B-PER O I-LOC',
    'IOB2': 'B-PER I-PER B-PER O B-LOC',
    'IOE1': 'I-PER E-PER I-PER O I-LOC',
    'IOE2': 'I-PER E-PER E-PER O E-LOC',
    'BIOES': 'B-PER E-PER S-PER O S-LOC',
    'BILOU': 'B-PER L-PER U-PER O U-LOC',
}
ENTITIES = [('PER', 0, 2), ('PER', 2, 3), ('LOC', 4, 5)]


def sentences(words: int, kinds=('X', 'Y')):
    """All lists of entities of a sentence of so many words."""
    for labels in itertools.product((None, *kinds), repeat=words):
        for cuts in itertools.product((False, True), repeat=words - 1):
            places = [0, *(n for n in range(1, words) if labels[n] != labels[n - 1] or cuts[n - 1]), words]
            yield [(labels[a], a, b) for a, b in itertools.pairwise(places) if labels[a]]


@pytest.mark.parametrize('name', WRITTEN)
def test_schemes_write_as_their_papers_say(name):
    scheme = tags.scheme_of(name)
    written = WRITTEN[name].split()
    assert tags.from_spans(ENTITIES, 5, scheme) == written
    assert tags.spans(written, scheme) == ENTITIES
    assert tags.spans(written) == ENTITIES  # CONLL reads them all
    tags.check(written, scheme)


@pytest.mark.parametrize('scheme', SCHEMES.values(), ids=SCHEMES)
def test_any_entities_come_back_and_only_what_can_be_written_is_legal(scheme):
    written = set()
    for entities in sentences(5):
        try:
            found = tags.from_spans(entities, 5, scheme)
        except UserError as error:
            assert scheme.name == 'IO' and 'side by side' in str(error)
            continue
        assert tags.spans(found, scheme) == tags.spans(found) == entities
        written.add(tuple(found))
    names = TagSet.of([('', [f'{scheme.marks[0]}-X', f'{scheme.marks[0]}-Y'])], scheme).names
    legal = {some for some in itertools.product(names, repeat=5) if all(itertools.starmap(scheme.follows, itertools.pairwise([tags.START, *some, tags.STOP])))}
    assert legal == written


def test_any_scheme_into_any_other():
    for (one, text), (other, wanted) in itertools.product(WRITTEN.items(), repeat=2):
        assert tags.convert(text.split(), SCHEMES[one], SCHEMES[other]) == wanted.split()
    assert tags.convert(['I', 'B', 'O'], SCHEMES['IOB1'], SCHEMES['BIOES']) == ['S', 'S', 'O']  # without types
    assert tags.convert(['I-geo-loc'], SCHEMES['IOB1'], SCHEMES['IOB2']) == ['B-geo-loc']
    with pytest.raises(UserError, match=r"a.txt:7: word 2: I-X may not follow O in IOB2; mend the tag, or name the scheme"):
        tags.convert(['O', 'I-X'], SCHEMES['IOB2'], SCHEMES['BIOES'], 'a.txt:7')
    assert tags.convert(['O', 'I-X', 'E-X', 'I-Y'], CONLL, SCHEMES['BIOES']) == ['O', 'B-X', 'E-X', 'S-Y']  # whatever it is
    assert tags.convert(['I-X', 'I-X', 'O'], SCHEMES['IO'], SCHEMES['IOB2']) == ['B-X', 'I-X', 'O']


def test_strict_and_lenient_reading_of_what_is_illegal():
    some = ['I-X', 'O', 'B-X', 'I-Y', 'B-Y', 'I-Y']
    assert tags.spans(some) == [('X', 0, 1), ('X', 2, 3), ('Y', 3, 4), ('Y', 4, 6)]
    assert tags.spans(some, SCHEMES['IOB2']) == [('X', 2, 3), ('Y', 4, 6)]
    some = ['B-X', 'E-Y', 'S-Y', 'B-Y', 'I-Y', 'B-Y', 'E-Y', 'I-X']
    assert tags.spans(some) == [('X', 0, 1), ('Y', 1, 2), ('Y', 2, 3), ('Y', 3, 5), ('Y', 5, 7), ('X', 7, 8)]
    assert tags.spans(some, SCHEMES['BIOES']) == [('Y', 2, 3), ('Y', 5, 7)]
    assert tags.spans([]) == []


@pytest.mark.parametrize('text, scheme, said', [
    ('O B-X E-X', 'IOB2', r"f.txt:3: word 3: tag 'E-X' is not of IOB2, which has B, I and O"),
    ('B-X O', 'BIOES', 'f.txt:3: word 2: O may not follow B-X in BIOES'),
    ('S-X B-X', 'BIOES', 'f.txt:3: word 2: B-X may not end a sentence in BIOES'),
    ('B-X O', 'IOB1', 'f.txt:3: word 1: B-X may not begin a sentence in IOB1'),
    ('O PER', 'IOB2', r"f.txt:3: word 2: tag 'PER' is not O or one of"),
    ('O B-', 'IOB2', r"f.txt:3: word 2: tag 'B-' is not O"),
    ('O $', 'IOB2', r"f.txt:3: word 2: tag '\$' is not O"),
])  # fmt: skip
def test_what_is_illegal_is_named(text, scheme, said):
    with pytest.raises(UserError, match=said):
        tags.check(text.split(), SCHEMES[scheme], 'f.txt:3')


def test_more_mistakes():
    with pytest.raises(UserError, match=r"--scheme is 'BIOS'; did you mean 'BIOES'"):
        tags.scheme_of('BIOS', '--scheme')
    assert tags.scheme_of('IOBES') is SCHEMES['BIOES'] and tags.scheme_of('BIO') is SCHEMES['IOB2']
    for wrong in ([('X', 0, 2), ('Y', 1, 3)], [('X', 2, 4)], [('X', 1, 1)]):
        with pytest.raises(UserError, match='overlaps another or is outside the 3 words'):
            tags.from_spans(wrong, 3, SCHEMES['IOB2'])
    with pytest.raises(ValueError, match='for reading'):
        tags.from_spans([], 1, CONLL)


@pytest.mark.parametrize('name', WRITTEN)
def test_schemes_are_detected(name):
    source = random.Random(0)
    every = list(sentences(5))
    rows = [(f'f:{n}', tags.from_spans(source.choice(every), 5, SCHEMES[name])) for n in range(50)]
    assert tags.detect(rows) is SCHEMES[name]
    rows[7] = ('f:7', ['O', rows[7][1][0].replace('O', f'{SCHEMES[name].marks[0]}-X'), 'I-X'])  # one mistake does not change it
    assert tags.detect(rows) is SCHEMES[name]


def test_detection_of_little_and_of_what_is_none():
    assert tags.detect([('f:1', ['O', 'O'])]).name == 'IOB2'
    assert tags.detect([('f:1', ['I-X', 'O'])]).name == 'IOB1'
    assert tags.detect([('f:1', ['S-X'])]).name == 'BIOES'
    with pytest.raises(UserError, match='f:2: no scheme has all of the marks B, L, S'):
        tags.detect([('f:1', ['O']), ('f:2', ['B-X', 'L-X', 'S-X'])])
    with pytest.raises(UserError, match='no scheme has all of the marks S, U'):
        tags.detect([('f:1', ['S-X']), ('f:2', ['U-X'])])
    with pytest.raises(UserError, match="f:1: tag 'NNP' is not"):
        tags.detect([('f:1', ['NNP'])])


def test_a_set_of_tags_with_a_scheme():
    rows = [('f:1', ['B-PER', 'E-PER', 'O']), ('f:2', ['S-LOC'])]
    found = TagSet.of(rows, SCHEMES['BIOES'])
    assert found.names == ('O', 'B-LOC', 'I-LOC', 'E-LOC', 'S-LOC', 'B-PER', 'I-PER', 'E-PER', 'S-PER')
    assert found.ids(['O', 'I-LOC', 'S-PER']).tolist() == [0, 2, 8] and found.ids([]).dtype == np.int32
    assert found.tags([8, 0]) == ['S-PER', 'O']
    with pytest.raises(UserError, match="g:4: word 2: tag 'S-ORG' is not among the 9 of training; did you mean 'S-"):
        found.ids(['O', 'S-ORG'], 'g:4')


def test_transitions_of_iob2_as_a_literal_matrix():
    found = TagSet.of([('', ['B-X', 'B-Y'])], SCHEMES['IOB2'])
    assert found.names == ('O', 'B-X', 'I-X', 'B-Y', 'I-Y')
    expected = [  # O BX IX BY IY start stop
        [1, 1, 0, 1, 0, 0, 1],
        [1, 1, 1, 1, 0, 0, 1],
        [1, 1, 1, 1, 0, 0, 1],
        [1, 1, 0, 1, 1, 0, 1],
        [1, 1, 0, 1, 1, 0, 1],
        [1, 1, 0, 1, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(found.transitions, np.array(expected, bool))


def test_parts_of_speech_have_no_scheme():
    found = TagSet.of([('f:1', ['DT', 'NN', '$']), ('f:2', ['VB', '.'])])
    assert found.names == ('$', '.', 'DT', 'NN', 'VB') and found.scheme is None
    assert found.transitions[:5, :5].all() and found.transitions[5, :5].all() and found.transitions[:5, 6].all()
    assert not found.transitions[:, 5].any() and not found.transitions[6].any()


@pytest.mark.skipif(not CONLL_2003.exists(), reason='../shared is absent')
def test_conll_2003_goes_through_every_scheme():
    rows = [(where, row['tags']) for where, row in TaggedWords(str(CONLL_2003)).read('train')]
    assert tags.detect(rows) is SCHEMES['IOB1']
    for name in WRITTEN:
        converted = [(where, tags.convert(some, SCHEMES['IOB1'], SCHEMES[name], where)) for where, some in rows]
        assert tags.detect(converted) is SCHEMES[name]
        assert [tags.convert(some, SCHEMES[name], SCHEMES['IOB1'], where) for where, some in converted] == [some for _, some in rows]


def random_tags(source: random.Random, marks: str, kinds=('-A', '-B'), length=12) -> list[str]:
    return [source.choice(['O', *(mark + kind for mark in marks for kind in kinds)]) for _ in range(source.randrange(1, length))]


@pytest.mark.parametrize('scheme', [scheme for scheme in SCHEMES.values() if scheme.name != 'IO'], ids=lambda scheme: scheme.name)
def test_like_seqeval_strict_on_any_tags(scheme):
    theirs = pytest.importorskip('seqeval.scheme', reason='live comparison needs seqeval')
    source = random.Random(1)
    kind = getattr(theirs, {'BIOES': 'IOBES'}.get(scheme.name, scheme.name))
    for _ in range(4000):
        some = random_tags(source, scheme.marks, source.choice([('-A',), ('-A', '-B'), ('',)]))
        wanted = [(entity.tag, entity.start, entity.end) for entity in theirs.Tokens(some, kind).entities]
        found = tags.spans(some, scheme)
        if scheme.name == 'IOE1':  # theirs lacks an E that begins an entity after anything but an E of its type, though it is legal
            found = [(kind_, a, b) for kind_, a, b in found if some[a][0] != 'E' or (a and some[a - 1] == some[a])]
        assert found == wanted, some


@pytest.mark.parametrize('marks', ['BI', 'IE', 'BIES'])
def test_like_seqeval_default_on_any_tags(marks):
    theirs = pytest.importorskip('seqeval.metrics.sequence_labeling', reason='live comparison needs seqeval')
    source = random.Random(2)
    for _ in range(4000):
        some = random_tags(source, marks, source.choice([('-A',), ('-A', '-B'), ('',)]))
        assert tags.spans(some) == [(kind, start, last + 1) for kind, start, last in theirs.get_entities(some)], some
