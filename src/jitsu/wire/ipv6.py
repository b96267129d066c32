"""IPv6 packets (RFC 8200), their extension headers, and addresses that derive from others.

Nothing is reassembled: a fragment decodes to a packet whose `is_fragment` is true, and its payload
is not a whole message of its protocol, so the layer above must not see it. Of extension headers
those are walked that may stand before what everybody can read: hop-by-hop and destination options,
routing, fragment. They are carried as bytes and not interpreted. What is encrypted or authenticated
is a protocol like any other. Jumbograms are not spoken.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address

from jitsu.errors import WireError
from jitsu.model import Mac

HEADER_BYTES = 40
"""Without extension headers."""
PAYLOAD_BYTES_MAX = 65535
"""Extension headers included."""
EXTENSIONS_MAX = 8
"""Extension headers in a packet: each kind twice. A host may refuse more (RFC 8504 section 5.3),
and must, for a packet has room for hundreds."""
UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")

_HEADER = struct.Struct("!IHBB16s16s")
_FLOW_LABEL = 0xFFFFF
_FRAGMENT_OFFSET_OR_MORE = 0xFFF9


class Protocol(IntEnum):
    """What a header says is next, of what Jitsu knows (the IANA registry of protocol numbers)."""

    HOP_BY_HOP = 0
    TCP = 6
    UDP = 17
    ROUTING = 43
    FRAGMENT = 44
    ICMPV6 = 58
    DESTINATION_OPTIONS = 60


_EXTENSIONS = frozenset(
    (Protocol.HOP_BY_HOP, Protocol.ROUTING, Protocol.FRAGMENT, Protocol.DESTINATION_OPTIONS)
)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension header; `kind` is one of the four that are walked.

    `content` is what follows its first two bytes, which say what is next and how long it is: 6
    bytes, or 8, 16, ... more; exactly 6 in a fragment header.
    """

    kind: int
    content: bytes

    @property
    def is_fragment(self) -> bool:
        """Say whether its packet is a part of another; an atomic fragment is not (RFC 6946)."""
        if self.kind != Protocol.FRAGMENT:
            return False
        return bool(int.from_bytes(self.content[:2]) & _FRAGMENT_OFFSET_OR_MORE)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `protocol` may be any that is no extension header, not only a `Protocol`.

    Of a fragment, `protocol` is what its fragment header says, be it another extension header.
    `traffic_class` is six bits of DSCP (RFC 2474) and two of ECN (RFC 3168).
    """

    source: IPv6Address
    destination: IPv6Address
    protocol: int
    payload: bytes
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0
    extensions: tuple[Extension, ...] = ()

    @property
    def is_fragment(self) -> bool:
        """Say whether this is only a part of what was sent, be it the first part or a later one."""
        return any(extension.is_fragment for extension in self.extensions)


def decode(data: bytes | memoryview) -> Packet:
    """Parse a packet, and ignore what follows its payload: Ethernet pads it.

    Raises WireError if it is cut short, of another version, or `split` does.
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"IPv6 packet of {len(data)} bytes")
    first, length, following, hop_limit, source, destination = _HEADER.unpack_from(data)
    if first >> 28 != 6:
        raise WireError(f"IP version {first >> 28} in an IPv6 packet")
    if length > len(data) - HEADER_BYTES:
        raise WireError(f"IPv6 payload of {length}, received {len(data) - HEADER_BYTES}")
    extensions, protocol, payload = split(following, data[HEADER_BYTES : HEADER_BYTES + length])
    return Packet(
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        protocol=protocol,
        payload=bytes(payload),
        hop_limit=hop_limit,
        traffic_class=first >> 20 & 0xFF,
        flow_label=first & _FLOW_LABEL,
        extensions=extensions,
    )


def split(
    following: int, data: bytes | memoryview
) -> tuple[tuple[Extension, ...], int, bytes | memoryview]:
    """Return the extension headers of a packet, and the protocol and payload behind them.

    `data` is all that follows the fixed header, `following` what that says it begins with. Raises
    WireError if an extension header is cut short, there are too many, hop-by-hop options are not
    first (RFC 8200 section 4.1), or a routing header says that the packet is on its way to
    somebody else: we are no hop of anybody's (section 4.4; RFC 5095).
    """
    extensions: list[Extension] = []
    while following in _EXTENSIONS and not (extensions and extensions[-1].is_fragment):
        length = 8
        if following != Protocol.FRAGMENT and len(data) >= length:
            length += data[1] * 8
        if len(data) < length:
            raise WireError(f"IPv6 extension header {following} in {len(data)} bytes")
        extension = Extension(following, bytes(data[2:length]))
        _judge(extension, len(extensions))
        extensions.append(extension)
        following, data = data[0], data[length:]
    return tuple(extensions), following, data


def encode(packet: Packet) -> bytes:
    """Render a packet."""
    assert packet.flow_label <= _FLOW_LABEL, "a flow label fits its field"
    assert packet.is_fragment or packet.protocol not in _EXTENSIONS, "headers are `extensions`"
    following, payload = packet.protocol, packet.payload
    for at, extension in reversed(list(enumerate(packet.extensions))):
        payload = _encode_extension(extension, at, following) + payload
        following = extension.kind
    assert len(payload) <= PAYLOAD_BYTES_MAX, "a packet fits its length field"
    assert not any(e.is_fragment for e in packet.extensions[:-1]), "behind a fragment is none"
    first = 6 << 28 | packet.traffic_class << 20 | packet.flow_label
    ends = packet.source.packed, packet.destination.packed
    return _HEADER.pack(first, len(payload), following, packet.hop_limit, *ends) + payload


def multicast_mac(group: IPv6Address) -> Mac:
    """Return where Ethernet takes what is for a group (RFC 2464 section 7)."""
    return Mac(b"\x33\x33" + group.packed[-4:])


def link_local(mac: Mac) -> IPv6Address:
    """Return the link-local address that derives from a MAC address (RFC 4291 appendix A)."""
    middle = bytes([mac[0] ^ 0x02, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    return IPv6Address(b"\xfe\x80" + bytes(6) + middle)


def _judge(extension: Extension, at: int) -> None:
    """Raise WireError for an extension header that must not stand at place `at` among them."""
    if at >= EXTENSIONS_MAX:
        raise WireError(f"more than {EXTENSIONS_MAX} IPv6 extension headers")
    if extension.kind == Protocol.HOP_BY_HOP and at > 0:
        raise WireError("IPv6 hop-by-hop options that are not first")
    if extension.kind == Protocol.ROUTING and extension.content[1]:
        raise WireError(f"IPv6 packet that has {extension.content[1]} hops before it")


def _encode_extension(extension: Extension, at: int, following: int) -> bytes:
    kind, content = extension.kind, extension.content
    assert kind in _EXTENSIONS, "only these are walked"
    assert len(content) % 8 == 6, "extension headers are whole words"
    assert kind != Protocol.FRAGMENT or len(content) == 6, "a fragment header has eight bytes"
    try:
        _judge(extension, at)
    except WireError as error:
        raise AssertionError(str(error)) from error
    return bytes([following, len(content) // 8]) + content
