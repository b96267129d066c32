"""Segments of the store link: a guest's XenStore connection in frames of its own tap.

After the Ethernet header, all big-endian:

     0         1         2                   4
    +---------+---------+-------------------+---------------------------------------+
    | version | flags   | length of data    | session                               |
    +---------+---------+-------------------+---------------------------------------+
    | sequence                              | acknowledged                          |
    +---------------------------------------+---------------------------------------+
    | data, 0 .. 1400 bytes; what follows is the frame's padding                      ...

What the fields are for is told in `jitsu.core.xenstore.link`.
"""

import struct
from dataclasses import dataclass

from jitsu.errors import WireError

HEADER_BYTES = 16
DATA_BYTES_MAX = 1400
"""Fits a frame of Ethernet with room to spare for a tunnel's header."""

_HEADER = struct.Struct("!BBHIII")
_VERSION = 1
_OPEN = 1
_RESET = 2
_WORD = 0xFFFF_FFFF
_HALF = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Segment:
    """One frame's worth of a session; without data it only acknowledges, or resets."""

    session: int
    sequence: int = 0
    """The number of the data in this segment, or of the next if this one has none."""
    acknowledged: int = 0
    """How many segments with data of the other side have come in order."""
    data: bytes = b""
    open: bool = False
    """The guest's: it has heard nothing of the host in this session."""
    reset: bool = False
    """The sender knows no such session, or ends it."""


def decode(payload: bytes | memoryview) -> Segment:
    """Parse what follows a frame's header, and ignore its padding.

    Raises WireError if it is cut short, of another version, or nothing that anybody may send.
    """
    if len(payload) < HEADER_BYTES:
        raise WireError(f"store link segment of {len(payload)} bytes")
    version, flags, length, session, sequence, acknowledged = _HEADER.unpack_from(payload)
    if version != _VERSION:
        raise WireError(f"store link version {version}")
    if flags & ~(_OPEN | _RESET):
        raise WireError(f"store link flags {flags:#x}")
    if length > min(DATA_BYTES_MAX, len(payload) - HEADER_BYTES):
        raise WireError(f"store link data of {length} bytes in a frame with {len(payload)}")
    if session == 0:
        raise WireError("store link session 0")
    return Segment(
        session=session,
        sequence=sequence,
        acknowledged=acknowledged,
        data=bytes(payload[HEADER_BYTES : HEADER_BYTES + length]),
        open=bool(flags & _OPEN),
        reset=bool(flags & _RESET),
    )


def encode(segment: Segment) -> bytes:
    """Render a segment, unpadded."""
    assert len(segment.data) <= DATA_BYTES_MAX, "the data fits a frame"
    assert segment.session != 0, "session 0 is nobody's"
    header = _HEADER.pack(
        _VERSION,
        _OPEN * segment.open | _RESET * segment.reset,
        len(segment.data),
        segment.session,
        segment.sequence,
        segment.acknowledged,
    )
    return header + segment.data


def successor(number: int) -> int:
    """Return the number after `number`: they wrap at 2**32."""
    return number + 1 & _WORD


def is_before(number: int, other: int) -> bool:
    """Tell whether `number` came before `other`, of two that are near each other (RFC 1982)."""
    return 0 < (other - number & _WORD) < _HALF
