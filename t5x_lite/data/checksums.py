"""The checksum of bytes in a row from those of their parts."""

_POLYNOMIAL = 0xEDB88320  # of zlib's crc32, lowest power first
_ONE = 1 << 31


def joined(first: int, second: int, size: int) -> int:
    """crc32(a + b) of crc32(a), crc32(b) and len(b).

    A checksum is a polynomial over the bits modulo another: `size` bytes behind the first multiply its own by x^(8 size).
    """
    power, factor, exponent = _ONE, _ONE >> 1, 8 * size
    while exponent:
        if exponent & 1:
            power = _times(power, factor)
        factor = _times(factor, factor)
        exponent >>= 1
    return _times(power, first) ^ second


def _times(left: int, right: int) -> int:
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = left << 1 & 2 * _ONE - 1
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product
