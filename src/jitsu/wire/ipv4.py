"""IPv4 packets (RFC 791).

Nothing is reassembled: a fragment decodes to a packet whose `is_fragment` is true, and its payload
is not a whole message of its protocol, so the layer above must not see it. Options are carried as
bytes and not interpreted. The reserved flag is ignored, as receivers must.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from jitsu.errors import WireError
from jitsu.wire.checksum import checksum, is_valid

HEADER_BYTES = 20
"""Without options."""
HEADER_BYTES_MAX = 60
PACKET_BYTES_MAX = 65535

_HEADER = struct.Struct("!BBHHHBBH4s4s")
_CHECKSUM_AT = 10
_DONT_FRAGMENT, _MORE_FRAGMENTS, _OFFSET = 0x4000, 0x2000, 0x1FFF


class Protocol(IntEnum):
    """What a packet carries, of what Jitsu knows."""

    ICMP = 1
    TCP = 6
    UDP = 17


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `protocol` may be any, not only a `Protocol`.

    `fragment_offset` is in bytes, a multiple of 8. `options` are whole 32-bit words, at most ten.
    `traffic_class` is the second byte: six bits of DSCP (RFC 2474) and two of ECN (RFC 3168).
    """

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    ttl: int = 64
    identification: int = 0
    dont_fragment: bool = True
    more_fragments: bool = False
    fragment_offset: int = 0
    traffic_class: int = 0
    options: bytes = b""

    @property
    def is_fragment(self) -> bool:
        """Say whether this is only a part of what was sent, be it the first part or a later one."""
        return self.more_fragments or self.fragment_offset > 0


def decode(data: bytes | memoryview) -> Packet:
    """Parse a packet, and ignore what follows its total length: Ethernet pads it.

    Raises WireError if it is cut short, of another version, or its header's checksum is wrong.
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"IPv4 packet of {len(data)} bytes")
    first, traffic_class, total, identification, fragment, ttl, protocol, _, source, destination = (
        _HEADER.unpack_from(data)
    )
    version, header = first >> 4, (first & 0x0F) * 4
    if version != 4:
        raise WireError(f"IP version {version} in an IPv4 packet")
    if not HEADER_BYTES <= header <= total <= len(data):
        raise WireError(f"IPv4 lengths: header {header}, total {total}, received {len(data)}")
    if not is_valid(data[:header]):
        raise WireError("IPv4 header checksum")
    return Packet(
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=protocol,
        payload=bytes(data[header:total]),
        ttl=ttl,
        identification=identification,
        dont_fragment=bool(fragment & _DONT_FRAGMENT),
        more_fragments=bool(fragment & _MORE_FRAGMENTS),
        fragment_offset=(fragment & _OFFSET) * 8,
        traffic_class=traffic_class,
        options=bytes(data[HEADER_BYTES:header]),
    )


def encode(packet: Packet) -> bytes:
    """Render a packet with its header's checksum."""
    header = HEADER_BYTES + len(packet.options)
    total = header + len(packet.payload)
    assert header % 4 == 0, "options are whole words"
    assert header <= HEADER_BYTES_MAX, "options fit the header"
    assert total <= PACKET_BYTES_MAX, "a packet fits its length field"
    assert packet.fragment_offset % 8 == 0, "fragments begin at multiples of 8 bytes"
    fragment = packet.fragment_offset // 8
    assert fragment <= _OFFSET, "an offset fits its field"
    if packet.dont_fragment:
        fragment |= _DONT_FRAGMENT
    if packet.more_fragments:
        fragment |= _MORE_FRAGMENTS
    rendered = bytearray(
        _HEADER.pack(
            4 << 4 | header // 4,
            packet.traffic_class,
            total,
            packet.identification,
            fragment,
            packet.ttl,
            packet.protocol,
            0,
            packet.source.packed,
            packet.destination.packed,
        )
        + packet.options
    )
    struct.pack_into("!H", rendered, _CHECKSUM_AT, checksum(rendered))
    return bytes(rendered) + packet.payload
