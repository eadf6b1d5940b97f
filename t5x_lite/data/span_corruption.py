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

    Counts are those of t5's `random_spans_noise_mask`, in float32 as there: round(density x length) tokens (half to even), at least one and
    not all, in round(tokens / mean) spans, at least one. (And no more spans than tokens stay, where that function fails.)
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
        # 190 tokens at 0.15 are 28.5 in float64, and a little more in float32: 29 are corrupted, not 28.
        tokens = np.clip(_rounded(at_least.astype(np.float32) * np.float32(self.density)), 1, at_least - 1)
        spans = np.clip(_rounded(tokens.astype(np.float32) / np.float32(self.mean_length)), 1, at_least - tokens)
        return np.where(length < 2, 0, tokens), np.where(length < 2, 0, spans)

    def lengths(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of inputs and targets, sentinels and end tokens included: int64[n] each."""
        tokens, spans = self.counts(length)
        return length - tokens + spans + 1, tokens + np.maximum(spans, 1) + 1

    def longest(self, input_length: int) -> tuple[int, int]:
        """(tokens of text, length of their targets) for rows of inputs, exactly as t5's `random_spans_helper` plans them.

            Noise(0.15, 3).longest(512)  ->  (568, 114)

        That function counts in Python's float64, and sees neither to one span at least nor to tokens that stand between spans. Where its mask
        comes out otherwise, t5 cuts or pads; `fitting` is what rows really hold.
        """

        def planned(length):
            tokens = round(length * self.density)
            spans = round(tokens / self.mean_length)
            return length - tokens + spans + 1, tokens + spans + 1

        found = _last(lambda length: planned(length)[0] <= input_length, input_length - 1)
        inputs, targets = planned(found)
        # Half and half, targets may come out one longer than inputs; rows are then of equal lengths.
        shorter = self.density == 0.5 and targets > inputs
        return found - shorter, targets - shorter

    def fitting(self, input_length: int, target_length: int | None = None) -> tuple[int, int]:
        """(the most tokens of text whose inputs and targets fit rows, length of a row of targets); 0 tokens where not even one fits.

        This is `longest` wherever the mask makes of the text what is planned there. Elsewhere:

            Noise(0.15, 3).fitting(512)  ->  (568, 114)
            Noise(0.1, 5).fitting(16)    ->  (16, 4)      t5: (17, 3), a text whose inputs come out as 17 and its targets as 4
            Noise(0.15, 3).fitting(172)  ->  (190, 40)    t5: (190, 38), see `counts`

        Args:
          target_length: of a row of targets, where that is given.
        """

        def pair(length):
            return tuple(int(side[0]) for side in self.lengths(np.array([length])))

        def fits(length):
            inputs, targets = pair(length)
            return inputs <= input_length and targets <= target_length

        if target_length is None:
            text, target_length = self.longest(input_length) if self.mean_length else (0, 0)  # without spans there is no plan of t5's
            if fits(text) and pair(text)[1] == target_length and not fits(text + 1):
                return text, target_length
            target_length = input_length if self.density == 0.5 else math.inf
            text = _last(fits)
            return text, pair(text)[1]
        return _last(fits), target_length

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


def _rounded(values):
    return np.rint(values).astype(np.int64)


def _last(fits, low=0):
    """The largest int from `low` on that `fits`, or `low`: more never fits where less does not."""
    high = 2 * low + 2
    while fits(high):
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


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
        return max(1, _noise(config).fitting(length)[1])

    def prepare(self, config):
        self._noise = _noise(config)
        if self.layout is Layout.encoder_decoder:
            self._most = self._noise.fitting(self.seq_len, self.max_predictions)[0]
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
