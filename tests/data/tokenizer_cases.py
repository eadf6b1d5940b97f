"""What the tests of the kinds of tokenizers share: fixtures with ids from public code, and a fuzz for text that must survive."""

import json
import random
from pathlib import Path

from tests.data.test_tokenizers import RANGES
from tests.fixtures.make_tokenizer_fixtures import FOLDER, TEXTS

SHARED = Path(__file__).resolve().parents[2] / '..' / 'shared'
VOCABULARIES = SHARED / 'data' / 'vocabs'
HARD = [
    *TEXTS, 'a' * 5000, 'ab ' * 3000, ' ' * 3000 + 'x', '\n' * 500, '👍🏽' * 200, 'e' + '\u0301' * 200, '\u202eright to left\u202c',
    ''.join(map(chr, range(0x300))), ''.join(map(chr, range(0x2000, 0x2070))), '\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029', '\U0001f1e9\U0001f1ea' * 9,
]  # fmt: skip
_SPICE = [
    "'s", "'ll", " 'tis", '<|endoftext|>', '<extra_id_0>', '</s>', '[NLU]', 'the', ' of', 'Straße', 'naïve', 'e\u0301', '\u200d', '🏳️‍🌈', '   ', '\r\n', '\n\n',
    '\x00', '12', 'İ', 'ﬁ', '中', '▁', '⁇', 'xy' * 60, '…', '.' * 7,
]  # fmt: skip


def expected(name: str) -> list[list[int]]:
    """Ids of TEXTS in a folder of fixtures, from public code."""
    return json.loads((FOLDER / 'expected.json').read_text())[name]


def fuzz(count: int, seed: int):
    """Strings of up to 24 parts of any script, control characters and what is known to be difficult."""
    source = random.Random(seed)
    for _ in range(count):
        mix, parts = source.sample(RANGES, source.randrange(1, 5)), []
        for _ in range(source.randrange(24)):
            kind = source.random()
            if kind < 0.2:
                parts.append(source.choice(_SPICE))
            elif kind < 0.4:
                parts.append(source.choice(' \t\n\r\u00a0\u2003'))
            else:
                code = source.randrange(*source.choice(mix))
                parts.append(' ' if 0xD800 <= code < 0xE000 else chr(code))
        yield ''.join(parts)
