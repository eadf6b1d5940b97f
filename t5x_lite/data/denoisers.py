"""UL2's mixture of denoisers. (numpy only)"""

import numpy as np

from t5x_lite.config import Config, Layout
from t5x_lite.data import random
from t5x_lite.data.pairs import PairExamples, ended
from t5x_lite.data.span_corruption import Noise, sentinels
from t5x_lite.errors import UserError

_FIELD = 'config.data.span.denoisers'


class MixtureOfDenoisers(PairExamples):
    """Each piece of text is corrupted in one of several ways, and says in which (Tay et al., 2022, "UL2", section 3.1).

    config.data.span.denoisers names them: (mode token, mean span length, noise density, rate). Which one a piece meets is drawn with these
    rates; how long the piece is follows from that. Inputs begin with the mode token, '' for none. All is as in `SpanCorruption` otherwise;
    a mean length of 0 is a prefix language model that predicts the last `noise density` of the piece, at least one token of it.

    Rows of targets are as long as the denoiser with most of them needs, unless config.data.target_len or a stage says otherwise. So inputs are
    full and targets, most of which are far shorter, are not: with the seven of the paper and rows of 512 on text like books, 99 to 100 % of the
    inputs are real tokens, 53 to 58 % of the targets, and 76 to 79 % of both. Shorter rows of targets move the padding to the inputs (pieces of
    hungry denoisers are then shorter): of both, 77 % are real at 192 or 256, 72 % at 128. A decoder's rows hold both sides, and are full. Where a row of
    one piece would need more sentinels than the tokenizer has (T5's 100: spans of 3 at density 0.5 in 512 tokens), it holds shorter pieces.

    A worked example: examples 0 and 1 of seed 1, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), L = 10, T = 8, denoisers
    ('[NLU]', 2.0, 0.4, 1.0) and ('[S2S]', 0.0, 0.5, 1.0), start [CLS] = 2, end [SEP] = 3, [NLU] = 5, [S2S] = 6, sentinels 30, 29, ...:

        tokens                 5 16 17 18 19 30  3  6 14  3       5 11 12 30  3  0  0  0  0  0
        sequence_ids           1  1  1  1  1  1  1  2  2  2       1  1  1  1  1  0  0  0  0  0
        positions              0  1  2  3  4  5  6  0  1  2       0  1  2  3  4  0  0  0  0  0
        decoder_tokens         2 30 20 21  2 15  0  0       2 30 13  0  0  0  0  0
        decoder_sequence_ids   1  1  1  1  2  2  0  0       1  1  1  0  0  0  0  0
        decoder_positions      0  1  2  3  0  1  0  0       0  1  2  0  0  0  0  0
        targets               30 20 21  3 15  3  0  0      30 13  3  0  0  0  0  0
        target_weights         1  1  1  1  1  1  0  0       1  1  1  0  0  0  0  0

    Raises:
      UserError: a mode token that the tokenizer lacks, or no sentinels.
    """

    @classmethod
    def predictions(cls, config, length):
        if cls.layout_of(config) is not Layout.encoder_decoder:
            return length
        return max(1, *(noise.fitting(length - bool(mode))[1] for mode, noise, _ in _denoisers(config)))

    def prepare(self, config):
        given = _denoisers(config)
        rates = np.array([rate for _, _, rate in given])
        self._bounds = np.cumsum(rates / rates.sum())[:-1]
        self._noises = [noise for _, noise, _ in given]
        self._modes = [self._mode(mode) for mode, _, _ in given]
        self._has_mode = np.array([len(mode) for mode in self._modes])
        most = [self._longest_with(noise, len(mode)) for noise, mode in zip(self._noises, self._modes)]
        self._most = np.array(most)
        self._sentinels = [
            np.empty(0, np.int32) if isinstance(noise, _Rest) else sentinels(self, noise, longest, _FIELD)
            for noise, longest in zip(self._noises, most)
        ]

    def _longest_with(self, noise: Noise, mode: int) -> int:
        """Tokens of text that fill a row; or so few that each of several such pieces in a row has enough sentinels."""
        for pieces in range(1, self.seq_len):
            room, targets = self.seq_len // pieces - mode, self.max_predictions // pieces
            longest = noise.fitting(room, targets)[0] if self.layout is Layout.encoder_decoder else noise.longest_joined(room)
            if longest < 2 or noise.counts(np.array([longest]))[1][0] <= len(self.tokenizer.sentinel_ids):
                break
        return longest

    def _mode(self, mode: str) -> list[int]:
        """[] or the id of a mode token."""
        try:
            return [self.tokenizer.id(mode)] if mode else []
        except KeyError as error:
            raise UserError(
                f'{_FIELD}: the mode token {mode!r} is not in the vocabulary of {self.corpus.tokenizer_path}; prepare with a tokenizer that has '
                "it, or give ''"
            ) from error

    def kinds(self, keys: np.ndarray) -> np.ndarray:
        """int64[n]: the numbers of the denoisers of pieces with these keys."""
        return np.searchsorted(self._bounds, random.uniform(random.bits(keys, random.key('denoiser'))), side='right')

    def _longest_of(self, keys):
        return self._most[self.kinds(keys)]

    def _lengths(self, length, keys):
        kinds = self.kinds(keys)
        inputs, targets = np.empty_like(length), np.empty_like(length)
        for kind, noise in enumerate(self._noises):
            here = kinds == kind
            inputs[here], targets[here] = noise.lengths(length[here])
        return inputs + self._has_mode[kinds], targets

    def _pairs(self, text, length, keys):
        kinds = self.kinds(keys)
        lengths = self._lengths(length, keys)
        results = tuple(np.empty(side.sum(), np.int32) for side in lengths)
        of_text, *of_results = (np.repeat(kinds, side) for side in (length, *lengths))
        for kind in np.unique(kinds).tolist():
            here = kinds == kind
            made = self._noises[kind].pairs(text[of_text == kind], length[here], keys[here], self._sentinels[kind], self.tokenizer.end_id)
            without_mode = lengths[0][here] - self._has_mode[kind]
            inputs = np.insert(made[0], np.cumsum(without_mode) - without_mode, *self._modes[kind]) if self._modes[kind] else made[0]
            for result, of_result, part in zip(results, of_results, (inputs, made[1])):
                result[of_result == kind] = part
        return results


