"""Features of decoders and encoder-decoders from ragged inputs and targets. (numpy only)

Ragged arrays here are flat: int32[sum(lengths)], one sequence after the other in the order of `rows.members`, and their lengths int64[n].
The conventions are those of seqio's feature converters: what a decoder reads is its targets shifted right by one inside each sequence,
beginning with a start token; `sequence_ids` count 1, 2, ... within a row, `positions` restart at 0, and all are 0 in padding.
"""

import dataclasses

import numpy as np

from t5x_lite.data.packing import Layout, Rows


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
        """int32: the tokens of these sequences, one after the other."""
        lengths = self.lengths[members]
        inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.ids[np.repeat(self._starts[members], lengths) + inside]


def shifted(targets: np.ndarray, sequence_ids: np.ndarray, positions: np.ndarray, start_id: int, pad_id: int) -> np.ndarray:
    """int32[B, L]: what a decoder reads to predict `targets`. (In padding it reads padding, also where seqio puts one more start token.)

    targets        3  9  1  4  1  0
    sequence_ids   1  1  1  2  2  0
    ->             7  3  9  7  4  0      start_id=7
    """
    tokens = np.empty_like(targets)
    tokens[:, 1:] = targets[:, :-1]
    tokens[positions == 0] = start_id
    tokens[sequence_ids == 0] = pad_id
    return tokens


def of_decoder(
    rows: Rows, inputs: np.ndarray, input_lengths: np.ndarray, targets: np.ndarray, target_lengths: np.ndarray, row_length: int,
    start_id: int, pad_id: int, prefix: bool = True,
) -> dict[str, np.ndarray]:  # fmt: skip
    """A batch for a decoder: each sequence is its inputs and then its targets, which alone count in the loss.

    `prefix` is 1 where every position of the sequence may attend: at the inputs and at the position after them, as in seqio and t5x. For
    what is read is shifted right by one: it is the last input that stands there, and the first target is predicted from there. Worked
    example: two pairs, (5 6 -> 7 1) and (8 -> 9 1), start_id 2, L = 9.

        tokens          2 5 6 7 2 8 9 0 0
        targets         5 6 7 1 8 9 1 0 0
        target_weights  0 0 1 1 0 1 1 0 0
        sequence_ids    1 1 1 1 2 2 2 0 0
        positions       0 1 2 3 0 1 2 0 0
        prefix          1 1 1 0 1 1 0 0 0

    Args:
      prefix: False leaves that feature out, for sequences without inputs.
    """
    lengths = input_lengths + target_lengths
    layout = Layout.of(rows, lengths, row_length)
    real = layout.sequence_ids > 0
    first_target = np.zeros((len(rows), row_length), np.int32)
    first_target[real] = np.repeat(input_lengths, lengths)
    predicted = real & (layout.positions >= first_target)
    joined = np.full((len(rows), row_length), pad_id, np.int32)
    joined[predicted] = targets
    if len(inputs):
        joined[real & ~predicted] = inputs
    batch = {
        'tokens': shifted(joined, layout.sequence_ids, layout.positions, start_id, pad_id),
        'targets': joined,
        'target_weights': predicted.astype(np.float32),
        'sequence_ids': layout.sequence_ids,
        'positions': layout.positions,
    }
    if prefix:
        batch['prefix'] = (real & (layout.positions <= first_target)).astype(np.int32)
    return batch


def of_encoder_decoder(
    rows: Rows, inputs: np.ndarray, input_lengths: np.ndarray, targets: np.ndarray, target_lengths: np.ndarray, row_length: int,
    target_row_length: int, start_id: int, pad_id: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """A batch for an encoder-decoder; a pair has the same sequence id on both sides. Worked example, that of `of_decoder`, L = 4, T = 5:

    tokens                5 6 8 0
    sequence_ids          1 1 2 0
    positions             0 1 0 0
    decoder_tokens        2 7 2 9 0
    decoder_sequence_ids  1 1 2 2 0
    decoder_positions     0 1 0 1 0
    targets               7 1 9 1 0
    target_weights        1 1 1 1 0
    """
    encoder, decoder = Layout.of(rows, input_lengths, row_length), Layout.of(rows, target_lengths, target_row_length)
    tokens = np.full((len(rows), row_length), pad_id, np.int32)
    tokens[encoder.sequence_ids > 0] = inputs
    real = decoder.sequence_ids > 0
    predicted = np.full((len(rows), target_row_length), pad_id, np.int32)
    predicted[real] = targets
    return {
        'tokens': tokens,
        'sequence_ids': encoder.sequence_ids,
        'positions': encoder.positions,
        'decoder_tokens': shifted(predicted, decoder.sequence_ids, decoder.positions, start_id, pad_id),
        'decoder_sequence_ids': decoder.sequence_ids,
        'decoder_positions': decoder.positions,
        'targets': predicted,
        'target_weights': real.astype(np.float32),
    }
