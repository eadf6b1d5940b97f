"""Which words of a training example change, and into what: config.data.augment. (numpy only)

An example is changed by (seed, epoch, example) alone: synonyms first, then swaps, then deletion (t5x_lite.data.augmentation). With config.data.augment.copies
an epoch holds each example as it is, and so many changed ones beside it:

    3 rows, copies 1        examples 0 1 2 as they are, 3 4 5 the same rows changed; another change in each epoch

Synonyms are of each word where it stands, as a masked language model sees it (t5x_lite.evaluation.synonyms makes their file). A word of which the model knows
none stays as it is; so do marks around a word and its capitals: 'Good,' -> 'Great,'.
"""

from collections.abc import Sequence
import functools
import hashlib
import os
import re
import zipfile

import numpy as np

from t5x_lite.config import AugmentConfig
from t5x_lite.data import augmentation, random
from t5x_lite.errors import UserError

_WORD = re.compile(r'(\W*)(\w+)(\W*)')


def parts(word: str) -> tuple[str, str, str] | None:
    """(marks before, letters, marks after) of what stands between white space; None for what is more than one word, or none: "don't", '3.5', '--'."""
    match = _WORD.fullmatch(word)
    return (match[1], match[2], match[3]) if match and match[2].isalpha() else None


def dressed(word: str, synonym: str) -> str:
    """A synonym with the marks and the capitals of a word."""
    before, letters, after = parts(word)
    if letters.isupper() and len(letters) > 1:
        synonym = synonym.upper()
    elif letters[0].isupper():
        synonym = synonym[0].upper() + synonym[1:]
    return before + synonym + after


class Synonyms:
    """Synonyms of the words of some texts, each where it stands.

    Attributes:
      starts: int64 [texts + 1], where the words of each text begin; ids: int32 [words, candidates], places in `vocabulary`, the likeliest first, -1 for none.
      vocabulary: str [V].
      texts, weights: hexadecimal digits of what they were made of.
    """

    def __init__(self, starts: np.ndarray, ids: np.ndarray, vocabulary: np.ndarray, texts: str, weights: str):
        self.starts, self.ids, self.vocabulary, self.texts, self.weights = starts, ids, vocabulary, texts, weights

    def save(self, path: str) -> None:
        temporary = f'{path}.tmp.npz'
        np.savez(temporary, starts=self.starts, ids=self.ids, vocabulary=self.vocabulary, made_of=np.array([self.texts, self.weights]))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str) -> 'Synonyms':
        """
        Raises:
          UserError: there is no such file, or it is none of synonyms.
        """
        try:
            with np.load(path) as file:
                return cls(file['starts'], file['ids'], file['vocabulary'], *file['made_of'].tolist())
        except FileNotFoundError as error:
            raise UserError(f'{path}: no such file of synonyms; leave config.data.augment.file out to have it made') from error
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f'{path}: no file of synonyms, or a broken one ({error}); remove it to have it made again') from error

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.ids.tobytes() + self.starts.tobytes() + '\n'.join(self.vocabulary).encode()).hexdigest()[:16]

    def of(self, text: int, place: int, draw: np.ndarray) -> str:
        """One of the synonyms of the word at `place` in text number `text`, by a uint64 [1]; '' where there is none."""
        if not 0 <= place < self.starts[text + 1] - self.starts[text]:
            return ''
        known = self.ids[self.starts[text] + place]
        known = known[known >= 0]
        return str(self.vocabulary[known[random.below(draw, len(known))[0]]]) if len(known) else ''


class Augmenter:
    """`augmenter(texts, rows, examples, epochs)`: texts of rows, changed.

    Args:
      synonyms: None where none are wanted, or none are there yet: then no word is replaced.
    """

    def __init__(self, config: AugmentConfig, seed: int, synonyms: Synonyms | None = None):
        self._config, self._seed, self.synonyms = config, seed, synonyms

    def __call__(self, texts: Sequence[tuple[str, ...]], rows: np.ndarray, examples: np.ndarray, epochs: np.ndarray) -> list[tuple[str, ...]]:
        """
        Args:
          texts: of each example one or two; rows: int64 [n], their rows in the table; examples: int64 [n], their numbers in an epoch, by which is drawn.
        """
        made = []
        for row_texts, *numbers in zip(texts, rows.tolist(), examples.tolist(), epochs.tolist(), strict=True):
            made.append(tuple(self._changed(text, column, len(row_texts), *numbers) for column, text in enumerate(row_texts)))
        return made

    def _changed(self, text: str, column: int, columns: int, row: int, example: int, epoch: int) -> str:
        config, key = self._config, (self._seed, epoch, example * columns + column)
        if config.synonyms and self.synonyms is not None:
            root = random.key(self._seed, 'augmentation', 'synonym', *key[1:])

            def substitute(texts: list[list[str]], places: list[list[int]]) -> list[list[str]]:
                found = [self.synonyms.of(row * columns + column, place, random.bits(root, place)) for place in places[0]]
                return [[dressed(texts[0][place], word) if word else '' for place, word in zip(places[0], found, strict=True)]]

            text = augmentation.substitute_words([text], config.synonyms, *key[:2], [key[2]], substitute)[0]
        if config.swap:
            text = augmentation.swap_words(text, config.swap, *key)
        if config.deletion:
            text = augmentation.delete_words(text, config.deletion, *key)
        return text


def digest(texts: Sequence[str], candidates: int) -> str:
    """Of texts and how many synonyms of each of their words are wanted."""
    found = hashlib.sha256(f'{candidates}'.encode())
    for text in texts:
        found.update(len(text.encode()).to_bytes(8, 'little') + text.encode())
    return found.hexdigest()[:16]
