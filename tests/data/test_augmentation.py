"""Augmented texts: how much changes, what never does, and that the same is drawn again."""

import collections

import numpy as np
import pytest

from t5x_lite.data.augmentation import delete_words, substitute_words, swap_words

WORDS = [f'w{number}' for number in range(50)]
TEXT = ' '.join(WORDS)
ODD = ['', ' ', '\n\t', 'one', ' one\n', '東京都に住む', ' two\u3000words ', 'a\n\nb  c\td ']


def _upper(texts, places):
    return [[words[place].upper() for place in chosen] for words, chosen in zip(texts, places, strict=True)]


@pytest.mark.parametrize('text', [*ODD, TEXT])
def test_rate_0_is_the_identity_and_no_text_loses_its_last_word(text):
    assert delete_words(text, 0, 1, 2, 3) == swap_words(text, 0.0, 1, 2, 3) == text
    assert substitute_words([text], 0, 1, 2, [3], lambda *_: pytest.fail('asked for nothing')) == [text]
    for rate in (0.3, 0.9, 1.0):
        for epoch in range(20):
            kept, swapped = delete_words(text, rate, 0, epoch, 5), swap_words(text, rate, 0, epoch, 5)
            assert bool(kept.split()) == bool(text.split())
            assert collections.Counter(swapped.split()) == collections.Counter(text.split())
            assert [len(part) for part in (kept, swapped)] <= [len(text)] * 2
            if len(text.split()) < 2:
                assert kept == swapped == text


def test_white_space_stays():
    text = ' a\n\nb  c\td '
    assert swap_words(text, 0.2, 0, 0, 0).translate(str.maketrans('abcd', '....')) == ' .\n\n.  .\t. '
    for epoch in range(30):
        kept = delete_words(text, 0.4, 0, epoch, 0)
        assert kept.startswith(' ') and kept.endswith(' ') and kept.strip() and not kept.startswith('  ')
        assert kept.split() == [word for word in 'abcd' if word in kept]


def test_order_and_share_of_what_is_deleted():
    kept = [delete_words(TEXT, 0.2, 0, epoch, 9).split() for epoch in range(400)]
    assert np.mean([len(words) for words in kept]) == pytest.approx(40, abs=0.5)
    assert all(words == [word for word in WORDS if word in set(words)] for words in kept)
    survived = collections.Counter(word for words in kept for word in words)
    assert min(survived.values()) > 280 and max(survived.values()) < 360  # any word as well as another: 320 +- 5 standard deviations
    last = collections.Counter(delete_words('a b c', 1.0, 0, epoch, 0) for epoch in range(600))
    assert set(last) == {'a', 'b', 'c'} and min(last.values()) > 150


def test_swaps():
    once = [swap_words(TEXT, 0.02, 0, epoch, 9).split() for epoch in range(300)]
    assert all(sum(word != other for word, other in zip(words, WORDS, strict=True)) == 2 for words in once)
    moved = collections.Counter(word for words in once for word, other in zip(words, WORDS, strict=True) if word != other)
    assert len(moved) == 50 and max(moved.values()) < 30
    assert swap_words('a b', 0.01, 0, 0, 0) == 'b a'  # at least one
    tenth = [sum(word != other for word, other in zip(swap_words(TEXT, 0.1, 0, epoch, 9).split(), WORDS, strict=True)) for epoch in range(100)]
    assert 9 < np.mean(tenth) <= 10


@pytest.mark.parametrize('change', [delete_words, swap_words, lambda text, rate, *key: substitute_words([text], rate, *key[:2], [key[2]], _upper)[0]])
def test_a_function_of_seed_epoch_and_example(change):
    assert change(TEXT, 0.2, 1, 2, 3) == change(TEXT, 0.2, 1, 2, 3)
    assert len({change(TEXT, 0.2, *key) for key in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3), (1, 3, 2))}) == 6


def test_substitutes_are_asked_for_once_and_alone_change():
    asked = []

    def record(texts, places):
        asked.append((texts, places))
        return _upper(texts, places)

    texts = [TEXT, '', ' x  y ', TEXT]
    made = substitute_words(texts, 0.3, 0, 0, [4, 5, 6, 7], record)
    [(seen, places)] = asked
    assert '' not in seen and seen[0] == WORDS and 5 < len(places[0]) < 26 and places[0] != places[-1]
    assert made[0].split() == [word.upper() if place in places[0] else word for place, word in enumerate(WORDS)]
    assert made[1] == '' and made[2].lower() == ' x  y '
    # Texts are apart: what is asked beside one changes nothing.
    assert substitute_words([TEXT], 0.3, 0, 0, [7], _upper) == made[3:]
    assert substitute_words([TEXT], 1.0, 0, 0, [7], lambda texts, _: [[' '] * 50]) == [TEXT]


def test_worked_example():
    """That of the module: these draws must never change, or resumed runs would."""
    assert delete_words('so very good .', 0.3, seed=0, epoch=1, example=28) == 'so good .'
    assert swap_words('so very good .', 0.3, seed=0, epoch=1, example=28) == 'so very . good'


def test_what_cannot_be():
    for rate in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='expected 0 to 1'):
            delete_words('a b', rate, 0, 0, 0)
    with pytest.raises(ValueError, match='0 lists of new words for 1 texts'):
        substitute_words(['a b'], 1.0, 0, 0, [0], lambda *_: [])
    with pytest.raises(ValueError, match='1 new words for 2 places'):
        substitute_words(['a b'], 1.0, 0, 0, [0], lambda *_: [['x']])
