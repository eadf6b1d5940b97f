"""Masked language modelling as text to text, for encoder-decoders and decoders. (numpy only)"""

import numpy as np

from t5x_lite.data import random
from t5x_lite.data.pairs import PairExamples, ended


class TextToTextMlm(PairExamples):
    """Some tokens of a text are masked, and the whole text is predicted (Raffel et al., 2020, section 3.3.1, "MASS-style").

    Of a piece of n tokens, min(n, max(1, round(probability x n))) become [MASK], or the first sentinel where the tokenizer has no [MASK];
    each set of that size is as likely. Inputs and targets are as long as the text, and both end with an end token.

    A worked example: examples 0 and 1 of seed 0, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), L = T = 8, probability
    0.4, start [CLS] = 2, end [SEP] = 3, [MASK] = 4. For an encoder-decoder:

        tokens                 4 17 18 19 20  4  3  0      11 12  4  3  4 15  3  0
        sequence_ids           1  1  1  1  1  1  1  0       1  1  1  1  2  2  2  0
        positions              0  1  2  3  4  5  6  0       0  1  2  3  0  1  2  0
        decoder_tokens         2 16 17 18 19 20 21  0       2 11 12 13  2 14 15  0
        decoder_sequence_ids   1  1  1  1  1  1  1  0       1  1  1  1  2  2  2  0
        decoder_positions      0  1  2  3  4  5  6  0       0  1  2  3  0  1  2  0
        targets               16 17 18 19 20 21  3  0      11 12 13  3 14 15  3  0
        target_weights         1  1  1  1  1  1  1  0       1  1  1  1  1  1  1  0

    and for a decoder:

        tokens           2 11 12  4  3 11 12 13       2  4 17 18  3 16 17 18
        targets         11 12  4  3 11 12 13  3       4 17 18  3 16 17 18  3
        target_weights   0  0  0  0  1  1  1  1       0  0  0  0  1  1  1  1
        sequence_ids     1  1  1  1  1  1  1  1       1  1  1  1  1  1  1  1
        positions        0  1  2  3  4  5  6  7       0  1  2  3  4  5  6  7
        prefix           1  1  1  1  1  0  0  0       1  1  1  1  1  0  0  0
    """

    needs = ('end', 'start', 'blank')

    def _lengths(self, length, keys):
        return length + 1, length + 1

    def _pairs(self, text, length, keys):
        counts = np.clip(np.rint(length * self.mlm.probability).astype(np.int64), 1, length)
        masked = random.choose(random.bits(keys, random.key('masks')), length, counts)
        end = self.tokenizer.end_id
        return ended(np.where(masked, np.int32(self.tokenizer.blank_id), text), length, end), ended(text, length, end)
