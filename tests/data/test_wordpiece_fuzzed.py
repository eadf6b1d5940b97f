"""WordPiece on fuzzed text: beside an independent implementation, beside transformers where it is installed, and beside its recorded ids."""

import itertools
import json
import unicodedata

import numpy as np
import pytest

from t5x_lite.data import tokenizer as tokenizer_module
from t5x_lite.data import tokenizers
from tests.data.tokenizer_cases import SHARED, fuzz, settled
from tests.data.wordpiece_cases import HARD, SPICE, folder, fuzz_vocabulary
from tests.fixtures import make_tokenizer_digests


def reference(text: str, vocab: set[str], lowercase: bool) -> list[str]:
    """Devlin et al.'s rules, written down from their description, for text without special tokens."""
    kinds = [(character, unicodedata.category(character)) for character in text]
    cleaned = ''.join(
        ' ' if character in ' \t\n\r' or kind == 'Zs' else character
        for character, kind in kinds
        if character in '\t\n\r' or not (kind[0] == 'C' or character == '\ufffd' or ord(character) == 0)
    )
    cjk = [
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    ]
    spaced = ''.join(f' {c} ' if any(first <= ord(c) <= last for first, last in cjk) else c for c in cleaned)
    words = []
    for word in spaced.split():
        if lowercase:
            word = ''.join(c for c in unicodedata.normalize('NFD', word.lower()) if unicodedata.category(c) != 'Mn')
        current = ''
        for c in word:
            ascii_mark = 33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96 or 123 <= ord(c) <= 126
            if ascii_mark or unicodedata.category(c)[0] == 'P':
                words += [current, c]
                current = ''
            else:
                current += c
        words.append(current)
    found = []
    for word in filter(None, words):
        cut, start = [], 0
        while start < len(word) and len(word) <= 100:
            ends = (end for end in range(len(word), start, -1) if ('##' if start else '') + word[start:end] in vocab)
            end = next(ends, None)
            if end is None:
                break
            cut.append(('##' if start else '') + word[start:end])
            start = end
        found += cut if start == len(word) else ['[UNK]']
    return found


@pytest.mark.parametrize('lowercase', [True, False])
def test_fuzzed_text_follows_the_rules(tmp_path, lowercase):
    vocabulary = fuzz_vocabulary()
    literal = tokenizers.load(folder(tmp_path, vocabulary, do_lower_case=lowercase)).literal()
    known = set(vocabulary)
    every = itertools.chain(range(0x3400), range(0x3400, 0xD800, 13), range(0xF900, 0x20000), range(0x20000, 0x30000, 13))
    texts = [f'a{chr(code)}a' for code in every if settled(chr(code))]
    texts += [''.join(filter(settled, text)) for text in fuzz(5000, seed=1, spice=SPICE)]
    found = [[literal.token(index) for index in ids] for ids in literal.encode_batch(texts)]
    wrong = [number for number, text in enumerate(texts) if found[number] != reference(text, known, lowercase)]
    assert not wrong, (
        f'{len(wrong)} differ, such as {texts[wrong[0]]!r}: {found[wrong[0]]}, expected {reference(texts[wrong[0]], known, lowercase)}'
    )


@pytest.mark.parametrize('cached', [1 << 16, 50])
@pytest.mark.parametrize('lowercase', [True, False])
def test_flat_encoding_equals_encoding(tmp_path, monkeypatch, lowercase, cached):
    monkeypatch.setattr(tokenizer_module, '_CACHED_WORDS', cached)
    tokenizer = tokenizers.load(folder(tmp_path, fuzz_vocabulary(), do_lower_case=lowercase))
    texts = list(fuzz(2000, seed=2, spice=SPICE)) + ['', ' ', '\n', 'a\nb', '.', 'a' * 5000]
    for kind in (tokenizer, tokenizer.literal()):
        expected = kind.encode_batch(texts)
        for size in (len(texts), 37):
            parts = [kind.encode_flat(texts[start : start + size]) for start in range(0, len(texts), size)]
            assert np.concatenate([part[1] for part in parts]).tolist() == list(map(len, expected))
            assert np.concatenate([part[0] for part in parts]).tolist() == list(itertools.chain.from_iterable(expected))
    ids, lengths = tokenizer.encode_flat([])
    assert ids.shape == lengths.shape == (0,)


def check_against_transformers(path: str, texts: list[str]):
    transformers = pytest.importorskip('transformers')
    theirs = transformers.BertTokenizer.from_pretrained(path)
    ours = tokenizers.load(path)
    expected = theirs(texts, add_special_tokens=False)['input_ids']
    got = ours.encode_batch(texts)
    wrong = [index for index in range(len(texts)) if got[index] != expected[index]]
    assert not wrong, f'{len(wrong)} differ, such as {texts[wrong[0]]!r}'
    for ids in expected[:500]:
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
    assert {ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id} == set(theirs.all_special_ids) == ours.special_ids


@pytest.mark.parametrize('lowercase', [True, False])
def test_fuzzed_text_equals_transformers(tmp_path, lowercase):
    path = folder(tmp_path, fuzz_vocabulary(), do_lower_case=lowercase)
    check_against_transformers(path, list(fuzz(5000, seed=3, spice=SPICE)) + [text for text, _ in HARD])


@pytest.mark.parametrize('lowercase', [True, False])
def test_a_hundred_thousand_fuzzed_texts_equal_transformers(tmp_path, lowercase):
    """Recorded, so that it is checked where transformers is not installed."""
    path = folder(tmp_path, fuzz_vocabulary(), do_lower_case=lowercase)
    texts = list(fuzz(make_tokenizer_digests.COUNT, make_tokenizer_digests.SEED, SPICE))
    found = make_tokenizer_digests.digests(tokenizers.load(path).encode_batch(texts))
    recorded = json.loads(make_tokenizer_digests.FILE.read_text())[f'lowercase={lowercase}']
    wrong = [number for number, pair in enumerate(zip(found, recorded, strict=True)) if pair[0] != pair[1]]
    assert not wrong, f'of the blocks of 1,000, these differ: {wrong}; check_against_transformers finds the strings'


@pytest.mark.slow
@pytest.mark.parametrize('lowercase', [True, False])
def test_a_hundred_thousand_fuzzed_texts_equal_transformers_in_its_own_vocabulary(tmp_path, lowercase):
    name = f'bert_base_{"uncased" if lowercase else "cased"}_vocab.txt'
    vocabulary = SHARED / 'data' / 'vocabs' / name
    if not vocabulary.exists():
        pytest.skip(f'no {vocabulary}')
    found = vocabulary.read_text(encoding='utf-8').splitlines()
    check_against_transformers(folder(tmp_path, found, do_lower_case=lowercase), list(fuzz(100_000, seed=4, spice=SPICE)))
