"""Packing of pairs: inputs and targets of several sequences in one row of each, planned from their lengths alone. (numpy only)"""

import numpy as np

from t5x_lite.data import random
from t5x_lite.data.packing import Rows

_KINDS = 4096  # of pairs; where there are more, the cost would grow with their square
_BLOCK = 1 << 14  # pairs packed at a time then


def pack_pairs(first: np.ndarray, second: np.ndarray, first_length: int, second_length: int, root: int) -> Rows:
    """Rows of at most `first_length` inputs and `second_length` targets; every pair lies in exactly one.

    The largest pairs first, each into the row that it leaves least room in (best-fit decreasing), all pairs of equal lengths and all rows of
    equal content at once, as in `packing.strategies`. Size and room count most on the side of which more rows are needed. Where that is one side
    alone, 98 % of it and more are real tokens; where both are short (reviews with answers of a word or two in rows of 512 and 64), 94 %.

        pack_pairs([6, 2, 4], [1, 3, 1], 8, 4, root)  ->  rows of the pairs (0, 1) and (2,)

    Args:
      first, second: int64[n], lengths of inputs and targets, from 0 (not both) to those of the row.
      root: a `random.key`; decides which of the pairs of equal lengths share a row.
    """
    first, second = np.asarray(first, np.int64), np.asarray(second, np.int64)
    for side, most in ((first, first_length), (second, second_length)):
        if side.size and (side.min() < 0 or side.max() > most):
            raise ValueError(f'lengths lie in {side.min()}..{side.max()}; expected 0..{most}')
    order = np.argsort(random.bits(root, np.arange(len(first))), kind='stable')
    kind_of = first * (second_length + 1) + second
    count = len(np.unique(kind_of))
    size = len(order) if count <= _KINDS else _BLOCK
    members, widths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for begin in range(0, len(order), max(1, size)):
        block = order[begin : begin + size]
        kinds, number, counts = np.unique(kind_of[block], return_inverse=True, return_counts=True)
        rows = _rows(kinds // (second_length + 1), kinds % (second_length + 1), counts, first_length, second_length)
        copies = np.array([copies for _, copies in rows], np.int64)
        slots = np.concatenate([np.tile(np.array(content, np.int64), copies) for content, copies in rows])
        # The i-th slot of a kind takes the i-th pair of that kind.
        found = np.empty(len(block), np.int64)
        found[np.argsort(slots, kind='stable')] = block[np.argsort(number, kind='stable')]
        members.append(found)
        widths.append(np.repeat([len(content) for content, _ in rows], copies))
    return Rows(np.concatenate(members), np.concatenate([[0], np.cumsum(np.concatenate(widths))]))


def _rows(first, second, counts, first_length, second_length):
    """[(numbers of the kinds in a row, how many such rows)] for `counts` pairs of each kind with these lengths."""
    # Room of what is open, on both sides; -1 is taken by nothing.
    room = np.full((2, 1024), -1, np.int64)
    contents: list[tuple[tuple[int, ...], int]] = []
    free: list[int] = []  # places in `room` and `contents` that may be used again
    scale = np.array([1 / first_length, 1 / second_length])
    full = []
    least = first.min(), second.min()

    def put(content, copies, a, b):
        nonlocal room
        if a < least[0] or b < least[1]:
            full.append((content, copies))
            return
        if free:
            place = free.pop()
            contents[place] = (content, copies)
        else:
            place = len(contents)
            contents.append((content, copies))
            if place == room.shape[1]:
                room = np.concatenate([room, np.full_like(room, -1)], axis=1)
        room[:, place] = a, b

    # Large ones first, by the side of which more rows are needed: what is large on the other alone may come late, into what is left.
    needed = np.array([first @ counts, second @ counts]) * scale
    weight = scale * np.square(needed / needed.max())
    for kind in np.argsort(-(first * weight[0] + second * weight[1]), kind='stable').tolist():
        a, b, left = int(first[kind]), int(second[kind]), int(counts[kind])
        while left:
            open_rooms = room[:, : len(contents)]
            fits = np.flatnonzero((open_rooms[0] >= a) & (open_rooms[1] >= b))
            if len(fits):
                place = int(fits[np.argmin(weight @ open_rooms[:, fits])])
                (content, copies), (a_room, b_room) = contents[place], room[:, place].tolist()
                room[:, place] = -1
                free.append(place)
            else:
                content, copies, a_room, b_room = (), left, first_length, second_length
            each = min(a_room // a if a else left, b_room // b if b else left, left)
            filled = min(copies, left // each)
            if content and copies > filled:
                put(content, copies - filled, a_room, b_room)
            put((*content, *[kind] * each), filled, a_room - each * a, b_room - each * b)
            left -= filled * each
    return full + [content for place, content in enumerate(contents) if room[0, place] >= 0]
