"""ICMP for IPv6 (RFC 4443): echo and destination unreachable; anything else is `Other`.

Neighbour discovery, which is ICMP too, has a module of its own. Whether an error may be sent at all
is for the caller to judge: never about an ICMP error, to what may be many, or about what was sent
to many (RFC 4443 section 2.4).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address
from typing import assert_never

from jitsu.errors import WireError
from jitsu.wire import ipv6
from jitsu.wire.checksum import checksum, is_valid, pseudo_header
from jitsu.wire.icmp import EchoReply, EchoRequest
from jitsu.wire.ipv6 import Protocol

HEADER_BYTES = 8
"""Of every message that Jitsu knows; of others too, as four bytes alone say nothing."""
ORIGINAL_BYTES_MAX = 1280 - ipv6.HEADER_BYTES - HEADER_BYTES
"""What an error quotes of a packet, to fit every link (RFC 4443 section 2.4 (c))."""

_HEADER = struct.Struct("!BBHHH")
_CHECKSUM_AT = 2
_DESTINATION_UNREACHABLE, _ECHO_REQUEST, _ECHO_REPLY = 1, 128, 129
_BODY_AT = 4


class Unreachable(IntEnum):
    """Why a destination cannot be reached: the codes that Jitsu may send or heed."""

    NO_ROUTE = 0
    ADMINISTRATIVELY_PROHIBITED = 1
    ADDRESS = 3
    PORT = 4


@dataclass(frozen=True, slots=True)
class DestinationUnreachable:
    """Tells that a packet did not arrive. `code` may be any, not only an `Unreachable`.

    `original` is the head of that packet, from its IPv6 header on.
    """

    code: int
    original: bytes


@dataclass(frozen=True, slots=True)
class Other:
    """A message of another type, or an echo whose code is not 0.

    `body` is all that follows the checksum, at least four bytes.
    """

    type: int
    code: int
    body: bytes


Message = EchoRequest | EchoReply | DestinationUnreachable | Other


def unreachable(code: int, packet: bytes | memoryview) -> DestinationUnreachable:
    """Tell who sent `packet` that it did not arrive.

    `packet` starts at its IPv6 header; as much of it is quoted as RFC 4443 allows.
    """
    return DestinationUnreachable(code, bytes(packet[:ORIGINAL_BYTES_MAX]))


def decode(data: bytes | memoryview, source: IPv6Address, destination: IPv6Address) -> Message:
    """Parse the message, `data` and no more, that went from `source` to `destination`.

    Raises WireError if it is cut short or its checksum is wrong.
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"ICMPv6 message of {len(data)} bytes")
    if not is_valid(data, pseudo_header(source, destination, Protocol.ICMPV6, len(data))):
        raise WireError("ICMPv6 checksum")
    kind, code, _, first, second = _HEADER.unpack_from(data)
    rest = bytes(data[HEADER_BYTES:])
    match kind, code:
        case (129, 0):
            return EchoReply(first, second, rest)
        case (128, 0):
            return EchoRequest(first, second, rest)
        case (1, _):
            return DestinationUnreachable(code, rest)
        case _:
            return Other(kind, code, bytes(data[_BODY_AT:]))


def encode(message: Message, source: IPv6Address, destination: IPv6Address) -> bytes:
    """Render a message that goes from `source` to `destination`, with its checksum."""
    rendered = bytearray(_encode_unsummed(message))
    extra = pseudo_header(source, destination, Protocol.ICMPV6, len(rendered))
    struct.pack_into("!H", rendered, _CHECKSUM_AT, checksum(rendered, extra))
    return bytes(rendered)


def _encode_unsummed(message: Message) -> bytes:
    """Render a message whose checksum is zero."""
    match message:
        case EchoRequest(identifier, sequence, data):
            return _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + data
        case EchoReply(identifier, sequence, data):
            return _HEADER.pack(_ECHO_REPLY, 0, 0, identifier, sequence) + data
        case DestinationUnreachable(code, original):
            return _HEADER.pack(_DESTINATION_UNREACHABLE, code, 0, 0, 0) + original
        case Other(kind, code, body):
            assert len(body) >= HEADER_BYTES - _BODY_AT, "a message has a whole header"
            return struct.pack("!BBH", kind, code, 0) + body
        case _:
            assert_never(message)
