"""Characters to tokens and back, for every kind of tokenizer and any text."""

import random

import pytest

from t5x_lite.data.passages import Passage
from tests.data.reading_material import KINDS, tokenizer, wordpiece
from tests.data.tokenizer_cases import fuzz

# Accents apart and together, scripts without spaces, ligatures, marks of other scripts, emoji of one character and of several.
HARD_WORDS = [
    'cat', 'Zoë', 'Zoe\u0308', 'naïve', 'e\u0301te\u0301', '東京', 'İstanbul', 'ﬁne', 'Straße', 'don’t', 'हिन्दी', '١٢٣', '👍🏽', '1,5', 'a\u0323\u0307b', '…', '½', '한국어', 'x²',
]  # fmt: skip
SPACES = [' ', '  ', '\n', '\t', '\u00a0', '\u3000', ' \n ']


def test_worked_example():
    passage = Passage.of('It was  Zoe\u0308.', wordpiece())
    assert passage.starts.tolist() == [0, 3, 8, 10, 12] and passage.stops.tolist() == [2, 6, 10, 12, 13]
    assert passage.tokens(8, 12) == (2, 3) and passage.tokens(9, 10) == (2, 2) and passage.tokens(6, 8) is None
    assert passage.characters(2, 3) == (8, 12)


@pytest.mark.parametrize('kind', KINDS)
def test_words_come_back_to_the_character(kind):
    made, source = tokenizer(kind), random.Random(kind)
    for _ in range(60):
        words = source.choices(HARD_WORDS, k=source.randrange(1, 12))
        text, places = source.choice(['', ' ', '\n']), []
        for word in words:
            places.append((len(text), len(text) + len(word)))
            text += word + source.choice(SPACES)
        passage = Passage.of(text, made)
        for first in range(len(words)):
            last = source.randrange(first, len(words))
            start, stop = places[first][0], places[last][1]
            assert passage.characters(*passage.tokens(start, stop)) == (start, stop), (text, text[start:stop])


@pytest.mark.parametrize('kind', KINDS)
def test_any_text(kind):
    made, source = tokenizer(kind).literal(), random.Random(kind)
    for text in fuzz(150, seed=3):
        passage = Passage.of(text, made)
        assert passage.ids.tolist() == made.encode(text)
        assert (passage.starts <= passage.stops).all() and (passage.stops <= len(text)).all()
        for start, stop in zip(passage.starts, passage.stops, strict=True):
            assert text[start:stop] == text[start:stop].strip()
        if not len(passage):
            continue
        for _ in range(5):  # the characters of any tokens lead back to tokens of the same characters
            first = source.randrange(len(passage))
            start, stop = passage.characters(first, source.randrange(first, len(passage)))
            found = passage.tokens(start, stop)
            assert found is None if start == stop else passage.characters(*found) == (start, stop), (text, start, stop)
