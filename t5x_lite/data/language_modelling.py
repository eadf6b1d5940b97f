"""Language modelling, with and without a prefix that is only read. (numpy only)"""

import numpy as np

from t5x_lite.config import Layout
from t5x_lite.data import random
from t5x_lite.data.pairs import PairExamples, ended
from t5x_lite.errors import UserError


class CausalLm(PairExamples):
    """Each token predicts the next (Radford et al., 2018, 2019; Brown et al., 2020).

    A sequence is a piece of a document and an end token, and is read from a start token on. With config.data.concatenate it is a whole row of
    the stream of documents, in which end tokens stand between them; none is added, and it is read from the token before it on.

    A worked example: examples 0 and 1 of seed 0, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), L = 8, start [CLS] = 2,
    end [SEP] = 3:

        tokens           2 11 12 13  2 14 15  0       2 16 17 18 19 20 21  0
        targets         11 12 13  3 14 15  3  0      16 17 18 19 20 21  3  0
        target_weights   1  1  1  1  1  1  1  0       1  1  1  1  1  1  1  0
        sequence_ids     1  1  1  1  2  2  2  0       1  1  1  1  1  1  1  0
        positions        0  1  2  3  0  1  2  0       0  1  2  3  4  5  6  0

    and, concatenated, L = 5:

        tokens          16 17 18 19 20       3 14 15  3 16
        targets         17 18 19 20 21      14 15  3 16 17
        target_weights   1  1  1  1  1       1  1  1  1  1
        sequence_ids     1  1  1  1  1       1  1  1  1  1
        positions        0  1  2  3  4       0  1  2  3  4
    """

    layouts = (Layout.decoder, Layout.encoder)
    refusals = {
        Layout.encoder_decoder: 'the encoder would have nothing to read; use t5x_lite.data.language_modelling:PrefixLm, '
        'whose encoder reads the first part of a text'
    }
    reads_inputs = False
    ends_inputs = False

    def prepare(self, config):
        self._ends = not config.data.concatenate

    def _longest_of(self, keys):
        return self.seq_len - self._ends

    def _examples(self, plan, entries, root):
        batch = super()._examples(plan, entries, root)
        if not self._ends:  # then a row is one window
            before = plan.start[plan.rows.take(entries).members] - 1
            batch['tokens'][:, 0] = self._stream.read(before % len(self._stream), np.ones_like(before))
        return batch

    def _lengths(self, length, keys):
        return np.zeros_like(length), length + self._ends

    def _pairs(self, text, length, keys):
        return text[:0], ended(text, length, self.tokenizer.end_id) if self._ends else text


class PrefixLm(PairExamples):
    """A random first part of each piece is read, the rest predicted (Raffel et al., 2020, section 3.2.3; Liu et al., 2018).

    The first part is a share of the piece drawn uniformly within config.data.lm.prefix_fraction, and at least one token stands on each side
    (of a piece of one token, only the end token is predicted). Inputs have no end token, since the text goes on; targets end with one, except
    with config.data.concatenate, where the stream has them between documents.

    A piece and its end token are at most as long as a row of inputs. Where targets have rows as long (the default), a row of an
    encoder-decoder holds several pieces whose parts complement each other: for that, of two neighbouring pieces one reads as large a share
    as the other predicts. (It takes a token less: two end tokens share a row of targets.)

    A worked example: examples 0 and 1 of seed 4, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), L = 8, start [CLS] = 2,
    end [SEP] = 3. For a decoder:

        tokens           2 16 17 18 19 20 21  0       2 11 12 13  2 14 15  0
        targets         16 17 18 19 20 21  3  0      11 12 13  3 14 15  3  0
        target_weights   0  0  0  1  1  1  1  0       0  1  1  1  0  1  1  0
        sequence_ids     1  1  1  1  1  1  1  0       1  1  1  1  2  2  2  0
        positions        0  1  2  3  4  5  6  0       0  1  2  3  0  1  2  0
        prefix           1  1  1  1  0  0  0  0       1  1  0  0  1  1  0  0

    and for an encoder-decoder, T = 8:

        tokens                16 17 18 11  0  0  0  0      14  0  0  0  0  0  0  0
        sequence_ids           1  1  1  2  0  0  0  0       1  0  0  0  0  0  0  0
        positions              0  1  2  0  0  0  0  0       0  0  0  0  0  0  0  0
        decoder_tokens         2 19 20 21  2 12 13  0       2 15  0  0  0  0  0  0
        decoder_sequence_ids   1  1  1  1  2  2  2  0       1  1  0  0  0  0  0  0
        decoder_positions      0  1  2  3  0  1  2  0       0  1  0  0  0  0  0  0
        targets               19 20 21  3 12 13  3  0      15  3  0  0  0  0  0  0
        target_weights         1  1  1  1  1  1  1  0       1  1  0  0  0  0  0  0
    """

    layouts = (Layout.decoder, Layout.encoder_decoder, Layout.encoder)
    ends_inputs = False

    def prepare(self, config):
        self._ends = not config.data.concatenate
        self._least, self._most = config.data.lm.prefix_fraction
        if not 0 <= self._least <= self._most <= 1:
            raise UserError(
                f'config.data.lm.prefix_fraction is {config.data.lm.prefix_fraction}; give (lowest, highest), both from 0 to 1'
            )

    def _longest_of(self, keys):
        longest = self.seq_len - self._ends * (1 + (self.layout is Layout.encoder_decoder))
        return longest if self._mirrored else np.minimum(longest, super()._longest_of(keys))

    @property
    def _mirrored(self):
        # Whatever is drawn, the piece fits: only then may keys be given after lengths.
        return self.layout is not Layout.encoder_decoder or self.max_predictions >= self.seq_len

    def _keys_of_plan(self, root, start):
        keys = super()._keys_of_plan(root, start)
        if self._mirrored:
            keys[1::2] = ~keys[: len(keys) - 1 : 2]
        return keys

    def _lengths(self, length, keys):
        most = np.maximum(1, length - 1)
        low = np.clip(np.ceil(self._least * length).astype(np.int64), 1, most)
        high = np.clip(np.floor(self._most * length).astype(np.int64), low, most)
        inputs = low + random.below(keys, high - low + 1)
        return inputs, length - inputs + self._ends

    def _pairs(self, text, length, keys):
        inputs, _ = self._lengths(length, keys)
        read = np.arange(len(text)) - np.repeat(np.cumsum(length) - length, length) < np.repeat(inputs, length)
        targets = text[~read]
        return text[read], ended(targets, length - inputs, self.tokenizer.end_id) if self._ends else targets
