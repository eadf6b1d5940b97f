"""Masked language modelling as text to text, for encoder-decoders and decoders. (numpy only)"""

import numpy as np

from t5x_lite.config import UserError
from t5x_lite.data import random
from t5x_lite.data.pairs import PairExamples, ended


class TextToTextMlm(PairExamples):
    """Some tokens of a text are masked, and the whole text is predicted (Raffel et al., 2020, section 3.3.1, "MASS-style").

    Of a piece of n tokens, min(n, max(1, round(probability x n))) become [MASK], or the first sentinel where the tokenizer has no [MASK];
    each set of that size is as likely. Inputs and targets are as long as the text, and both end with an end token.

    A worked example: example 0 of seed 0, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), L = T = 8, probability 0.4,
    start [CLS] = 2, end [SEP] = 3, [MASK] = 4. For an encoder-decoder:

        tokens                .
        sequence_ids          .
        positions             .
        decoder_tokens        .
        decoder_sequence_ids  .
        decoder_positions     .
        targets               .
        target_weights        .

    and for a decoder:

        tokens          .
        targets         .
        target_weights  .
        sequence_ids    .
        positions       .
        prefix          .
    """

    def prepare(self, config):
        tokenizer = self.tokenizer
        self._mask_id = tokenizer.mask_id if tokenizer.mask_id is not None else next(iter(tokenizer.sentinel_ids), None)
        if self._mask_id is None:
            raise UserError(
                f'{self.corpus.tokenizer_path} has neither [MASK] nor a sentinel (<extra_id_0>) to stand for masked tokens; '
                'prepare with another --tokenizer'
            )

    def _lengths(self, length, keys):
        return length + 1, length + 1

    def _pairs(self, text, length, keys):
        counts = np.clip(np.rint(length * self.mlm.probability).astype(np.int64), 1, length)
        masked = random.choose(random.bits(keys, random.key('masks')), length, counts)
        end = self.tokenizer.end_id
        return ended(np.where(masked, np.int32(self._mask_id), text), length, end), ended(text, length, end)
