"""What the tests of the kinds of tokenizers share: fixtures with ids from public code, and a fuzz for text that must survive."""

import json
import random
import unicodedata
from pathlib import Path

from tests.fixtures.make_tokenizer_fixtures import FOLDER, TEXTS

SHARED = Path(__file__).resolve().parents[2] / '..' / 'shared'
VOCABULARIES = SHARED / 'data' / 'vocabs'
HARD = [
    *TEXTS, 'a' * 5000, 'ab ' * 3000, ' ' * 3000 + 'x', '\n' * 500, '👍🏽' * 200, 'e' + '\u0301' * 200, '\u202eright to left\u202c',
    ''.join(map(chr, range(0x300))), ''.join(map(chr, range(0x2000, 0x2070))), '\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029', '\U0001f1e9\U0001f1ea' * 9,
]  # fmt: skip
RANGES = [
    (32, 127), (0, 32), (127, 160), (0xA0, 0x250), (0x250, 0x600), (0x300, 0x370), (0x600, 0x1200), (0x2000, 0x2070), (0x3040, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xFE00, 0xFFFF), (0x1F300, 0x1F700), (0x10000, 0x110000), (0x20000, 0x2FFFF),
]  # fmt: skip
SPICE = [
    "'s", "'ll", " 'tis", '<|endoftext|>', '<extra_id_0>', '</s>', '[NLU]', 'the', ' of', 'Straße', 'naïve', 'e\u0301', '\u200d', '🏳️‍🌈', '   ', '\r\n', '\n\n',
    '\x00', '12', 'İ', 'ﬁ', '中', '▁', '⁇', 'xy' * 60, '…', '.' * 7,
]  # fmt: skip


def expected(name: str) -> list[list[int]]:
    """Ids of TEXTS in a folder of fixtures, from public code."""
    return json.loads((FOLDER / 'expected.json').read_text())[name]


def fuzz(count: int, seed: int, spice: list[str] = SPICE):
    """Strings of up to 24 parts: a few scripts mixed, control characters, white space of all kinds, and what is known to be difficult: `spice`."""
    source = random.Random(seed)
    for _ in range(count):
        mix, parts = source.sample(RANGES, source.randrange(1, 5)), []
        for _ in range(source.randrange(24)):
            kind = source.random()
            if kind < 0.12:
                parts.append(source.choice(spice))
            elif kind < 0.3:
                parts.append(source.choice(' \t\n\r\u00a0\u2003'))
            else:
                code = source.randrange(*source.choice(mix))
                parts.append(' ' if 0xD800 <= code < 0xE000 else chr(code))
        yield ''.join(parts)


def settled(character: str) -> bool:
    """Python and the library follow different Unicode versions: characters of 3.2 whose kind has not changed since must agree."""
    kind = unicodedata.ucd_3_2_0.category(character)
    return kind == unicodedata.category(character) and kind != 'Cn'
