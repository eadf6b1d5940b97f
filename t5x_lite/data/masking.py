"""Masked language modelling (Devlin et al., 2018, section 3.1): which tokens of a row are predicted and what stands in their place."""

import numpy as np

from t5x_lite.config import MlmConfig
from t5x_lite.data import random

_EIGHTY, _NINETY = int(0.8 * 2**32), int(0.9 * 2**32)


class MlmMasker:
    """Chooses min(P, max(1, round(probability x real tokens))) tokens of each row; 80 % become [MASK], 10 % another word, 10 % stay.

    As in the original `create_pretraining_data.py`, [CLS] and [SEP] count as real tokens but are never chosen, Python's round is used (half
    to even), and each token draws its replacement alone, within a whole word too. [UNK] can be predicted, as there. Unlike there, the
    random word is never a special token (the original draws from the whole vocabulary): a [PAD] or [SEP] inside a text is met neither in
    fine-tuning nor in use.

    With `whole_words`, a word is a token and the continuations that follow it; words are tried in random order, and one that would exceed
    the number of predictions is passed over. A continuation right after a special token begins a word.

    A worked example, with [CLS] = 2, [SEP] = 3, [MASK] = 4, P = 5, probability 0.4, and 9 real tokens of which round(3.6) = 4 are chosen.
    11 and 15 become [MASK], 13 another word, 14 stays:

        tokens in            2 11 12 13  3 14 15 16  3  0
        tokens out           2  4 12 17  3 14  4 16  3  0
        masked_positions     1  3  5  6  0
        masked_targets      11 13 14 15  0
        masked_weights       1  1  1  1  0
    """

    def __init__(self, config: MlmConfig, max_predictions: int, tokenizer):
        self._probability = config.probability
        self._max_predictions = max_predictions
        self._mask_id = tokenizer.blank_id
        special = np.zeros(tokenizer.vocab_size, bool)
        special[sorted(tokenizer.special_ids)] = True
        self._words = np.flatnonzero(~special).astype(np.int32)  # what a random word is drawn from
        self._maskable = ~special
        if tokenizer.unk_id is not None:
            self._maskable[tokenizer.unk_id] = True
        self._continues = np.asarray(tokenizer.is_continuation, bool) if config.whole_words else None

    def __call__(self, tokens: np.ndarray, lengths: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        """Masks a batch.

        Args:
          tokens: int32[n, S], special tokens included.
          lengths: int64[n], real tokens of each row; what lies beyond is never chosen.
          keys: uint64[n], one for each row; the masks of a row depend on its tokens and its key alone.

        Returns:
          tokens int32[n, S]; masked_positions (rising) and masked_targets int32[n, P]; masked_weights float32[n, P], 0 in unused slots.
        """
        length = tokens.shape[1]
        columns = np.arange(length)
        maskable = self._maskable[tokens] & (columns < lengths[:, None])
        counts = np.rint(lengths * self._probability).astype(np.int64)  # rint rounds half to even, as Python does
        counts = np.minimum(np.clip(counts, 1, self._max_predictions), maskable.sum(1))
        choose = self._choose_tokens if self._continues is None else self._choose_words
        positions = choose(tokens, maskable, counts, random.bits(keys[:, None], random.key('order'), columns))
        used = positions < length
        positions[~used] = 0
        rows = np.arange(len(tokens))[:, None]
        targets = tokens[rows, positions]
        draws = random.bits(keys[:, None], random.key('replacement'), positions)
        action = draws >> np.uint64(32)
        # The lower half of the word chooses the random word, so that it does not depend on the action.
        words = self._words[random.below(draws << np.uint64(32), len(self._words))]
        replaced = np.where(action < _EIGHTY, np.int32(self._mask_id), np.where(action < _NINETY, targets, words))
        tokens = tokens.copy()
        row, slot = np.nonzero(used)
        tokens[row, positions[row, slot]] = replaced[row, slot]
        return {
            'tokens': tokens,
            'masked_positions': positions.astype(np.int32),
            'masked_targets': np.where(used, targets, 0).astype(np.int32),
            'masked_weights': used.astype(np.float32),
        }

    def _choose_tokens(self, tokens, maskable, counts, draws):
        """int64[n, P]: the positions of the `counts` smallest draws of each row, rising; S in unused slots."""
        order = _order(np.where(maskable, draws, _LAST))[:, : self._max_predictions]
        return self._padded(np.where(np.arange(order.shape[1]) < counts[:, None], order, tokens.shape[1]), tokens.shape[1])

    def _choose_words(self, tokens, maskable, counts, draws):
        """As `_choose_tokens`, but whole words as long as they fit."""
        size, length = tokens.shape
        columns, rows = np.arange(length), np.arange(size)
        after_word = np.zeros_like(maskable)
        after_word[:, 1:] = maskable[:, :-1]
        begins = maskable & ~(self._continues[tokens] & after_word)
        word = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)  # each token's word, named by its first position
        sizes = np.bincount((rows[:, None] * length + word)[maskable], minlength=size * length).reshape(size, length)
        order = _order(np.where(begins, draws, _LAST))
        chosen, left = np.zeros_like(maskable), counts.copy()
        for rank in range(begins.sum(1).max(initial=0)):
            first = order[:, rank]
            fits = begins[rows, first] & (sizes[rows, first] <= left)
            chosen[rows[fits], first[fits]] = True
            left -= np.where(fits, sizes[rows, first], 0)
            if not left.any():
                break
        chosen = maskable & chosen[rows[:, None], word]
        return self._padded(np.where(chosen, columns, length), length)

    def _padded(self, positions, length):
        positions = np.sort(positions, axis=1)[:, : self._max_predictions]
        return np.pad(positions, ((0, 0), (0, self._max_predictions - positions.shape[1])), constant_values=length)


_LAST = np.uint64(2**64 - 1)


def _order(draws: np.ndarray) -> np.ndarray:
    """argsort along axis 1 of uint64[n, S]; sorting values whose lower bits hold the position is several times faster than argsort."""
    low = np.uint64(2 ** (draws.shape[1] - 1).bit_length() - 1)
    return (np.sort(draws & ~low | np.arange(draws.shape[1], dtype=np.uint64), axis=1) & low).astype(np.int64)
