"""BERT's tokenisation: own cases, training, and golden vectors of the original implementation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError
from tests.data.wordpiece_cases import HARD, PUNCTUATION, SPECIALS, WORDS, folder, pieces


@pytest.fixture
def uncased(tmp_path):
    return tokenizers.load(folder(tmp_path / 'uncased', SPECIALS + WORDS + PUNCTUATION, do_lower_case=True))


@pytest.fixture
def cased(tmp_path):
    return tokenizers.load(folder(tmp_path / 'cased', SPECIALS + WORDS + PUNCTUATION, do_lower_case=False))


@pytest.mark.parametrize('text, expected', HARD, ids=range(len(HARD)))
def test_hard_text(uncased, text, expected):
    assert pieces(uncased, text) == expected


def test_cased_text_keeps_accents_and_case(cased):
    assert pieces(cased, 'Café café cafe Paris paris 한국어') == ['Café', 'café', 'cafe', 'Paris', 'paris', '한국', '##어']
    assert pieces(cased, 'CAFÉ') == ['[UNK]']


@pytest.mark.parametrize(
    'config, expected',
    [
        (dict(do_lower_case=True, strip_accents=False), ['café', 'paris']),
        (dict(do_lower_case=False, strip_accents=True), ['[UNK]', 'Paris']),
        (dict(do_lower_case=True), ['cafe', 'paris']),
    ],
)
def test_config_decides_about_case_and_accents(tmp_path, config, expected):
    path = folder(tmp_path / 'there', SPECIALS + WORDS, **config)
    assert pieces(tokenizers.load(path), 'CAFÉ Paris') == expected
    # And where a tokenizer.json disagrees, the config still decides.
    other = tmp_path / 'other'
    tokenizers.load(folder(tmp_path / 'plain', SPECIALS + WORDS, do_lower_case=False)).save(str(other))
    (other / 'tokenizer_config.json').write_text(json.dumps(config))
    assert pieces(tokenizers.load(str(other)), 'CAFÉ Paris') == expected


def test_chinese_characters_may_stay_together(tmp_path):
    path = folder(tmp_path, SPECIALS + ['中国', '中', '国'], do_lower_case=True, tokenize_chinese_chars=False)
    assert pieces(tokenizers.load(path), '中国') == ['中国']


def test_case_is_guessed_from_the_vocabulary_only_where_nothing_says_it(tmp_path):
    assert pieces(tokenizers.load(folder(tmp_path / 'lower', SPECIALS + ['paris'])), 'Paris') == ['paris']
    assert pieces(tokenizers.load(folder(tmp_path / 'cased', SPECIALS + ['paris', 'Rome'])), 'Paris Rome') == ['[UNK]', 'Rome']
    assert pieces(tokenizers.load(folder(tmp_path / 'said', SPECIALS + ['paris', 'Rome'], do_lower_case=True)), 'Paris Rome') == [
        'paris',
        '[UNK]',
    ]


def test_ids_of_special_tokens_and_continuations(uncased, tmp_path):
    assert (uncased.pad_id, uncased.unk_id, uncased.cls_id, uncased.sep_id, uncased.mask_id) == (0, 1, 2, 3, 4)
    assert uncased.special_ids == {0, 1, 2, 3, 4}
    assert uncased.vocab_size == len(uncased.is_continuation) == len(SPECIALS + WORDS + PUNCTUATION)
    assert {uncased.token(index) for index in np.flatnonzero(uncased.is_continuation)} == {'##want', '##ed', '##ning', '##어', '##a'}
    assert uncased.id('##ed') == uncased.encode('unwanted')[-1]
    with pytest.raises(KeyError):
        uncased.id('absent')
    few = tokenizers.load(folder(tmp_path / 'few', ['a', '[UNK]']))
    assert (few.unk_id, few.mask_id, few.special_ids, few.vocab_size) == (1, None, {1}, 2)


def test_offsets_are_characters_of_the_text(uncased):
    text = 'Café, unwanted 中 [MASK]'
    ids, offsets = uncased.encode_with_offsets(text)
    assert ids == uncased.encode(text)
    assert [text[start:stop] for start, stop in offsets] == ['Café', ',', 'un', 'want', 'ed', '中', '[MASK]']


def test_decode(uncased):
    ids = uncased.encode('Paris is unwanted, [MASK]!')
    assert uncased.decode(ids) == 'paris is unwanted,!'
    assert uncased.decode(np.array(ids), skip_special=False) == 'paris is unwanted, [MASK]!'


def test_literal_text_cannot_forge_special_tokens(uncased):
    literal = uncased.literal()
    assert pieces(literal, '[MASK] [SEP]') == ['[', 'mask', ']', '[', '[UNK]', ']']
    assert pieces(literal, 'Paris is') == ['paris', 'is'] and pieces(uncased, '[MASK]') == ['[MASK]']


def test_half_a_surrogate_pair_is_refused(uncased):
    with pytest.raises(UserError, match='not Unicode'):
        uncased.encode('a \ud800')


# --- Training.

TEXTS = [
    'the running dogs are running, and the dog ran.',
    'naïve Café owners — running cafés since 1990!',
    '中国 and 日本',
    'of the and in to was he',
] * 8
TRAIN = 'import sys, json; from t5x_lite.data import tokenizers as t; print(t.train_wordpiece(json.load(sys.stdin), 150).fingerprint)'


def test_training_is_deterministic_across_processes_and_threads():
    here = tokenizers.train_wordpiece(TEXTS, 150).fingerprint
    for threads, seed in (('false', '1'), ('true', '2')):
        env = {**os.environ, 'TOKENIZERS_PARALLELISM': threads, 'PYTHONHASHSEED': seed}
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, '-c', TRAIN], input=json.dumps(TEXTS), capture_output=True, text=True, env=env, cwd=root, check=True
        )
        assert done.stdout.strip() == here
    assert tokenizers.train_wordpiece(iter(TEXTS), 150).fingerprint == here  # an iterator can be read only once


def test_trained_vocabulary(tmp_path):
    tokenizer = tokenizers.train_wordpiece(TEXTS, 150, lowercase=True)
    vocab = [tokenizer.token(index) for index in range(tokenizer.vocab_size)]
    assert vocab[:5] == SPECIALS and len(set(vocab)) == tokenizer.vocab_size <= 150
    assert 'running' in vocab and 'naive' in vocab and not any(piece != piece.lower() for piece in vocab[5:])
    assert '##.' not in vocab and '##中' not in vocab  # they always stand alone
    for text in TEXTS:
        assert tokenizer.unk_id not in tokenizer.encode(text)
    # Any word over the alphabet can be spelt, seen or not.
    assert tokenizer.unk_id not in tokenizer.encode('gnorwned deanrs')
    cased = tokenizers.train_wordpiece(TEXTS, 150, lowercase=False)
    assert cased.decode(cased.encode('Café — naïve')) == 'Café — naïve'


def test_rare_characters_do_not_fill_the_vocabulary(monkeypatch):
    noise = ''.join(chr(0x4E00 + number) for number in range(3000))
    tokenizer = tokenizers.train_wordpiece(['plain words ' * 110_000, noise], 2200)
    assert tokenizer.vocab_size < 100 and tokenizer.unk_id in tokenizer.encode('一')
    with pytest.raises(UserError, match='1000 different characters'):
        tokenizers.train_wordpiece([noise], 1000)


def test_training_refuses_what_cannot_work():
    with pytest.raises(UserError, match=r'--vocab_size=20 is too small: the text has \d+ different characters, .* need \d+ pieces'):
        tokenizers.train_wordpiece(TEXTS, 20)
    for nothing in ([], [''], [' \n', '\u200b']):
        with pytest.raises(UserError, match='no text'):
            tokenizers.train_wordpiece(nothing, 100)
    with pytest.raises(UserError, match=r"no such kind or folder, did you mean 'wordpiece'\?"):
        tokenizers.train('wordpeice', TEXTS, 100, True)
