"""TCP segments (RFC 9293), their options, and the arithmetic of sequence numbers.

Segments are judged one by one; what they mean to a connection is decided elsewhere. Options that
are not listed in `Options` are skipped, so `decode(encode(x)) == x` holds for every segment, while
bytes that are decoded and encoded again may lose options and change their order. Reserved bits
are ignored.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address

from jitsu.errors import WireError
from jitsu.wire.checksum import checksum, is_valid, pseudo_header
from jitsu.wire.ipv4 import Protocol

HEADER_BYTES = 20
"""Without options."""
OPTIONS_BYTES_MAX = 40
MSS_DEFAULT = {4: 536, 6: 1220}
"""By version of IP: what takes who names none (RFC 9293 section 3.7.1)."""
MSS_MIN = 48
"""Who names less is sent this much: it would have headers, and little else."""
WINDOW_SCALE_MAX = 14
"""A larger shift counts as this one (RFC 7323 section 2.3)."""

_HEADER = struct.Struct("!HHIIBBHHH")
_CHECKSUM_AT = 16
_END, _NOP, _MSS, _WINDOW_SCALE, _SACK_PERMITTED, _SACK, _TIMESTAMPS = 0, 1, 2, 3, 4, 5, 8
_VALUE_BYTES = {
    _MSS: (2,),
    _WINDOW_SCALE: (1,),
    _SACK_PERMITTED: (0,),
    _SACK: (8, 16, 24, 32),
    _TIMESTAMPS: (8,),
}
"""How long the value of an option may be, without its kind and length."""


class Flags(IntFlag):
    """The control bits."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


_FLAGS = tuple(Flags(bits) for bits in range(256))
"""All there are: making one takes longer than parsing the rest of a header."""


@dataclass(frozen=True, slots=True)
class Timestamps:
    """The timestamps option (RFC 7323 section 3): the sender's clock, and the peer's echoed."""

    tsval: int
    tsecr: int


@dataclass(frozen=True, slots=True)
class Options:
    """The options that mean something here; None, False and () are options not present.

    `mss` is in bytes (RFC 9293 section 3.7.1), `window_scale` a shift of at most 14 (RFC 7323).
    `sack_blocks` are up to four pairs of edges, the right one outside its block (RFC 2018); beside
    timestamps there is room for three.
    """

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: Timestamps | None = None
    sack_blocks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. Its addresses are those of the packet around it.

    `window` is as sent, not scaled; `ack` and `urgent` mean nothing without their flag.
    """

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: Flags
    window: int
    options: Options = Options()
    payload: bytes = b""
    urgent: int = 0

    @property
    def length(self) -> int:
        """Return how many sequence numbers it takes: SEG.LEN of RFC 9293 section 3.4."""
        return len(self.payload) + (Flags.SYN in self.flags) + (Flags.FIN in self.flags)


def decode(
    data: bytes | memoryview,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    *,
    verify: bool = True,
) -> Segment:
    """Parse the segment, `data` and no more, that went from `source` to `destination`.

    `verify` is false for frames of this very host, whose checksums the kernel left to a network
    card. Raises WireError if the segment is cut short, its checksum is wrong, or an option has an
    illegal length (RFC 9293 section 3.1, MUST-7).
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"TCP segment of {len(data)} bytes")
    source_port, destination_port, seq, ack, words, flags, window, _, urgent = _HEADER.unpack_from(
        data
    )
    header = (words >> 4) * 4
    if not HEADER_BYTES <= header <= len(data):
        raise WireError(f"TCP data offset {header}, received {len(data)}")
    if verify:
        extra = pseudo_header(source, destination, Protocol.TCP, len(data))
        if not is_valid(data, extra):
            raise WireError("TCP checksum")
    return Segment(
        source_port=source_port,
        destination_port=destination_port,
        seq=seq,
        ack=ack,
        flags=_FLAGS[flags],
        window=window,
        options=_decode_options(bytes(data[HEADER_BYTES:header])),
        payload=bytes(data[header:]),
        urgent=urgent,
    )


