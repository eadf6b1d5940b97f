"""BERT's tokenisation against what the original implementation records."""

import functools
import itertools

import pytest

from t5x_lite.data import tables, tokenizers
from tests import golden
from tests.data.tokenizer_cases import SHARED
from tests.data.wordpiece_cases import SPECIALS, folder, pieces


@functools.cache
def full(kind):
    vocabulary = SHARED / 'data' / 'vocabs' / f'bert_base_{kind}_vocab.txt'
    if not vocabulary.exists():
        pytest.skip(f'{vocabulary} is absent')
    return tokenizers.load(str(vocabulary))  # the file says nothing of case: guessed


def check_full(kind, case):
    given, tokenizer = case['input'], full(kind)
    assert given['do_lower_case'] == (kind == 'uncased')
    never_split, spelt = set(given.get('never_split', ())), {name for name in SPECIALS if name in given['text']}
    if never_split and not spelt <= never_split:
        return SOME_SPECIALS
    if any(100 < len(word) <= 200 for word in given['text'].split()):
        return LONG_WORDS
    assert (tokenizer if never_split else tokenizer.literal()).encode(given['text']) == case['expected']['ids']
    return None


def check_offsets(case):
    tokenizer = full(case['input']['vocab'].removeprefix('bert-base-'))
    ids, offsets = tokenizer.encode_with_offsets(case['input']['text'])
    assert [[list(offset), tokenizer.token(index)] for index, offset in zip(ids, offsets, strict=True)] == case['expected'][1:-1]


def check_words(new, case):
    """A vocabulary of all characters shows where text is cut."""
    given, expected = case['input'], case['expected']
    if not set(given.get('never_split', ())) <= set(SPECIALS):
        return SOME_SPECIALS
    letters = sorted(set(''.join(word for word in expected if word not in SPECIALS)))
    vocab = SPECIALS + [form for letter in letters for form in (letter, '##' + letter) if form not in SPECIALS]
    tokenizer = tokenizers.load(folder(new(), vocab, do_lower_case=given['do_lower_case'], strip_accents=given.get('strip_accents')))
    words = []
    for piece in pieces(tokenizer if 'never_split' in given else tokenizer.literal(), given['text']):
        words[-1:] = [words[-1] + piece[2:]] if piece.startswith('##') and len(piece) > 2 and words else [*words[-1:], piece]
    assert words == expected
    return None


def check_pieces(new, case):
    given, expected = case['input'], case['expected']
    tokenizer = tokenizers.load(folder(new(), given['vocab'], do_lower_case='lower' in case['function']))
    if isinstance(expected, dict):
        assert tokenizer.encode(given['text']) == expected['ids']
        expected = expected['tokens']
    assert pieces(tokenizer, given['text']) == expected


def check_ids(new, case):
    tokenizer = tokenizers.load(folder(new(), case['input']['vocab']))
    assert [tokenizer.id(token) for token in case['input']['tokens']] == case['expected']


def check_cleaned(new, case):
    tokenizer = tokenizers.load(folder(new(), case['input']['vocab'], do_lower_case=False))
    assert [pieces(tokenizer, text) for text in case['input']['texts']] == case['expected']


def check_kind(new, case):
    """What a character does between two letters: it parts them, or vanishes, or stands alone."""
    letter = case['input']
    vocab = SPECIALS + ['a', '##b', 'b', *([] if letter.isspace() or not letter.isprintable() else [letter, '##' + letter, '##b'])]
    found = pieces(tokenizers.load(folder(new(), list(dict.fromkeys(vocab)), do_lower_case=False)).literal(), f'a{letter}b')
    wanted = {'is_whitespace': ['a', 'b'], 'is_control': ['a', '##b'], 'is_punctuation': ['a', letter, 'b']}[case['function']]
    assert (found == wanted) == case['expected'], found


def check_specials(new, case):
    vocab = ['[PAD]', *(f'[unused{number}]' for number in range(99)), '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'A', 'B']
    tokenizer = tokenizers.load(folder(new(), vocab, do_lower_case=False))
    assert (tokenizer.cls_id, tokenizer.sep_id) == (case['expected']['cls_id'], case['expected']['sep_id'])
    for name, texts in (('single', ['A']), ('pair', ['A', 'B'])):
        tokens = tables.encode_texts([texts], tokenizer, 8)['tokens'][0]
        assert [tokenizer.token(index) for index in tokens.tolist() if index] == case['expected'][name]


SOME_SPECIALS = 'some special tokens kept whole and others cut, or words: ours keeps all special tokens whole, or none'
LONG_WORDS = 'words of 101 to 200 characters: the first code gave them pieces; transformers, which ours equals, stops at 100'


def test_the_reference_implementation(tmp_path):
    number = itertools.count()
    of = {check: functools.partial(check, lambda: tmp_path / str(next(number))) for check in (
        check_words, check_pieces, check_ids, check_cleaned, check_kind, check_specials,
    )}  # fmt: skip
    checks = {
        'full tokenizer (lower case)': of[check_pieces],
        'basic tokenizer': of[check_words],
        'wordpiece (greedy longest match first)': of[check_pieces],
        'tokens to ids': of[check_ids],
        'is_whitespace': of[check_kind],
        'is_control': of[check_kind],
        'is_punctuation': of[check_kind],
        'soft hyphen alone gives no token; unknown words give [UNK]': of[check_cleaned],
        'special tokens: single and pair': of[check_specials],
        'offsets, uncased vocabulary': check_offsets,
        'offsets, cased vocabulary': check_offsets,
        'full tokenizer, bert-base-uncased vocabulary (pytorch/text asset bert_base_uncased_vocab.txt)': functools.partial(check_full, 'uncased'),
        'full tokenizer, bert-base-cased vocabulary (pytorch/text asset bert_base_cased_vocab.txt)': functools.partial(check_full, 'cased'),
        'full tokenizer, bert-base-uncased vocabulary': functools.partial(check_full, 'uncased'),
        'full tokenizer, bert-base-cased vocabulary': functools.partial(check_full, 'cased'),
    }
    golden.hold('bert_tokenization', checks, {}, {SOME_SPECIALS: 2, LONG_WORDS: 2})
