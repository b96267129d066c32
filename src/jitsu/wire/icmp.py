"""ICMP for IPv4 (RFC 792): echo and destination unreachable; anything else is `Other`.

Whether an error may be sent at all is for the caller to judge: never about an ICMP error, a
broadcast, or a fragment but the first (RFC 1122 section 3.2.2).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import assert_never

from jitsu.errors import WireError
from jitsu.wire.checksum import checksum, is_valid

HEADER_BYTES = 8
ORIGINAL_BYTES_MAX = 576 - 20 - HEADER_BYTES
"""What an error quotes of a packet, to stay within 576 bytes itself (RFC 1812 section 4.3.2.3)."""

_HEADER = struct.Struct("!BBHHH")
_CHECKSUM_AT = 2
_ECHO_REPLY, _DESTINATION_UNREACHABLE, _ECHO_REQUEST = 0, 3, 8
_BODY_AT = 4


class Unreachable(IntEnum):
    """Why a destination cannot be reached: the codes that Jitsu may send or heed."""

    NETWORK = 0
    HOST = 1
    PROTOCOL = 2
    PORT = 3
    FRAGMENTATION_NEEDED = 4
    ADMINISTRATIVELY_PROHIBITED = 13


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """Asks for its own identifier, sequence number and data to come back."""

    identifier: int
    sequence: int
    data: bytes = b""

    def reply(self) -> "EchoReply":
        """Return the answer."""
        return EchoReply(self.identifier, self.sequence, self.data)


@dataclass(frozen=True, slots=True)
class EchoReply:
    """Answers an `EchoRequest`."""

    identifier: int
    sequence: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class DestinationUnreachable:
    """Tells that a packet did not arrive. `code` may be any, not only an `Unreachable`.

    `original` is the head of that packet, from its IPv4 header on. `mtu` is what the next link
    takes, in bytes, if `code` is FRAGMENTATION_NEEDED (RFC 1191 section 4); otherwise 0.
    """

    code: int
    original: bytes
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Other:
    """A message of another type, or an echo whose code is not 0.

    `body` is all that follows the checksum, at least four bytes.
    """

    type: int
    code: int
    body: bytes


Message = EchoRequest | EchoReply | DestinationUnreachable | Other


def unreachable(code: int, packet: bytes | memoryview, mtu: int = 0) -> DestinationUnreachable:
    """Tell who sent `packet` that it did not arrive.

    `packet` starts at its IPv4 header; as much of it is quoted as RFC 1812 allows.
    """
    return DestinationUnreachable(code, bytes(packet[:ORIGINAL_BYTES_MAX]), mtu)


def decode(data: bytes | memoryview) -> Message:
    """Parse a message. Raises WireError if it is cut short or its checksum is wrong."""
    if len(data) < HEADER_BYTES:
        raise WireError(f"ICMP message of {len(data)} bytes")
    if not is_valid(data):
        raise WireError("ICMP checksum")
    kind, code, _, first, second = _HEADER.unpack_from(data)
    rest = bytes(data[HEADER_BYTES:])
    match kind, code:
        case (0, 0):
            return EchoReply(first, second, rest)
        case (8, 0):
            return EchoRequest(first, second, rest)
        case (3, _):
            return DestinationUnreachable(code, rest, second)
        case _:
            return Other(kind, code, bytes(data[_BODY_AT:]))


def encode(message: Message) -> bytes:
    """Render a message with its checksum."""
    rendered = bytearray(_encode_unsummed(message))
    struct.pack_into("!H", rendered, _CHECKSUM_AT, checksum(rendered))
    return bytes(rendered)


def _encode_unsummed(message: Message) -> bytes:
    """Render a message whose checksum is zero."""
    match message:
        case EchoRequest(identifier, sequence, data):
            return _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + data
        case EchoReply(identifier, sequence, data):
            return _HEADER.pack(_ECHO_REPLY, 0, 0, identifier, sequence) + data
        case DestinationUnreachable(code, original, mtu):
            return _HEADER.pack(_DESTINATION_UNREACHABLE, code, 0, 0, mtu) + original
        case Other(kind, code, body):
            assert len(body) >= HEADER_BYTES - _BODY_AT, "a message has a whole header"
            return struct.pack("!BBH", kind, code, 0) + body
        case _:
            assert_never(message)
