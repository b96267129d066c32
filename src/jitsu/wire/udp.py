"""UDP datagrams (RFC 768), over IPv4 and, by the same code, over IPv6."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from jitsu.errors import WireError
from jitsu.wire.checksum import checksum, is_valid, pseudo_header
from jitsu.wire.ipv4 import Protocol

HEADER_BYTES = 8
DATAGRAM_BYTES_MAX = 65535

_HEADER = struct.Struct("!HHHH")
_CHECKSUM_AT = 6
_NO_CHECKSUM = 0
_ZERO = 0xFFFF
"""How a checksum that comes out as zero is sent; in ones' complement the two are the same."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram. Its addresses are those of the packet around it."""

    source_port: int
    destination_port: int
    payload: bytes


def decode(
    data: bytes | memoryview,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    *,
    verify: bool = True,
) -> Datagram:
    """Parse the datagram that went from `source` to `destination`; ignore what follows its length.

    A checksum of zero means none and is accepted over IPv4 only (RFC 8200 section 8.1). `verify`
    is false for frames of this very host, whose checksums the kernel left to a network card.
    Raises WireError if the datagram is cut short or its checksum is wrong.
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"UDP datagram of {len(data)} bytes")
    source_port, destination_port, length, summed = _HEADER.unpack_from(data)
    if not HEADER_BYTES <= length <= len(data):
        raise WireError(f"UDP length {length}, received {len(data)}")
    unsummed = summed == _NO_CHECKSUM and source.version == 4
    if verify and not unsummed:
        extra = pseudo_header(source, destination, Protocol.UDP, length)
        if summed == _NO_CHECKSUM or not is_valid(data[:length], extra):
            raise WireError("UDP checksum")
    return Datagram(source_port, destination_port, bytes(data[HEADER_BYTES:length]))


def encode(
    datagram: Datagram,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
) -> bytes:
    """Render a datagram that goes from `source` to `destination`, with its checksum."""
    length = HEADER_BYTES + len(datagram.payload)
    assert length <= DATAGRAM_BYTES_MAX, "a datagram fits its length field"
    header = _HEADER.pack(datagram.source_port, datagram.destination_port, length, 0)
    rendered = bytearray(header + datagram.payload)
    extra = pseudo_header(source, destination, Protocol.UDP, length)
    struct.pack_into("!H", rendered, _CHECKSUM_AT, checksum(rendered, extra) or _ZERO)
    return bytes(rendered)
