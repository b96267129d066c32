"""Ethernet II frames, as a tap or a packet socket carries them: without preamble and checksum.

Encoding does not pad to 60 bytes: virtual links do not ask for it and real drivers do it. Decoding
cannot tell padding from payload; the layer above can, by its own length.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from jitsu.errors import WireError
from jitsu.model import Mac

HEADER_BYTES = 14
BROADCAST = Mac(b"\xff" * 6)
UNKNOWN = Mac(bytes(6))
"""No station: what ARP writes for an address that it asks for."""

_HEADER = struct.Struct("!6s6sH")


class EtherType(IntEnum):
    """What a frame carries."""

    IPV4 = 0x0800
    ARP = 0x0806
    IPV6 = 0x86DD
    STORE_LINK = 0x88B5
    """Jitsu's own, between a guest and its host: IEEE 802 sets it aside for local experiments."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `ethertype` may be any, not only an `EtherType`: decoding does not judge it."""

    destination: Mac
    source: Mac
    ethertype: int
    payload: bytes


def decode(data: bytes | memoryview) -> Frame:
    """Parse a frame, padding and all. Raises WireError if it is shorter than its header."""
    if len(data) < HEADER_BYTES:
        raise WireError(f"Ethernet frame of {len(data)} bytes")
    destination, source, ethertype = _HEADER.unpack_from(data)
    return Frame(Mac(destination), Mac(source), ethertype, bytes(data[HEADER_BYTES:]))


def encode(frame: Frame) -> bytes:
    """Render a frame, unpadded."""
    assert len(frame.destination) == len(frame.source) == 6, "a MAC address has six bytes"
    return _HEADER.pack(frame.destination, frame.source, frame.ethertype) + frame.payload
