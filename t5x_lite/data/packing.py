"""Packing: several sequences in one row, planned from their lengths alone. (numpy only)

`pack` decides which sequences share a row, `Layout` says where each lands. The batch features that follow from it are those of the
pipeline: `sequence_ids` (1, 2, 3... within a row, 0 for padding) isolate attention, `positions` restart at 0.
"""

import bisect
import collections
import dataclasses

import numpy as np

from t5x_lite.data import random


@dataclasses.dataclass
class Rows:
    """Which sequences lie in which row: row r holds `members[starts[r]:starts[r + 1]]`, in that order."""

    members: np.ndarray  # int64[sequences]
    starts: np.ndarray  # int64[rows + 1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> 'Rows':
        """The members of these rows (int64[n]), in their order."""
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        return Rows(self.members[np.repeat(self.starts[rows], counts) + inside], starts)


def strategies(histogram: np.ndarray, row_length: int) -> list[tuple[tuple[int, ...], int]]:
    """Kinds of rows, as (lengths of their sequences, how many such rows), that hold `histogram[n]` sequences of each length n.

    Longest sequences first, each into the fullest row that still has room (best-fit decreasing), but with all sequences of a length, and
    all rows of a kind, handled at once: longest-pack-first histogram packing (Krell et al., 2021, "Efficient sequence packing without
    cross-contamination"). The cost depends on the row's length, not on the number of sequences.

        strategies([0, 0, 3, 0, 0, 2], row_length=7)  ->  [((5, 2), 2), ((2,), 1)]
    """
    kinds: dict[int, list[tuple[tuple[int, ...], int]]] = collections.defaultdict(list)  # by room left
    rooms: list[int] = []  # rising, those with kinds
    full = []

    def put(lengths, count, room):
        if room == 0:
            full.append((lengths, count))
            return
        if not kinds[room]:
            bisect.insort(rooms, room)
        kinds[room].append((lengths, count))

    for length in range(min(len(histogram) - 1, row_length), 0, -1):
        left = int(histogram[length])
        while left:
            place = bisect.bisect_left(rooms, length)
            if place == len(rooms):
                # New rows, each with as many of this length as it holds.
                each = row_length // length
                if left >= each:
                    put((length,) * each, left // each, row_length - each * length)
                if left % each:
                    put((length,) * (left % each), 1, row_length - left % each * length)
                break
            room = rooms[place]
            lengths, count = kinds[room].pop()
            if not kinds[room]:
                rooms.pop(place)
            each = min(room // length, left)
            filled = min(count, left // each)
            if count > filled:
                put(lengths, count - filled, room)
            put(lengths + (length,) * each, filled, room - each * length)
            left -= filled * each
    return full + [kind for room in rooms for kind in kinds[room]]


def pack(lengths: np.ndarray, row_length: int, root: int) -> Rows:
    """Rows of at most `row_length` for sequences of these lengths (int64[n], 1 to row_length); every sequence lies in exactly one.

    `root` (a `random.key`) decides which of the sequences of equal length share a row.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.size and (lengths.min() < 1 or lengths.max() > row_length):
        raise ValueError(f'lengths lie in {lengths.min()}..{lengths.max()}; expected 1..{row_length}')
    kinds = strategies(np.bincount(lengths, minlength=row_length + 1), row_length)
    counts = np.array([count for _, count in kinds], np.int64)
    widths = np.array([len(kind) for kind, _ in kinds], np.int64)
    starts = np.concatenate([[0], np.cumsum(np.repeat(widths, counts))])
    # The lengths of all slots, row after row; then the i-th slot of a length takes the i-th sequence of that length.
    slots = np.concatenate([np.tile(np.array(kind, np.int64), count) for kind, count in kinds]) if kinds else np.empty(0, np.int64)
    members = np.empty(len(lengths), np.int64)
    members[np.argsort(slots, kind='stable')] = np.lexsort((random.bits(root, np.arange(len(lengths))), lengths))
    return Rows(members, starts)


@dataclasses.dataclass
class Layout:
    """Where the sequences of a batch of rows land, and the features that follow.

        Layout.of(Rows([0, 1, 2], [0, 2, 3]), lengths=[3, 2, 4], row_length=6)
            row            0 0 1
            column         0 3 0
            sequence_ids   1 1 1 2 2 0 | 1 1 1 1 0 0
            positions      0 1 2 0 1 0 | 0 1 2 3 0 0
    """

    row: np.ndarray  # int64[sequences]
    column: np.ndarray  # int64[sequences]
    used: np.ndarray  # int64[rows], real tokens
    sequence_ids: np.ndarray  # int32[rows, row_length]
    positions: np.ndarray  # int32[rows, row_length]

    @classmethod
    def of(cls, rows: Rows, lengths: np.ndarray, row_length: int) -> 'Layout':
        """`lengths` int64: those of `rows.members`, in that order."""
        lengths = np.asarray(lengths, np.int64)
        counts = np.diff(rows.starts)
        row = np.repeat(np.arange(len(rows)), counts)
        ends = np.cumsum(lengths)
        ends_of_rows = np.concatenate([[0], ends])[rows.starts]
        column = ends - lengths - ends_of_rows[row]
        used = np.diff(ends_of_rows)
        if len(used) and used.max() > row_length:
            raise ValueError(f'a row holds {used.max()} tokens; it has room for {row_length}')
        inside = np.arange(len(lengths)) - rows.starts[row]  # the sequence's number within its row
        sequence_ids = np.zeros((len(rows), row_length), np.int32)
        positions = np.zeros((len(rows), row_length), np.int32)
        real = np.arange(row_length) < used[:, None]
        sequence_ids[real] = np.repeat(inside + 1, lengths)
        positions[real] = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return cls(row, column, used, sequence_ids, positions)


def alone(count: int) -> Rows:
    """One sequence a row."""
    return Rows(np.arange(count), np.arange(count + 1))