def encode(
    segment: Segment,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
) -> bytes:
    """Render a segment that goes from `source` to `destination`, with its checksum."""
    options = _encode_options(segment.options)
    header = _HEADER.pack(
        segment.source_port,
        segment.destination_port,
        segment.seq,
        segment.ack,
        (HEADER_BYTES + len(options)) // 4 << 4,
        segment.flags,
        segment.window,
        0,
        segment.urgent,
    )
    rendered = bytearray(header + options + segment.payload)
    extra = pseudo_header(source, destination, Protocol.TCP, len(rendered))
    struct.pack_into("!H", rendered, _CHECKSUM_AT, checksum(rendered, extra))
    return bytes(rendered)


def reset_for(segment: Segment) -> Segment | None:
    """Return the reset that answers a segment for a port nobody listens on, if any does.

    A reset is never answered (RFC 9293 section 3.10.7.1).
    """
    if segment.flags & Flags.RST:
        return None
    if segment.flags & Flags.ACK:
        seq, ack, flags = segment.ack, 0, Flags.RST
    else:
        seq, ack, flags = 0, seq_add(segment.seq, segment.length), Flags.RST | Flags.ACK
    return Segment(segment.destination_port, segment.source_port, seq, ack, flags, window=0)


def seq_add(seq: int, count: int) -> int:
    """Return the sequence number `count` after `seq`, or before it if `count` is negative."""
    return (seq + count) & 0xFFFF_FFFF


def seq_diff(seq: int, other: int) -> int:
    """Return how far `seq` is after `other`, the short way round; negative if it is before.

    The result is from -2**31 up to 2**31 - 1.
    """
    return ((seq - other + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000


def seq_lt(seq: int, other: int) -> bool:
    """Say whether `seq` is before `other` (RFC 9293 section 3.4).

    Two numbers exactly 2**31 apart are each before the other; no window is as wide.
    """
    return seq_diff(seq, other) < 0


def _split_options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each option, without padding. Raises WireError."""
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _NOP:
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        if not 2 <= length <= len(data) - at:
            raise WireError(f"TCP option {data[at]} of length {length}")
        yield data[at], data[at + 2 : at + length]
        at += length


def _decode_options(data: bytes) -> Options:
    """Parse options; of one that comes twice the last counts. Raises WireError."""
    if not data:
        return Options()
    mss: int | None = None
    window_scale: int | None = None
    sack_permitted = False
    timestamps: Timestamps | None = None
    sack_blocks: tuple[tuple[int, int], ...] = ()
    for kind, value in _split_options(data):
        if kind in _VALUE_BYTES and len(value) not in _VALUE_BYTES[kind]:
            raise WireError(f"TCP option {kind} with a value of {len(value)} bytes")
        if kind == _MSS:
            mss = int.from_bytes(value, "big")
        elif kind == _WINDOW_SCALE:
            window_scale = min(value[0], WINDOW_SCALE_MAX)
        elif kind == _SACK_PERMITTED:
            sack_permitted = True
        elif kind == _TIMESTAMPS:
            timestamps = Timestamps(*struct.unpack("!II", value))
        elif kind == _SACK:
            sack_blocks = tuple(struct.iter_unpack("!II", value))
    return Options(mss, window_scale, sack_permitted, timestamps, sack_blocks)


def _encode_options(options: Options) -> bytes:
    """Render options, each padded in front to whole words (RFC 7323 appendix A)."""
    parts: list[bytes] = []
    if options.mss is not None:
        parts.append(struct.pack("!BBH", _MSS, 4, options.mss))
    if options.window_scale is not None:
        assert options.window_scale <= WINDOW_SCALE_MAX, "no window is scaled further"
        parts.append(struct.pack("!BBBB", _NOP, _WINDOW_SCALE, 3, options.window_scale))
    if options.sack_permitted:
        parts.append(struct.pack("!BBBB", _NOP, _NOP, _SACK_PERMITTED, 2))
    if options.timestamps is not None:
        stamps = options.timestamps
        parts.append(struct.pack("!4BII", _NOP, _NOP, _TIMESTAMPS, 10, stamps.tsval, stamps.tsecr))
    if options.sack_blocks:
        blocks = [struct.pack("!II", left, right) for left, right in options.sack_blocks]
        parts.append(struct.pack("!BBBB", _NOP, _NOP, _SACK, 2 + 8 * len(blocks)))
        parts.extend(blocks)
    rendered = b"".join(parts)
    assert len(rendered) <= OPTIONS_BYTES_MAX, "options fit the header"
    return rendered
