"""T5's span corruption. (numpy only)"""

import dataclasses
import math

import numpy as np

from t5x_lite.config import Config, Layout
from t5x_lite.data import random
from t5x_lite.data.pairs import PairExamples, ended
from t5x_lite.errors import UserError


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much of a text is corrupted, and in spans of which mean length.

    Counts are those of t5's `random_spans_noise_mask`: round(density x length) tokens (half to even), at least one and not all, in
    round(tokens / mean) spans, at least one. (And no more spans than tokens stay, where that function fails.)
    """

    density: float
    mean_length: float

    def check(self, field: str) -> None:
        """Raises UserError for values that leave nothing to read or to predict."""
        if not 0 < self.density < 1:
            raise UserError(f'{field}: the noise density is {self.density}; it must lie between 0 and 1')
        if not 1 <= self.mean_length < math.inf:
            raise UserError(f'{field}: the mean length of a span is {self.mean_length}; it must be at least 1')

    def counts(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(corrupted tokens, spans) of texts of `length` (int64[n]), int64[n] each. One token alone is left as it is."""
        at_least = np.maximum(length, 2)
        tokens = np.clip(np.rint(at_least * self.density).astype(np.int64), 1, at_least - 1)
        spans = np.clip(np.rint(tokens / self.mean_length).astype(np.int64), 1, at_least - tokens)
        return np.where(length < 2, 0, tokens), np.where(length < 2, 0, spans)

    def lengths(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of inputs and targets, sentinels and end tokens included: int64[n] each."""
        tokens, spans = self.counts(length)
        return length - tokens + spans + 1, tokens + np.maximum(spans, 1) + 1

    def planned(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `longest` counts as `lengths`: as in t5, all spans, also those that are too many to stand apart."""
        tokens, _ = self.counts(length)
        spans = np.maximum(np.rint(tokens / self.mean_length).astype(np.int64), 1)
        return length - tokens + spans + 1, tokens + spans + 1

    def longest(self, input_length: int, target_length: int | None = None) -> tuple[int, int]:
        """(tokens of text, length of their targets): the most text that a row of inputs holds, as t5's `random_spans_helper` finds it.

        With density 0.5 targets come out one longer than inputs at times; the text is then one shorter, as there.

            Noise(0.15, 3).longest(512)  ->  (568, 114)

        Args:
          target_length: of a row of targets, where that is given.
        """
        length = np.arange(1, math.ceil((input_length + 2) / (1 - self.density)) + 2)
        inputs, targets = self.planned(length)
        fits = np.flatnonzero((inputs <= input_length) & (targets <= (target_length or targets.max())))
        if not len(fits):
            return 0, 0
        found = fits[-1]
        shorter = int(target_length is None and self.density == 0.5 and targets[found] > input_length)
        return int(length[found]) - shorter, int(targets[found]) - shorter

    def longest_joined(self, row_length: int) -> int:
        """The most text whose inputs and targets share a row."""
        length = np.arange(1, row_length)
        return int((np.add(*self.lengths(length)) <= row_length).sum())

    def mask(self, length: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """bool[sum(length)], true at corrupted tokens of texts of `length` (int64[n]), each with a key (uint64[n]).

        Texts start with a span that stays and end with a corrupted one; both sorts are cut at random places, every way as likely, as in
        t5's `random_spans_noise_mask`.
        """
        tokens, spans = self.counts(length)
        parts = np.maximum(spans, 1)  # of the text that stays, too
        kept = _segments(length - tokens, parts, random.bits(keys, random.key('kept')))
        corrupted = np.zeros_like(kept)
        corrupted[np.repeat(spans > 0, parts)] = _segments(tokens, spans, random.bits(keys, random.key('corrupted')))
        return np.repeat(np.arange(2 * len(kept)) % 2 == 1, np.stack([kept, corrupted], axis=1).reshape(-1))

    def pairs(self, text, length, keys, sentinel_ids, end_id) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (each joined) of pieces of text with a key each."""
        mask = self.mask(length, keys)
        return ended(*collapse(text, length, mask, sentinel_ids), end_id), ended(*collapse(text, length, ~mask, sentinel_ids), end_id)


def _segments(items, parts, keys):
    """Lengths (int64[sum(parts)]) of `parts` random non-empty segments of `items` things, int64[n] each; 0 of 0."""
    cut = random.choose(keys, np.maximum(items - 1, 0), np.maximum(parts - 1, 0))
    first = np.ones(items.sum(), bool)  # the first item of a text always begins a segment
    starts = (np.cumsum(items) - items)[items > 0]
    inner = np.ones(len(first), bool)
    inner[starts] = False
    first[inner] = cut
    return np.diff(np.append(np.flatnonzero(first), len(first)))


def collapse(text: np.ndarray, length: np.ndarray, mask: np.ndarray, sentinel_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces (`text` joined, `length` int64[n] > 0) with a sentinel for each run of masked tokens, numbered from 0 in each piece.

    Inputs are the text with corrupted spans collapsed, targets the text with the others collapsed:

        text             11 12 13 14 15 16
        mask              0  0  1  1  0  1
        collapse(mask)   11 12 99 15 98
        collapse(~mask)  99 13 14 98 16

    Returns:
      the pieces that result, joined, and their lengths.
    """
    starts = np.cumsum(length) - length
    begins = mask.copy()
    begins[1:] &= ~mask[:-1]
    begins[starts] = mask[starts]
    number = np.cumsum(begins)
    number -= np.repeat(number[starts] - begins[starts], length)
    result = text.copy()
    result[begins] = sentinel_ids[number[begins] - 1]
    kept = begins | ~mask
    return result[kept], np.add.reduceat(kept.astype(np.int64), starts)


class SpanCorruption(PairExamples):
    """Spans of a text are replaced by sentinels, and predicted (Raffel et al., 2020, section 3.1.4).

    How much, and in spans of which length, say config.data.span.noise_density and .mean_length (`Noise`). Inputs are the text with a sentinel
    in place of each corrupted span; targets are the sentinels, each followed by its span. Sentinels are used in order (falling ids in T5's
    vocabulary), and both end with an end token. Lengths follow from that of the text: inputs of 512 take 568 tokens of text, and their
    targets 114. With config.data.concatenate every row holds exactly so many, and there is no padding.

    A worked example: examples 0 and 1 of seed 0, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), L = 8, T = 6, noise
    density 0.5 in spans of 1.5, start [CLS] = 2, end [SEP] = 3, sentinels 30, 29, ... For an encoder-decoder:

        tokens                14 30  3  0  0  0  0  0      16 30 19 20 29  3  0  0
        sequence_ids           1  1  1  0  0  0  0  0       1  1  1  1  1  1  0  0
        positions              0  1  2  0  0  0  0  0       0  1  2  3  4  5  0  0
        decoder_tokens         2 30 15  0  0  0       2 30 17 18 29 21
        decoder_sequence_ids   1  1  1  0  0  0       1  1  1  1  1  1
        decoder_positions      0  1  2  0  0  0       0  1  2  3  4  5
        targets               30 15  3  0  0  0      30 17 18 29 21  3
        target_weights         1  1  1  0  0  0       1  1  1  1  1  1

    and for a decoder, L = 12:

        tokens           2 11 30  3 30 12 13  0  0  0  0  0       2 14 30  3 30 15  0  0  0  0  0  0
        targets         11 30  3 30 12 13  3  0  0  0  0  0      14 30  3 30 15  3  0  0  0  0  0  0
        target_weights   0  0  0  1  1  1  1  0  0  0  0  0       0  0  0  1  1  1  0  0  0  0  0  0
        sequence_ids     1  1  1  1  1  1  1  0  0  0  0  0       1  1  1  1  1  1  0  0  0  0  0  0
        positions        0  1  2  3  4  5  6  0  0  0  0  0       0  1  2  3  4  5  0  0  0  0  0  0
        prefix           1  1  1  1  0  0  0  0  0  0  0  0       1  1  1  1  0  0  0  0  0  0  0  0

    Raises:
      UserError: fewer sentinels than a row has spans.
    """

    @classmethod
    def predictions(cls, config, length):
        if cls.layout_of(config) is not Layout.encoder_decoder:
            return length
        noise = _noise(config)
        return max(1, noise.longest(length)[1])

    def prepare(self, config):
        self._noise = _noise(config)
        if self.layout is Layout.encoder_decoder:
            self._most = self._noise.longest(self.seq_len, self.max_predictions)[0]
        else:
            self._most = self._noise.longest_joined(self.seq_len)
        self._sentinels = sentinels(self, self._noise, self._most, 'config.data.span')

    def _longest_of(self, keys):
        return self._most

    def _lengths(self, length, keys):
        return self._noise.lengths(length)

    def _pairs(self, text, length, keys):
        return self._noise.pairs(text, length, keys, self._sentinels, self.tokenizer.end_id)


def _noise(config: Config) -> Noise:
    noise = Noise(config.data.span.noise_density, config.data.span.mean_length)
    noise.check('config.data.span')
    return noise


def sentinels(source: PairExamples, noise: Noise, longest: int, field: str) -> np.ndarray:
    """int32 ids of the tokenizer's sentinels; UserError where they are fewer than the spans of a text of `longest` tokens."""
    available = source.tokenizer.sentinel_ids
    needed = int(noise.counts(np.array([longest]))[1][0])
    if len(available) < max(1, needed):
        raise UserError(
            f'{field}: noise density {noise.density} in spans of {noise.mean_length} at config.data.seq_len={source.seq_len} needs '
            f'{max(1, needed)} sentinels (<extra_id_0>, ...), {source.corpus.tokenizer_path} has {len(available)}; '
            'prepare with a tokenizer that has more, or give longer spans'
        )
    return np.array(available, np.int32)
