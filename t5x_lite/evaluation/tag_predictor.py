"""Tags for the words of a text."""

from collections.abc import Iterator
import itertools
import re
from typing import Any

import jax
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import tagged, tags, word_pieces
from t5x_lite.data.tagged_files import Sentence
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.data.word_pieces import Pieces
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation.batching import TOGETHER, Texts, chunks, of_like_length
from t5x_lite.models.inference import to_read

_OPENING, _CLOSING = '([{<"\'«„“”‘’¿¡`', ')]}>"\'»“”‘’.,;:!?…`'


def words_of(text: str) -> list[tuple[int, int]]:
    """(start, stop) of the words of a text: what white space separates, marks at its ends apart, as tagged files have them.

    'Ann (of Rome) left.' -> Ann ( of Rome ) left .        a stop stays with a word that has another in it: U.S. e.g.
    """
    found = []
    for match in re.finditer(r'\S+', text):
        start, stop = match.span()
        ends = []
        while start < stop and text[start] in _OPENING:
            found.append((start, start + 1))
            start += 1
        while stop > start and text[stop - 1] in _CLOSING and not (text[stop - 1] == '.' and '.' in text[start : stop - 1].strip('.')):
            ends.append((stop - 1, stop))
            stop -= 1
        found += [(start, stop)] * (start < stop) + ends[::-1]
    return found


def _in_words(asked: tuple[str, ...] | Sentence) -> tuple[str, list[tuple[int, int]]]:
    """(text, (start, stop) of its words); words that are given stand in their text with a space between them."""
    if not isinstance(asked, Sentence):
        text, = asked
        return text, words_of(text)
    stops = itertools.accumulate((len(word) + 1 for word in asked.words), initial=-1)
    return ' '.join(asked.words), [(stop + 1, stop + 1 + len(word)) for stop, word in zip(stops, asked.words)]


class TagPredictor:
    """`predictor(asked)` yields for each text its words with tags and probabilities, and its entities with their characters.

    A `Sentence` is tagged on its words as they are, whatever is in them; a text is divided by `words_of`.
    A probability is that of the tag given to the word's first piece, which `word_pieces.word_tags` may write otherwise; of a conditional random field its
    marginal. A text that is longer than the run's sequences is
    read in parts of whole words, and parts do not see each other.

    Args:
      config: of the run, complete.
      params: its parameters, nested dict of arrays.
    """

    def __init__(self, config: Config, params: dict[str, Any], tokenizer: Tokenizer, batch_size: int = 32):
        self._config, self._params, self._batch_size = config, to_read(config.model, params), batch_size
        self._tags = tagged.tag_set(config)
        self._seq_len, self._pad = config.data.seq_len, tokenizer.pad_id or 0
        self._cutter = tagged.cutter(config, tokenizer, self._seq_len)
        module = resolve(config.model.module, 'config.model.module', 'apply')(config.model)

        def apply(params: Any, batch: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
            outputs = module.apply({'params': params}, batch)
            return outputs['tags'], outputs['probabilities']

        self._apply = jax.jit(apply)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of words, or the field, in the files of training; () where the run has learnt from none."""
        return tuple(self._config.data.text_columns)

    def check(self, asked: tuple[str, ...] | Sentence, number: int = 0) -> None:
        """Raises UserError for a text, the `number`-th, that cannot be answered."""
        del number
        if not isinstance(asked, Sentence) and len(asked) > 1:
            raise UserError(f'{len(asked)} texts in {" | ".join(asked)[:80]!r}, and words are tagged of one at a time; leave the second out')

    def __call__(self, texts: Texts) -> Iterator[dict[str, Any]]:
        for chunk in chunks(texts, TOGETHER * self._batch_size):
            for asked in chunk:
                self.check(asked)
            divided = list(map(_in_words, chunk))
            parts = [self._parts([text[start:stop] for start, stop in found]) for text, found in divided]
            answered = iter(self._tagged([part for of_text in parts for part in of_text]))
            for (text, found), of_text in zip(divided, parts, strict=True):
                named = [pair for _ in of_text for pair in next(answered)]
                yield self._answer(text, found, named)

    def _parts(self, words: list[str]) -> list[Pieces]:
        """A text in rows of whole words; a word longer than a row is one of no pieces."""
        parts, first = [], 0
        while first < len(words):
            some = words[first : first + self._seq_len]  # as many as a row can hold, so that a long text is cut once
            pieces = self._cutter.cut([('', some)])[0]
            count = max(len(some) - pieces.lost, 1)
            parts.append(Pieces(pieces.ids, pieces.words, count))
            first += count
        return parts

    def _tagged(self, rows: list[Pieces]) -> list[list[tuple[str, float]]]:
        """(tag, probability) of each word of each row."""
        every, missing = self._config.data.every_piece, self._tags.names[0] if self._tags.scheme is None else tags.OUTSIDE
        answers: list[list[tuple[str, float]]] = [[] for _ in rows]
        for chosen, filled, width in of_like_length(np.array([len(pieces.ids) for pieces in rows]), self._batch_size, self._seq_len):
            chunk = [rows[row] for row in chosen]
            batch = tagged.pieces_features([rows[row] for row in filled], width, self._pad)
            batch['tagged'] = np.zeros_like(batch['tokens'])
            for place, pieces in enumerate(chunk):
                batch['tagged'][place, pieces.labelled(every)] = 1
            found, probabilities = map(np.asarray, self._apply(self._params, batch))
            for place, pieces in enumerate(chunk):
                named = word_pieces.word_tags(pieces, found[place, : len(pieces.ids)], self._tags, missing, every)
                owners, first = np.unique(pieces.words[pieces.labelled(False)], return_index=True)
                at = dict(zip(owners.tolist(), pieces.labelled(False)[first].tolist(), strict=True))
                chances = [float(probabilities[place, at[word], found[place, at[word]]]) if word in at else 0.0 for word in range(len(named))]
                answers[chosen[place]] = list(zip(named, np.clip(chances, 0.0, 1.0).tolist(), strict=True))  # marginals are sums that round
        return answers

    def _answer(self, text: str, places: list[tuple[int, int]], named: list[tuple[str, float]]) -> dict[str, Any]:
        words = [
            {'word': text[start:stop], 'tag': tag, 'probability': round(chance, 6)} for (start, stop), (tag, chance) in zip(places, named, strict=True)
        ]
        answer = {'text': text, 'words': words}
        if self._tags.scheme is not None:
            answer['entities'] = [
                {'type': kind, 'text': text[places[first][0] : places[last - 1][1]], 'start': places[first][0], 'stop': places[last - 1][1]}
                for kind, first, last in tags.spans([tag for tag, _ in named])
            ]
        return answer
