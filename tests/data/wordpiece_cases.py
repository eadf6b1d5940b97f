"""What the tests of WordPiece share: vocabularies, folders, and text that must be cut as the original cuts it."""

import json
from pathlib import Path

from tests.data.tokenizer_cases import RANGES

SPECIALS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
WORDS = [
    'cafe', 'café', 'Café', 'un', '##want', '##ed', 'run', '##ning', 'paris', 'Paris', 'is', 'strasse', 'straße', '中', '国', '한국', '##어',
    'a', '##a', 'ab', 'mask',
]  # fmt: skip
PUNCTUATION = list('.,!?-[]#$^`~|<>=+') + ['。', '—', '“', '¿']


def folder(path: Path, pieces: list[str], **config) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / 'vocab.txt').write_text(''.join(piece + '\n' for piece in pieces), encoding='utf-8')
    if config:
        (path / 'tokenizer_config.json').write_text(json.dumps(config), encoding='utf-8')
    return str(path)


def pieces(tokenizer, text):
    return [tokenizer.token(index) for index in tokenizer.encode(text)]


HARD = [
    ('', []),
    (' \t\r\n\u00a0\u2003\u3000', []),  # every kind of space
    ('\u00ad\u200b\u0000\ufffd\u200d', []),  # soft hyphen, zero-width characters, NUL, replacement character
    ('un\u00adwant\u200bed', ['un', '##want', '##ed']),  # and inside a word they vanish
    ('un\x85wan\x0bted', ['un', '##want', '##ed']),  # controls that other software takes for line ends
    ('CAFÉ cafe\u0301 Cafe', ['cafe', 'cafe', 'cafe']),  # composed, decomposed and no accent are one
    ('Straße', ['straße']),  # lower case is not case folding
    ('unwanted,running!', ['un', '##want', '##ed', ',', 'run', '##ning', '!']),
    ('--..?', ['-', '-', '.', '.', '?']),
    ('$a^a`a~a', ['$', 'a', '^', 'a', '`', 'a', '~', 'a']),  # symbols that Unicode does not call punctuation
    ('“a”', ['“', 'a', '[UNK]']),
    ('中国paris中', ['中', '国', 'paris', '中']),
    ('한국어', ['[UNK]']),  # lower case splits Hangul into letters that are not pieces, as in the original
    ('🙂', ['[UNK]']),
    ('a' * 100, ['a'] + ['##a'] * 99),
    ('a' * 101, ['[UNK]']),
    ('unknowable', ['[UNK]']),  # a word is cut whole or not at all
    ('Paris is [MASK].', ['paris', 'is', '[MASK]', '.']),
    ('is[MASK]is', ['is', '[MASK]', 'is']),
    ('[mask] [MASK', ['[', 'mask', ']', '[', 'mask']),
]
SPICE = [
    '[MASK]', '[SEP]', '[PAD', '##ing', 'the', 'Straße', 'naïve', 'e\u0301', '\u00ad', '\u200d', 'a' * 101, '...', 'ﬁ', 'İ', 'ẞ', 'Σας',
]  # fmt: skip


def fuzz_vocabulary() -> list[str]:
    """Most letters that the fuzzed strings hold, some words, and no punctuation beyond ASCII, so that every rule shows in the ids."""
    letters = [chr(code) for first, last in RANGES[:11] for code in range(first, min(last, first + 900)) if chr(code).strip()]
    both = [form for letter in dict.fromkeys(letters) for form in (letter, '##' + letter)]
    return list(dict.fromkeys(SPECIALS + both + ['the', 'naive', 'naïve', '##ing', 'straße', 'fi', 'ab', '##ab']))
