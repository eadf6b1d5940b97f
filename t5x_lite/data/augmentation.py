"""Texts made a little different for each epoch: words left out, words swapped, words replaced. (numpy only)

Deletion and swaps are those of Wei & Zou (2019), 'EDA: Easy Data Augmentation'. What happens to an example is a function of (seed, epoch, example) and of
its text: in any process, in any order, the same. Words are what stands between white space, which stays where it is; a script without spaces has one word
a text, and is left as it is. A rate of 0, and a text of one word, give back the text itself; no text with a word in it is ever left without.

    delete_words('so very good .', 0.3, seed=0, epoch=1, example=28)  ->  'so good .'
    swap_words('so very good .', 0.3, seed=0, epoch=1, example=28)    ->  'so very . good'
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from t5x_lite.data import random

_WORD = re.compile(r'\S+')

# From texts as lists of words, and the places of the words to replace in each, to as many new words for each text; a model's, say, that sees the whole text.
Substitute = Callable[[list[list[str]], list[list[int]]], Sequence[Sequence[str]]]


def delete_words(text: str, rate: float, seed: int, epoch: int, example: int) -> str:
    """Each word is left out with probability `rate`, and the white space before it; where all would be, one that is drawn stays.

    Raises:
      ValueError: a rate outside 0..1.
    """
    pieces, draws = _open(text, rate, 'delete', seed, epoch, example)
    count = len(pieces) // 2
    gone = random.uniform(draws) < rate
    if count < 2 or not gone.any():
        return text
    if gone.all():
        gone[np.argmax(draws)] = False
    kept = np.flatnonzero(~gone)
    # pieces: white space and word by turns; what was before the first word of all stays before the first that is left.
    parts = [pieces[0], pieces[2 * kept[0] + 1], *(pieces[2 * place] + pieces[2 * place + 1] for place in kept[1:])]
    return ''.join(parts) + pieces[-1]


def swap_words(text: str, rate: float, seed: int, epoch: int, example: int) -> str:
    """Two words that are drawn change places, round(rate x words) times, and once at least: `rate` 0.1 moves about a fifth of the words.

    Raises:
      ValueError: a rate outside 0..1.
    """
    pieces, draws = _open(text, rate, 'swap', seed, epoch, example)
    count = len(pieces) // 2
    if count < 2 or not rate:
        return text
    words = pieces[1::2]
    times = max(1, round(rate * count))
    firsts = random.below(draws[:times], count)
    others = (firsts + 1 + random.below(random.bits(draws[:times], 1), count - 1)) % count  # never the same place
    for first, other in zip(firsts.tolist(), others.tolist(), strict=True):
        words[first], words[other] = words[other], words[first]
    pieces[1::2] = words
    return ''.join(pieces)


def substitute_words(texts: Sequence[str], rate: float, seed: int, epoch: int, examples: Sequence[int], substitute: Substitute) -> list[str]:
    """Each word is replaced with probability `rate` by what `substitute` says, which is asked once, for all texts with a word to replace.

    Args:
      examples: the number of each text's example.
      substitute: as `Substitute`; a word that it gives back unchanged, or as '' or white space, stays.

    Raises:
      ValueError: a rate outside 0..1; an answer of another length than the question.
    """
    opened = [_open(text, rate, 'substitute', seed, epoch, example) for text, example in zip(texts, examples, strict=True)]
    chosen = [np.flatnonzero(random.uniform(draws) < rate).tolist() for _, draws in opened]
    asked = [number for number, places in enumerate(chosen) if places]
    if not asked:
        return list(texts)
    found = substitute([opened[number][0][1::2] for number in asked], [chosen[number] for number in asked])
    if len(found) != len(asked):
        raise ValueError(f'{len(found)} lists of new words for {len(asked)} texts')
    made = list(texts)
    for number, words in zip(asked, found, strict=True):
        if len(words) != len(chosen[number]):
            raise ValueError(f'{len(words)} new words for {len(chosen[number])} places')
        pieces = opened[number][0]
        for place, word in zip(chosen[number], words, strict=True):
            pieces[2 * place + 1] = word if word.strip() else pieces[2 * place + 1]
        made[number] = ''.join(pieces)
    return made


def _open(text: str, rate: float, purpose: str, seed: int, epoch: int, example: int) -> tuple[list[str], np.ndarray]:
    """[white space, word, white space, word, ..., white space], and uint64, a draw for each word."""
    if not 0 <= rate <= 1:
        raise ValueError(f'rate is {rate}; expected 0 to 1')
    pieces, end = [], 0
    for match in _WORD.finditer(text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    pieces.append(text[end:])
    return pieces, random.bits(random.key(seed, 'augmentation', purpose, epoch, example), np.arange(len(pieces) // 2))
