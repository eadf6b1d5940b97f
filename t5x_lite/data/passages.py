"""A text as tokens that know their characters, there and back. (numpy only)

A worked example, WordPiece on 'He met  Zoë.' (the accent written apart, as two characters) and byte-level BPE on 'He met Zo.':

    pieces   he   met   zo    ##e    .            He    Ġmet   ĠZo    .
    starts   0    3     8     10     12           0     3      7      9
    stops    2    6     10    12     13           2     6      9      10

White space belongs to no token, whatever the tokenizer's pieces hold. An accent that the tokenizer throws away belongs to its letter.
"""

import dataclasses
import unicodedata

import numpy as np

from t5x_lite.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Passage:
    """Attributes: ids, starts, stops: int32 [tokens]; a token is text[start:stop], '' where it stands for white space only."""

    text: str
    ids: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> 'Passage':
        """Raises UserError where `text` is not Unicode. A text that spells a special token is read as that, unless the tokenizer is a `literal` one."""
        ids, offsets = tokenizer.encode_with_offsets(text)
        spans = [_trimmed(text, start, stop) for start, stop in offsets]
        taken = set().union(*(range(start, stop) for start, stop in spans))
        stops = [_with_marks(text, stop, taken) if start < stop else stop for start, stop in spans]
        return cls(text, np.array(ids, np.int32), np.array([start for start, _ in spans], np.int32), np.array(stops, np.int32))

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, start: int, stop: int) -> tuple[int, int] | None:
        """(first, last) of the tokens that share characters with text[start:stop]; None where none does."""
        inside = np.flatnonzero((self.starts < stop) & (self.stops > start) & (self.starts < self.stops))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """(start, stop) in the text of the tokens from `first` to `last`; two equal numbers where they are white space only."""
        starts, stops = self.starts[first : last + 1], self.stops[first : last + 1]
        real = starts < stops
        return (int(starts[real].min()), int(stops[real].max())) if real.any() else (int(starts[0]), int(starts[0]))


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return start, stop


def _with_marks(text: str, stop: int, taken: set[int]) -> int:
    while stop < len(text) and stop not in taken and unicodedata.category(text[stop]).startswith('M'):
        stop += 1
    return stop
