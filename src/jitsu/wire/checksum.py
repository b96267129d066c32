"""The Internet checksum (RFC 1071) as arithmetic on one big integer.

A ones' complement sum of 16-bit words is the data, read as one big-endian number, modulo 0xffff:
2**16 is 1 modulo 0xffff, so each word weighs the same wherever it stands. Python divides a long
integer by a small one in C, which beats summing the words, in an array, by a factor of two for 40
bytes and of four for a full segment. For the same reason the numbers in a pseudo-header may simply
be added.

Zero has two forms in ones' complement. Only data that are all zero sum to 0; any other sum that
is a multiple of 0xffff is 0xffff, whose complement is 0.
"""

from ipaddress import IPv4Address, IPv6Address


def checksum(data: bytes | bytearray | memoryview, extra: int = 0) -> int:
    """Return the checksum, in 16 bits, of `data` whose checksum field is zero.

    `extra` is added to the sum: see `pseudo_header`.
    """
    total = _number(data) + extra
    return -total % 0xFFFF if total else 0xFFFF


def is_valid(data: bytes | bytearray | memoryview, extra: int = 0) -> bool:
    """Say whether `data`, its checksum included, sums to what it should (RFC 1071 section 1)."""
    total = _number(data) + extra
    return total > 0 and total % 0xFFFF == 0


def pseudo_header(
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    protocol: int,
    length: int,
) -> int:
    """Sum the pseudo-header of RFC 9293 section 3.1, or of RFC 8200 section 8.1 for IPv6.

    `length` is that of the transport's header and payload in bytes. The sum is not folded.
    """
    return int(source) + int(destination) + protocol + length


def _number(data: bytes | bytearray | memoryview) -> int:
    """Read `data` as a number, as if padded with a zero byte to whole words."""
    number = int.from_bytes(data, "big")
    return number << 8 if len(data) & 1 else number
