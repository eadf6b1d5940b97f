"""Texts, or pairs of them, as rows of tokens for an architecture. (numpy only)

What stands around texts is what their bodies have learnt to expect. The pair 'a man', 'a dog sings', at 8 tokens:

    encoder                      [CLS] a man [SEP] a dog sings [SEP]      (Devlin et al., 2018); token_types 0 up to the first [SEP], then 1
    decoder, encoder-decoder     a man END a dog sings END                END is what ends a text: <|endoftext|>, </s>; [SEP] of a BERT tokenizer

A decoder reads a sequence off its last token, the END, as GPT-1 does (Radford et al., 2018, section 3.2); T5's tokenizer joins pairs in the same way.
"""

from collections.abc import Sequence

import numpy as np

from t5x_lite.config import Layout
from t5x_lite.data import packing, tokenizers
from t5x_lite.errors import UserError


_SHORTEST = 4  # tokens that a text counts as at least, so that a row holds a bounded number of texts


def frame(tokenizer: tokenizers.Tokenizer, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Special tokens (before the first text, after each); Layout.auto asks the tokenizer, which is a BERT's where it has [CLS] and [SEP].

    Raises:
      UserError: the tokenizer lacks them.
    """
    if layout == Layout.auto:
        layout = Layout.encoder if None not in (tokenizer.cls_id, tokenizer.sep_id) else Layout.decoder
    if layout == Layout.encoder:
        if tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise UserError('the tokenizer has no [CLS] and [SEP]; give one of a BERT with --config.data.tokenizer')
        return (tokenizer.cls_id,), (tokenizer.sep_id,)
    if tokenizer.end_id is None:
        raise UserError('the tokenizer has no token that ends a text (<|endoftext|>, </s>, [SEP]); give another with --config.data.tokenizer')
    return (), (tokenizer.end_id,)


class TextRows:
    """Rows of n examples, end to end in one array.

    Attributes:
      lengths: int32 [n], special tokens counted.
      ids: int32, all tokens.
      cut: bool [n], whether tokens were left out.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, texts: list[list[str]], seq_len: int, layout: Layout = Layout.auto):
        """
        Args:
          texts: one column of texts, or two.
        """
        before, after = frame(tokenizer, layout)
        self._pad = tokenizer.pad_id or 0
        ids, lengths, firsts, cut = [], [], [], []
        count = len(texts[0]) if texts else 0
        for start in range(0, count, 4096):  # bounds the memory of Python lists
            columns = [tokenizer.encode_batch(column[start : start + 4096]) for column in texts]
            for parts in zip(*columns, strict=True):
                kept = _truncate([len(part) for part in parts], seq_len - len(before) - len(parts) * len(after))
                row = [*before]
                for part, keep in zip(parts, kept, strict=True):
                    row += [*part[:keep], *after]
                ids.append(np.asarray(row, np.int32))
                lengths.append(len(row))
                firsts.append(len(before) + kept[0] + len(after))
                cut.append(sum(kept) < sum(map(len, parts)))
        self.lengths, self._firsts, self.cut = np.asarray(lengths, np.int32), np.asarray(firsts, np.int32), np.asarray(cut, bool)
        self.ids = np.concatenate([*ids, np.zeros(1, np.int32)])
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])[:count]

    def features(self, rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """tokens, token_types, sequence_ids: int32 [n, width]; example_weights: float32 [n], ones."""
        if (self.lengths[rows] > width).any():
            raise ValueError(f'width {width} cuts an example of {self.lengths[rows].max()} tokens')
        columns = np.arange(width)
        real = columns < self.lengths[rows][:, None]
        places = np.minimum(self._starts[rows][:, None] + columns, len(self.ids) - 1)
        return {
            'tokens': np.where(real, self.ids[places], self._pad).astype(np.int32),
            'token_types': (real & (columns >= self._firsts[rows][:, None])).astype(np.int32),
            'sequence_ids': real.astype(np.int32),
            'example_weights': np.ones(len(rows), np.float32),
        }

    def packed(self, rows: packing.Rows, width: int) -> dict[str, np.ndarray]:
        """tokens, token_types, sequence_ids, positions: int32 [rows, width], several texts a row; spans: int32 [rows, texts_of(width), 2], where in its row
        each text begins and ends, and (0, 0) for none."""
        members = rows.members
        lengths = self.lengths[members].astype(np.int64)
        layout = packing.Layout.of(rows, lengths, width)
        real = layout.sequence_ids > 0
        inside = layout.positions[real]
        tokens, types = np.full(real.shape, self._pad, np.int32), np.zeros(real.shape, np.int32)
        tokens[real] = self.ids[np.repeat(self._starts[members], lengths) + inside]
        types[real] = inside >= np.repeat(self._firsts[members], lengths)
        spans = np.zeros((len(rows), texts_of(width), 2), np.int32)
        spans[slots_of(rows)] = np.stack([layout.column, layout.column + lengths], axis=1)
        return {'tokens': tokens, 'token_types': types, 'sequence_ids': layout.sequence_ids, 'positions': layout.positions, 'spans': spans}


def shared(lengths: np.ndarray, width: int, root: int) -> packing.Rows:
    """Texts of these lengths (int [n], at most `width`) in rows of which none holds more than texts_of(width)."""
    return packing.pack(np.maximum(lengths, _SHORTEST), width, root)


def texts_of(width: int) -> int:
    """That a row of `width` tokens holds at most."""
    return max(1, width // _SHORTEST)


def slots_of(rows: packing.Rows) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] each: in which row, and as its how many-th text, each of `rows.members` lies."""
    counts = np.diff(rows.starts)
    return np.repeat(np.arange(len(rows)), counts), np.arange(len(rows.members)) - np.repeat(rows.starts[:-1], counts)


def rows_of(texts: Sequence[Sequence[str]], tokenizer: tokenizers.Tokenizer, seq_len: int, layout: Layout = Layout.auto) -> TextRows:
    """The rows of n examples of one text or two each. Raises UserError where some have one and some two."""
    if len({len(parts) for parts in texts}) > 1:
        raise UserError('some inputs are single texts and some are pairs; give all of them in one form')
    return TextRows(tokenizer, [list(column) for column in zip(*texts, strict=True)], seq_len, layout)


def encode_texts(texts: Sequence, tokenizer: tokenizers.Tokenizer, seq_len: int, width: int = 0, layout: Layout = Layout.auto) -> dict[str, np.ndarray]:
    """Features, as `TextRows.features` has them, of n texts or n (text, text) pairs, for predictions.

    Args:
      width: columns of the result; 0: the longest of these texts.
    """
    rows = rows_of([(text,) if isinstance(text, str) else text for text in texts], tokenizer, seq_len, layout)
    return rows.features(np.arange(len(rows.lengths)), width or int(rows.lengths.max(initial=0)))


def _truncate(lengths: list[int], budget: int) -> list[int]:
    """Tokens kept of one or two texts: the longer loses its last token, of equals the second, until both fit (as in the original BERT)."""
    if sum(lengths) <= budget:
        return lengths
    if len(lengths) == 1:
        return [budget]
    first, second = lengths
    half = budget - budget // 2
    if second <= budget // 2:
        return [budget - second, second]
    if first <= half:
        return [first, budget - first]
    return [half, budget - half]
