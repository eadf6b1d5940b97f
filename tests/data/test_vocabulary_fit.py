"""Does a tokenizer fit a text? English pieces on English, Finnish and Russian; characters; scripts without spaces; special tokens that do not count."""

from pathlib import Path

import numpy as np
import pytest

from t5x_lite.data import tokenizers, vocabulary_fit
from t5x_lite.data.vocabulary_fit import Counts

ENGLISH = (Path(__file__).resolve().parents[2] / 'README.md').read_text(encoding='utf-8')
FINNISH = (
    'Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan '
    'kohtaan veljeyden hengessä. Jokaisella on oikeus elämään, vapauteen ja henkilökohtaiseen turvallisuuteen. '
)
RUSSIAN = (
    'Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга '
    'в духе братства. Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность. '
)
CHINESE = '人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。'


@pytest.fixture(scope='module')
def pieces():
    return tokenizers.train('wordpiece', ENGLISH.splitlines(), 3000, True)


def batches(tokenizer, text, times=1, around=()):
    """Rows of the text between special tokens, filled up with padding."""
    ids = [*around, *tokenizer.encode(text), *around]
    tokens = np.array([ids + [0] * 5] * times, np.int32)
    sequence_ids = np.array([[1] * len(ids) + [0] * 5] * times, np.int32)
    return [{'tokens': tokens, 'sequence_ids': sequence_ids}]


def said(tokenizer, text, times=1, given=True):
    return vocabulary_fit.mismatch(vocabulary_fit.count(tokenizer, batches(tokenizer, text, times)), given)


def test_a_text_like_that_of_the_vocabulary_fits(pieces):
    assert said(pieces, ENGLISH) == ''


def test_another_language_in_the_same_letters_falls_to_pieces(pieces):
    assert 'pieces a word, where 1.5 are usual' in said(pieces, FINNISH, 30)
    assert said(pieces, FINNISH, 30, given=False) == '' or 'unknown' in said(pieces, FINNISH, 30, given=False)
    assert said(pieces, FINNISH) == '', 'too few words to say'


def test_another_script_is_unknown(pieces):
    for given in (True, False):
        line = said(pieces, RUSSIAN, 30, given)
        assert 'of its pieces are unknown' in line and '\n' not in line


def test_pieces_and_words_are_counted_one_by_one(pieces):
    ids = pieces.encode('training')
    around = (pieces.cls_id, pieces.sep_id)
    counts = vocabulary_fit.count(pieces, batches(pieces, 'training \u0416 training', around=around))
    assert counts == Counts(pieces=2 * len(ids) + 1, words=3, unknown=1)
    with_targets = batches(pieces, 'training')[0]
    with_targets |= {'decoder_tokens': with_targets['tokens'], 'decoder_sequence_ids': with_targets['sequence_ids']}
    assert vocabulary_fit.count(pieces, [with_targets]).pieces == 2 * len(ids)


def test_byte_pairs_mark_the_beginnings_of_words():
    tokenizer = tokenizers.train('byte_bpe', [ENGLISH], 3000, False)
    assert said(tokenizer, ENGLISH) == '' and 'pieces a word' in said(tokenizer, RUSSIAN, 30)


def test_characters_have_no_words():
    tokenizer = tokenizers.train('characters', [ENGLISH], None, False)
    counts = vocabulary_fit.count(tokenizer, batches(tokenizer, ENGLISH))
    assert counts.words == 0 and vocabulary_fit.mismatch(counts, True) == ''
    assert 'unknown' in said(tokenizer, RUSSIAN, 30)


def test_scripts_without_spaces_are_counted_by_characters():
    tokenizer = tokenizers.train('wordpiece', [CHINESE] * 50, 200, True)
    assert said(tokenizer, CHINESE, 30) == ''
    chinese = tokenizers.train('sentencepiece', [CHINESE * 3] * 200 + ['a b c d e f'] * 50, 250, False)
    assert said(chinese, CHINESE * 3, 30) == ''