class _Rest(Noise):
    """The last `density` of a text is predicted, without sentinels."""

    def counts(self, length):
        tokens = np.clip(np.rint(length * self.density).astype(np.int64), 1, np.maximum(length - 1, 1))
        return np.where(length < 2, 0, tokens), np.zeros_like(length)

    def lengths(self, length):
        tokens, _ = self.counts(length)
        return length - tokens + 1, tokens + 1

    def pairs(self, text, length, keys, sentinel_ids, end_id):
        rest = self.counts(length)[0]
        predicted = np.repeat(np.tile([False, True], len(length)), np.stack([length - rest, rest], axis=1).reshape(-1))
        return ended(text[~predicted], length - rest, end_id), ended(text[predicted], rest, end_id)


def _denoisers(config: Config) -> list[tuple[str, Noise, float]]:
    """(mode token or '', noise, rate) of each; UserError for what makes no sense."""
    found = []
    for number, (mode, mean, density, rate) in enumerate(config.data.span.denoisers):
        field = f'{_FIELD}[{number}]'
        noise = Noise(density, mean) if mean else _Rest(density, mean)
        Noise(density, mean or 1.0).check(field)
        if not 0 < rate < float('inf'):
            raise UserError(f'{field}: the rate is {rate}; it must be above 0')
        found.append((mode, noise, rate))
    if not found:
        raise UserError(f'{_FIELD} is empty; give ((mode token, mean span length, noise density, rate), ...)')
    return found
