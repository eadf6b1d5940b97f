"""Objectives that make inputs and targets of a piece of text, for decoders and encoder-decoders. (numpy only)"""

import abc
import dataclasses

import numpy as np

from t5x_lite.config import Config, Layout
from t5x_lite.data import features, packing, random
from t5x_lite.data.objectives import FULL, Pieces, PiecewiseExamples
from t5x_lite.data.packing_pairs import pack_pairs
from t5x_lite.data.stream import Stream
from t5x_lite.errors import UserError


@dataclasses.dataclass
class KeyedPieces(Pieces):
    key: np.ndarray  # uint64[pieces], what a piece draws from


class PairExamples(PiecewiseExamples):
    """An objective that turns a piece of text into inputs and targets. Subclasses give `_lengths` and `_pairs`, nothing else.

    Documents are cut into the longest pieces whose pair fits a row, and pairs are packed, attention isolated. With config.data.concatenate
    the pieces are windows of one stream instead, in which an end token follows each document (`t5x_lite.data.stream`): they cover the whole
    of it, from another place on in each epoch, and attention crosses documents. (The last window runs on into the first, so that up to a
    window of tokens is seen twice.)

    Layout.encoder_decoder has inputs in rows of `seq_len` and targets in rows of `max_predictions`. Layout.decoder has both in one sequence:
    attention is to all of the inputs (`prefix`), and the loss counts targets only. Layout.encoder is the same for an encoder with a causal
    mask (config.model.causal). `t5x_lite.data.features` shows them all.

    Attributes:
      reads_inputs: False for objectives whose inputs are always empty; they have no `prefix`.
      ends_inputs: whether inputs end with an end token, as a prompt then must.

    Raises:
      UserError: a layout that cannot be, a row too short for a pair, a split shorter than a window.
    """

    layouts = (Layout.encoder_decoder, Layout.decoder, Layout.encoder)
    needs = ('end', 'start')
    concatenates = True
    reads_inputs = True
    ends_inputs = True

    def __init__(self, config: Config, split, seed, seq_len, max_predictions, corpus):
        super().__init__(config, split, seed, seq_len, max_predictions, corpus)
        self.prepare(config)
        self._stream = Stream(corpus, self.tokenizer.end_id) if config.data.concatenate else None
        self._pad_id = self.tokenizer.pad_id or 0  # GPT-2 has none; nothing attends to padding
        most = np.asarray(self._longest_of(random.bits(0, np.arange(1000))))
        if most.min() < 2:
            rows = f'config.data.seq_len is {seq_len}' + (f' and targets {max_predictions}' if self.layout is Layout.encoder_decoder else '')
            raise UserError(f'{rows}: too short for {type(self).__name__}, which leaves {most.min()} tokens of text in a row; give more')
        if self._stream is not None and len(self._stream) < most.max():
            raise UserError(
                f'{corpus.path}: the {split} part has {len(self._stream):,} tokens, fewer than the {most.max():,} of one row; '
                'shorten config.data.seq_len or give more text'
            )

    def prepare(self, config: Config) -> None:
        """For subclasses: reads what they need of the config and checks it, before any length is asked for."""

    @abc.abstractmethod
    def _lengths(self, length: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of inputs and targets (int64[n] each) made of pieces of `length` tokens (int64[n] > 0); longer pieces never give less.

        Drawn lengths are functions of `keys` (uint64[n]), one a piece.
        """

    @abc.abstractmethod
    def _pairs(self, text: np.ndarray, length: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32[sum of their lengths] each, of pieces: `text` is int32[sum(length)], one piece after the other."""

    @classmethod
    def predictions(cls, config: Config, length: int) -> int:
        """Length of a row of targets for rows of `length`, where the user gives none."""
        return length

    @classmethod
    def layout_of(cls, config: Config) -> Layout:
        layout = super().layout_of(config)
        if layout is Layout.encoder and not config.model.causal:
            raise UserError(
                f'config.data.source {cls.__name__} predicts tokens that an encoder would see; set --config.model.causal=True for an encoder that '
                'attends to the left, or use t5x_lite.data.objectives:PackedMlm'
            )
        return layout

    def _longest_of(self, keys: np.ndarray):
        """The most tokens of a piece with these keys (uint64[n]): an int, or int64[n]. By bisection of `_lengths`, within 8 rows."""
        low, high = np.zeros(len(keys), np.int64), np.full(len(keys), 8 * self.seq_len, np.int64)
        while (low < high).any():
            middle = (low + high + 1) // 2
            fits = self._fits(*self._lengths(middle, keys))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return low

    def _fits(self, inputs, targets):
        if self.layout is Layout.encoder_decoder:
            return (inputs <= self.seq_len) & (targets <= self.max_predictions)
        return inputs + targets <= self.seq_len

    def _keys(self, root, start):
        """uint64[n]: what pieces that begin at these places (int64[n]; of windows, their numbers) draw from."""
        return random.bits(root, random.key('piece'), start)

    def _keys_of_plan(self, root, start):
        """uint64[n]: the same for all pieces of an epoch, in order, once they are cut. Others may be given only if no length depends on them."""
        return self._keys(root, start)

    def _longest(self, root, start):
        return self._longest_of(self._keys(root, start))

    def _windows(self, root):
        """Start (in the stream), length and key of windows that cover the stream, from a random place on."""
        total, keys, length = len(self._stream), np.empty(0, np.uint64), np.empty(0, np.int64)
        while length.sum() < total:
            keys = self._keys(root, np.arange(2 * len(keys) + 64))
            length = np.broadcast_to(self._longest_of(keys), keys.shape)
        length = length[: np.searchsorted(np.cumsum(length), total) + 1]
        phase = int(random.below(random.bits(root, random.key('phase')), min(total, 2**32))[0])
        return (phase + np.cumsum(length) - length) % total, length, self._keys_of_plan(root, np.arange(len(length)))

    def _plan(self, root):
        both = self.layout is Layout.encoder_decoder
        room = self.seq_len + self.max_predictions if both else self.seq_len
        best, best_share = None, 0.0
        for slack in (0,) if self._stream is not None else self._slacks():
            if self._stream is not None:
                start, length, keys = self._windows(root)
            else:
                start, length = self._pieces(root, slack)
                keys = self._keys_of_plan(root, start)
            inputs, targets = self._lengths(length, keys)
            if both:
                rows = pack_pairs(inputs, targets, self.seq_len, self.max_predictions, random.key(root, 'rows'))
            else:
                rows = packing.pack(inputs + targets, self.seq_len, random.key(root, 'rows'))
            share = (inputs.sum() + targets.sum()) / (len(rows) * room)
            if share > best_share:
                best, best_share = KeyedPieces(start, length, rows, keys), share
            if share >= FULL:
                break
        return best

    def _examples(self, plan, entries, root):
        rows = plan.rows.take(entries)
        start, length, keys = plan.start[rows.members], plan.length[rows.members], plan.key[rows.members]
        inputs, targets = self._pairs(self._text(start, length), length, keys)
        lengths = self._lengths(length, keys)
        options = {'start_id': self.tokenizer.start_id, 'pad_id': self._pad_id}
        if self.layout is Layout.encoder_decoder:
            return features.of_encoder_decoder(
                rows, inputs, lengths[0], targets, lengths[1], self.seq_len, self.max_predictions, **options
            )
        batch = features.of_decoder(rows, inputs, lengths[0], targets, lengths[1], self.seq_len, prefix=self.reads_inputs, **options)
        if self.layout is Layout.encoder:
            batch['token_types'] = np.zeros_like(batch['tokens'])
        return batch

    def _text(self, start, length):
        """int32[sum(length)]: the tokens of pieces, joined."""
        if self._stream is not None:
            return self._stream.read(start, length)
        read = self.corpus.tokens
        parts = [read(first, first + size) for first, size in zip(start.tolist(), length.tolist())]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)


def ended(text: np.ndarray, length: np.ndarray, end_id: int) -> np.ndarray:
    """Ragged `text` (pieces of `length`, joined) with a token after each piece: int32[sum(length) + n]."""
    result = np.full(len(text) + len(length), end_id, np.int32)
    kept = np.ones(len(result), bool)
    kept[np.cumsum(length + 1) - 1] = False
    result[kept] = text
    return result
