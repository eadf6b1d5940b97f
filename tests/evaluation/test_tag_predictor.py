"""How texts of any length become rows of whole words."""

import numpy as np

from t5x_lite.data import tokenizers
from t5x_lite.data.tagged_files import Sentence
from t5x_lite.data.word_pieces import WordCutter
from t5x_lite.evaluation import tag_predictor
from t5x_lite.evaluation.tag_predictor import TagPredictor
from tests.data.table_material import CLS, SEP, vocabulary

ROW = 12  # pieces


class Counting:
    """A cutter that counts the words it was given."""

    def __init__(self, cutter):
        self.cutter, self.words = cutter, 0

    def cut(self, rows):
        self.words += sum(len(words) for _, words in rows)
        return self.cutter.cut(rows)


def predictor(folder):
    made = object.__new__(TagPredictor)
    made._cutter, made._seq_len = Counting(WordCutter(tokenizers.load(vocabulary(folder)), ROW, (CLS,), (SEP,))), ROW
    return made


def test_rows_are_as_full_as_they_can_be(tmp_path):
    words = np.random.default_rng(0).choice(['a', 'red', 'house', '\x01', 'cat'], 300).tolist()
    parts = predictor(tmp_path)._parts(words)
    assert sum(part.num_words for part in parts) == len(words)
    whole = [word for word in words if word != '\x01']
    alone = predictor(tmp_path)._parts(whole)
    assert [len(part.ids) for part in alone[:-1]] == [ROW] * (len(alone) - 1) and len(alone) == -(-len(whole) // (ROW - 2))
    pieces = [part.ids[1:-1].tolist() for part in parts]
    assert sum(pieces, []) == sum((part.ids[1:-1].tolist() for part in alone), [])


def test_a_text_of_100_000_words_is_cut_once_and_not_once_for_each_row(tmp_path):
    made, words = predictor(tmp_path), ['cat', 'house'] * 50_000
    parts = made._parts(words)
    assert sum(part.num_words for part in parts) == 100_000 and made._cutter.words < 1.3 * 100_000


def test_words_that_are_given_are_the_words():
    for words in ((), ('U.S.',), ('(of', 'Rome)', 'New York', 'left.'), ('', 'a')):
        text, places = tag_predictor._in_words(Sentence('f:1', words, ()))
        assert text == ' '.join(words) and tuple(text[start:stop] for start, stop in places) == words
    text, places = tag_predictor._in_words(('Ann (of Rome) left.',))
    assert [text[start:stop] for start, stop in places] == ['Ann', '(', 'of', 'Rome', ')', 'left', '.']
