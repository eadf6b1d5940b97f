"""Just enough of protocol buffers' wire format (https://protobuf.dev/programming-guides/encoding) to look into SentencePiece's files."""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(data: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """(number, value, the bytes that say so) of each field of a message: an int for a varint, otherwise the bytes.

    Raises:
      ValueError: this is no message.
    """
    place = 0
    while place < len(data):
        start = place
        key, place = _varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
        else:
            if kind == BYTES:
                size, place = _varint(data, place)
            elif kind in (FIXED32, FIXED64):
                size = 4 if kind == FIXED32 else 8
            else:
                raise ValueError(f'wire type {kind}')
            value = data[place : place + size]
            place += size
            if len(value) != size:
                raise ValueError('truncated')
        yield key >> 3, value, data[start:place]


def field(number: int, value: int | bytes) -> bytes:
    """The bytes that say that a field has a value."""
    if isinstance(value, int):
        return _varint_bytes(number << 3 | VARINT) + _varint_bytes(value)
    return _varint_bytes(number << 3 | BYTES) + _varint_bytes(len(value)) + value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError('truncated')


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
