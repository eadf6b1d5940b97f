"""Pairs of token sequences as rows of a batch, one a row or several with attention isolated. (numpy only)

Two examples, inputs [7 8 5 1] and [8 4 1], targets [3 9 1] and [4 1], as one row each way (1 ends a sequence, start and padding are 0):

    encoder_decoder              tokens 7 8 5 1 8 4 1     decoder_tokens 0 3 9 0 4
                           sequence_ids 1 1 1 1 2 2 2            targets 3 9 1 4 1
    decoder          tokens 0 7 8 5 1 3 9 0 8 4 1 4
                    targets 7 8 5 1 3 9 1 8 4 1 4 1
             target_weights 0 0 0 0 1 1 1 0 0 0 1 1
                     prefix 1 1 1 1 1 0 0 1 1 1 1 0
"""

import dataclasses

import numpy as np

from t5x_lite.data import packing, random
from t5x_lite.data.packing import Rows

_OPEN = 256  # rows that may still take an example while packing


@dataclasses.dataclass
class Sequences:
    """Token sequences end to end."""

    ids: np.ndarray  # int32[tokens]
    lengths: np.ndarray  # int64[sequences]

    @classmethod
    def of(cls, sequences: list[list[int]]) -> 'Sequences':
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return cls(np.fromiter((token for sequence in sequences for token in sequence), np.int32, int(lengths.sum())), lengths)

    def __post_init__(self):
        self._starts = np.cumsum(self.lengths) - self.lengths

    def flat(self, members: np.ndarray) -> np.ndarray:
        """The tokens of these sequences, one after the other."""
        lengths = self.lengths[members]
        return self.ids[np.repeat(self._starts[members], lengths) + _inside(lengths)]


def pack_pairs(inputs: np.ndarray, targets: np.ndarray, input_length: int, target_length: int, root: int) -> Rows:
    """Rows that hold at most `input_length` and `target_length` tokens of inputs and of targets; each pair lies in exactly one.

    The largest pairs first, each into the fullest of the last rows that still has room. `root` decides the order of equal ones.

    Args:
      inputs, targets: int64[n], lengths, none above those of a row.
    """
    share = np.maximum(inputs / input_length, targets / target_length)
    order = np.lexsort((random.bits(root, np.arange(len(share))), -share))
    rooms = np.zeros((_OPEN, 2), np.int64)
    scale = np.array([1 / input_length, 1 / target_length])
    which = np.zeros(_OPEN, np.int64)  # row behind each open place
    row_of, rows = np.empty(len(share), np.int64), 0
    sizes = np.stack([inputs, targets], 1)
    for pair in order.tolist():
        left = rooms - sizes[pair]
        room = np.where((left >= 0).all(1), (left * scale).sum(1), np.inf)
        place = int(np.argmin(room))
        if room[place] == np.inf:
            place = int(np.argmin((rooms * scale).min(1)))  # the place whose row has least use for more
            rooms[place], which[place] = (input_length, target_length), rows
            rows += 1
        rooms[place] -= sizes[pair]
        row_of[pair] = which[place]
    members = np.argsort(row_of, kind='stable')
    return Rows(members, np.searchsorted(row_of[members], np.arange(rows + 1)))


def encoder_decoder(
    rows: Rows, inputs: Sequences, targets: Sequences, input_length: int, target_length: int, pad_id: int, start_id: int
) -> dict[str, np.ndarray]:
    """Features of an encoder-decoder: int32 [B, L] and, of the decoder and targets, [B, T]; target_weights float32."""
    source = packing.Layout.of(rows, inputs.lengths[rows.members], input_length)
    target = packing.Layout.of(rows, targets.lengths[rows.members], target_length)
    flat = targets.flat(rows.members)
    return {
        'tokens': _placed(source, inputs.flat(rows.members), pad_id),
        'sequence_ids': source.sequence_ids,
        'positions': source.positions,
        'decoder_tokens': _placed(target, _shifted(flat, targets.lengths[rows.members], start_id), pad_id),
        'decoder_sequence_ids': target.sequence_ids,
        'decoder_positions': target.positions,
        'targets': _placed(target, flat, pad_id),
        'target_weights': (target.sequence_ids > 0).astype(np.float32),
    }


def decoder(rows: Rows, inputs: Sequences, targets: Sequences, length: int, pad_id: int, start_id: int) -> dict[str, np.ndarray]:
    """Features of a decoder that reads inputs and targets as one sequence: int32 [B, L]; target_weights float32, 1 on targets only.

    prefix: 1 where all positions of the sequence may look, the shifted inputs up to the place that predicts the first target (seqio's prefix LM).
    Causal models leave it aside.
    """
    first, second = inputs.lengths[rows.members], targets.lengths[rows.members]
    lengths = first + second
    layout = packing.Layout.of(rows, lengths, length)
    inside, border = _inside(lengths), np.repeat(first, lengths)
    joined = np.empty(len(inside), np.int32)
    joined[inside < border], joined[inside >= border] = inputs.flat(rows.members), targets.flat(rows.members)
    return {
        'tokens': _placed(layout, _shifted(joined, lengths, start_id), pad_id),
        'targets': _placed(layout, joined, pad_id),
        'target_weights': _placed(layout, (inside >= border).astype(np.float32), 0),
        'prefix': _placed(layout, (inside <= border).astype(np.int32), 0),
        'sequence_ids': layout.sequence_ids,
        'positions': layout.positions,
    }


def _inside(lengths: np.ndarray) -> np.ndarray:
    """0 1 2 0 1 for lengths 3 and 2."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _shifted(flat: np.ndarray, lengths: np.ndarray, start_id: int) -> np.ndarray:
    shifted = np.roll(flat, 1)
    shifted[np.cumsum(lengths) - lengths] = start_id
    return shifted


def _placed(layout: packing.Layout, flat: np.ndarray, filler: int) -> np.ndarray:
    placed = np.full(layout.sequence_ids.shape, filler, flat.dtype)
    placed[layout.sequence_ids > 0] = flat
    return placed
