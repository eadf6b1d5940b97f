"""Vocabularies against what seqio and the public T5 tokenizer record."""

import functools

import pytest
import tokenizers as library

from t5x_lite.data import tokenizers
from t5x_lite.data.byte_pairs import byte_bpe
from t5x_lite.data.characters import train_characters
from tests import golden
from tests.data.tokenizer_cases import VOCABULARIES
from tests.data.wordpiece_cases import folder, pieces


def check_characters(case):
    """Of the case's characters, theirs numbered in its order and ours by code point; what is none of them is unknown in both."""
    text, letters = case['input']['text'], [chr(code) for code in case['input'].get('code_points', sorted({*map(ord, case['input']['text'])}))]
    tokenizer = train_characters(letters)
    names = {number: letter for number, letter in enumerate(letters, 3)} if 'code_points' in case['input'] else {ord(letter): letter for letter in letters}
    assert [tokenizer.token(index) for index in tokenizer.encode(text)] == [names.get(index, '<unk>') for index in case['expected']]


def check_bytes(case):
    """A byte-level BPE without merges: a piece a byte, in another order than theirs."""
    text, expected = case['input'].get('text'), case['expected']
    tokenizer = bytes_alone()
    by_byte = {index: byte for byte, index in enumerate(spelled(tokenizer))}
    assert [by_byte[index] + 3 for index in tokenizer.encode(text)] == expected['ids']
    assert tokenizer.decode(tokenizer.encode(text)) == text


def check_t5(case):
    wanted, eos = case['expected'], 'EOS appended' in case['function']
    tokenizer, literal = t5()
    assert literal.encode(case['input']['text']) + [tokenizer.eos_id] * eos == wanted['ids']
    assert literal.decode(wanted['ids']) == wanted['decoded']
    if 'model_pieces' in wanted:
        assert tokenizer.sentinel_ids[-1] == wanted['model_pieces'] and len(tokenizer.sentinel_ids) == 100


@functools.cache
def t5():
    tokenizer = tokenizers.load(str(VOCABULARIES / 't5_tokenizer_base.model'))
    return tokenizer, tokenizer.literal()


def bytes_alone():
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    return byte_bpe({letter: number for number, letter in enumerate(alphabet)} | {'<|endoftext|>': 256}, [])


def spelled(tokenizer):
    """The id of each of the 256 bytes, by the alphabet of byte-level BPE: printable ones stand for themselves, the others follow from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [tokenizer.id(letters[byte]) for byte in range(256)]


BYTES = 'a vocabulary of bytes with ids of its own (byte + 3, extra ids behind): ours are pieces of a byte-level BPE'
WORDS = 'whole words of a given list, split at spaces: no tokenizer here is without smaller pieces'
CODES = 'ids that are code points, or end a text where they are decoded: ours cuts answers in t5x_lite.evaluation'
SMALL_MODEL = 'the 26 pieces of a test model of seqio that does not lie beside the cases; our own models stand in test_sentence_piece.py'
NOT_OURS = {
    'byte decode ignores ids outside the range': 'ids that are negative are an error here; those beyond the vocabulary are left out, tested in test_tokenizers.py',
    'byte decode ignores invalid UTF-8': 'broken UTF-8 decodes to the replacement character, as in GPT-2',
    'byte vocabulary with 10 extra ids': BYTES,
    'byte decode': BYTES,
    'unigram encode (0 = pad, unknown = 9)': WORDS,
    'unigram decode': WORDS,
    'decode cuts after EOS 1': CODES,
    'decode, no EOS': CODES,
    'ASCII vocabulary decode: out-of-vocabulary ids become unk 2, text stops after EOS': CODES,
    'sentencepiece encode/decode (26 pieces)': SMALL_MODEL,
    'sentencepiece with 10 extra ids, reversed (extra_id_0 is the last id)': SMALL_MODEL,
    'extra ids in rising order': SMALL_MODEL,
    'default collapses repeated spaces': SMALL_MODEL,
    'sentencepiece encode': SMALL_MODEL,
}


def test_the_reference_implementations(tmp_path):
    if not (VOCABULARIES / 't5_tokenizer_base.model').exists():
        pytest.skip(f'{VOCABULARIES} is absent')

    def check_wordpiece(case):
        vocab = ['[PAD]', *(f'[unused{number}]' for number in range(99)), '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'is', 'test', 'this']
        tokenizer = tokenizers.load(folder(tmp_path / 'words', vocab))
        special = {tokenizer.token(index): index for index in (tokenizer.cls_id, tokenizer.mask_id, tokenizer.unk_id, tokenizer.sep_id)}
        assert special == case['expected']['special']
        assert pieces(tokenizer, case['input']['text']) == case['input']['text'].split()

    checks = {
        'byte vocabulary (id = byte + 3)': check_bytes,
        'partial code-point encode (0 pad, 1 EOS, 2 unknown)': check_characters,
        'code-point encode': check_characters,
        'T5 base tokenizer (pytorch/text asset t5_tokenizer_base.model), EOS appended': check_t5,
        'T5 base tokenizer, no EOS': check_t5,
        'wordpiece vocabulary of 109 entries ([PAD], [unused0..98], [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, a, is, this, test)': check_wordpiece,
    }
    golden.hold('vocabularies', checks, NOT_OURS)
