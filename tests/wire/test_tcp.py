from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from jitsu.errors import WireError
from jitsu.wire import tcp
from jitsu.wire.checksum import checksum, pseudo_header
from jitsu.wire.tcp import Flags, Options, Segment, Timestamps
from wire.strategies import (
    CLIENT,
    SERVER,
    bytes8,
    damaged,
    either_addresses,
    payloads,
    words16,
    words32,
)

Addresses = tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]
TOP = 2**32 - 1
HALF = 2**31

options = st.builds(
    Options,
    mss=st.none() | words16,
    window_scale=st.none() | st.integers(0, 14),
    sack_permitted=st.booleans(),
    timestamps=st.none() | st.builds(Timestamps, words32, words32),
    sack_blocks=st.lists(st.tuples(words32, words32), max_size=4).map(tuple),
).filter(
    # Room for 40 bytes: three words of four, twelve of timestamps, four and eights of blocks.
    lambda options: (
        4 * (options.mss is not None)
        + 4 * (options.window_scale is not None)
        + 4 * options.sack_permitted
        + 12 * (options.timestamps is not None)
        + (4 + 8 * len(options.sack_blocks) if options.sack_blocks else 0)
        <= 40
    )
)
segments = st.builds(
    Segment,
    source_port=words16,
    destination_port=words16,
    seq=words32,
    ack=words32,
    flags=bytes8.map(Flags),
    window=words16,
    options=options,
    payload=payloads,
    urgent=words16,
)
SYN = Segment(40000, 80, 1000, 0, Flags.SYN, 64240)


def with_options(raw: bytes) -> bytes:
    """Render SYN with these very bytes of options."""
    assert len(raw) % 4 == 0
    data = bytearray(tcp.encode(SYN, CLIENT, SERVER) + raw)
    data[12] = (20 + len(raw)) // 4 << 4
    data[16:18] = bytes(2)
    extra = pseudo_header(CLIENT, SERVER, 6, len(data))
    data[16:18] = checksum(data, extra).to_bytes(2, "big")
    return bytes(data)


@given(segments, either_addresses)
def test_round_trip(segment: Segment, addresses: Addresses) -> None:
    data = tcp.encode(segment, *addresses)
    assert tcp.decode(data, *addresses) == tcp.decode(memoryview(data), *addresses) == segment


@given(
    st.binary(max_size=80)
    | damaged(segments.map(lambda segment: tcp.encode(segment, CLIENT, SERVER))),
    st.booleans(),
)
def test_any_bytes_decode_or_raise_wire_error(data: bytes, verify: bool) -> None:
    with suppress(WireError):
        tcp.decode(data, CLIENT, SERVER, verify=verify)


@given(st.binary(max_size=10).map(lambda words: words * 4) | damaged(st.just(bytes(range(40)))))
def test_any_options_decode_or_raise_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        tcp.decode(with_options(raw[: min(len(raw), 40) // 4 * 4]), CLIENT, SERVER)


@pytest.mark.parametrize("at", range(30))
def test_the_checksum_covers_all(at: int) -> None:
    segment = replace(SYN, options=Options(mss=1460), payload=b"abcdef")
    data = bytearray(tcp.encode(segment, CLIENT, SERVER))
    data[at] ^= 0x01
    with pytest.raises(WireError, match="checksum"):
        tcp.decode(bytes(data), CLIENT, SERVER)


def test_the_checksum_covers_the_addresses() -> None:
    data = tcp.encode(SYN, CLIENT, SERVER)
    with pytest.raises(WireError, match="checksum"):
        tcp.decode(data, CLIENT, SERVER + 1)
    assert tcp.decode(data, CLIENT, SERVER + 1, verify=False) == SYN


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (0x50, 0, "segment of 0 bytes"),
        (0x50, 19, "segment of 19 bytes"),
        (0x40, 20, "data offset 16, received 20"),
        (0x00, 20, "data offset 0"),
        (0x60, 20, "data offset 24, received 20"),
        (0xF0, 59, "data offset 60, received 59"),
    ],
)
def test_lengths(offset: int, length: int, message: str) -> None:
    data = bytearray(60)
    data[12] = offset
    with pytest.raises(WireError, match=message):
        tcp.decode(bytes(data[:length]), CLIENT, SERVER, verify=False)


def test_reserved_bits_are_ignored() -> None:
    data = bytearray(tcp.encode(SYN, CLIENT, SERVER))
    data[12] |= 0x0F
    assert tcp.decode(bytes(data), CLIENT, SERVER, verify=False) == SYN


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", Options()),
        ("01010101", Options()),
        ("00ffffff", Options()),  # after the end of the list anything may stand
        ("02040000", Options(mss=0)),
        ("0204ffff", Options(mss=65535)),
        ("020405b4 02040218", Options(mss=536)),  # the last one counts
        ("03030000", Options(window_scale=0)),
        ("0303 0e00", Options(window_scale=14)),
        ("0303 0f00", Options(window_scale=14)),
        ("0303 ff00", Options(window_scale=14)),
        ("0402 0000", Options(sack_permitted=True)),
        ("080a 00000001 ffffffff 0000", Options(timestamps=Timestamps(1, TOP))),
        ("050a 00000001 00000002 0101", Options(sack_blocks=((1, 2),))),
        ("0522" + "00000003 00000004" * 4 + "0101", Options(sack_blocks=((3, 4),) * 4)),
        ("fd04ffff 020405b4", Options(mss=1460)),  # unknown ones are skipped
        ("2202 01 00", Options()),
        ("1e28" + "ff" * 38, Options()),
        (
            "020405b4 0402080a 00000007 00000000 01030307",  # what Linux sends
            Options(1460, 7, True, Timestamps(7, 0)),
        ),
    ],
)
def test_options(raw: str, expected: Options) -> None:
    assert tcp.decode(with_options(bytes.fromhex(raw)), CLIENT, SERVER).options == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("01010102", "option 2 of length 0"),  # cut before its length
        ("02000000", "option 2 of length 0"),
        ("02010000", "option 2 of length 1"),
        ("fe01ffff", "option 254 of length 1"),
        ("02050101", "option 2 of length 5"),  # longer than what is left
        ("fe05ffff", "option 254 of length 5"),
        ("02030101", "option 2 with a value of 1 bytes"),
        ("03020101", "option 3 with a value of 0 bytes"),
        ("03040101", "option 3 with a value of 2 bytes"),
        ("04030101", "option 4 with a value of 1 bytes"),
        ("05020101", "option 5 with a value of 0 bytes"),
        ("0509" + "00" * 10, "option 5 with a value of 7 bytes"),
        ("0526" + "00" * 38, "option 5 with a value of 36 bytes"),
        ("0809" + "00" * 10, "option 8 with a value of 7 bytes"),
        ("080b" + "00" * 10, "option 8 with a value of 9 bytes"),
    ],
)
def test_illegal_options(raw: str, message: str) -> None:
    with pytest.raises(WireError, match=message):
        tcp.decode(with_options(bytes.fromhex(raw)), CLIENT, SERVER)


def test_layout_of_options() -> None:
    everything = Options(1460, 7, True, Timestamps(1, 2), ((3, 4),))
    data = tcp.encode(replace(SYN, options=everything), CLIENT, SERVER)
    assert data[20:] == bytes.fromhex(
        "020405b4 01030307 01010402 0101080a 00000001 00000002 0101050a 00000003 00000004"
    )


@pytest.mark.parametrize(
    "options",
    [
        Options(window_scale=15),
        Options(sack_blocks=((0, 1),) * 5),
        Options(sack_blocks=((0, 1),) * 4, timestamps=Timestamps(0, 0)),
    ],
)
def test_options_that_cannot_be_said(options: Options) -> None:
    with pytest.raises(AssertionError):
        tcp.encode(replace(SYN, options=options), CLIENT, SERVER)


@pytest.mark.parametrize(
    ("flags", "payload", "length"),
    [
        (Flags(0), b"", 0),
        (Flags.ACK, b"", 0),
        (Flags.SYN, b"", 1),
        (Flags.SYN | Flags.ACK, b"", 1),
        (Flags.FIN | Flags.ACK, b"", 1),
        (Flags.SYN | Flags.FIN, b"", 2),
        (Flags.PSH | Flags.ACK, b"abc", 3),
        (Flags.SYN, b"abc", 4),
        (Flags.FIN | Flags.ACK, b"abc", 4),
        (Flags.RST | Flags.URG | Flags.ECE | Flags.CWR, b"", 0),
    ],
)
def test_length(flags: Flags, payload: bytes, length: int) -> None:
    assert replace(SYN, flags=flags, payload=payload).length == length


@pytest.mark.parametrize(
    ("arrived", "seq", "ack", "flags"),
    [
        (SYN, 0, 1001, Flags.RST | Flags.ACK),
        (replace(SYN, payload=b"abc"), 0, 1004, Flags.RST | Flags.ACK),
        (replace(SYN, seq=TOP), 0, 0, Flags.RST | Flags.ACK),
        (replace(SYN, flags=Flags(0)), 0, 1000, Flags.RST | Flags.ACK),
        (replace(SYN, flags=Flags.FIN, ack=7), 0, 1001, Flags.RST | Flags.ACK),
        (replace(SYN, flags=Flags.ACK, ack=7), 7, 0, Flags.RST),
        (replace(SYN, flags=Flags.SYN | Flags.ACK, ack=TOP), TOP, 0, Flags.RST),
        (replace(SYN, flags=Flags.FIN | Flags.ACK, ack=7, payload=b"x"), 7, 0, Flags.RST),
    ],
)
def test_reset(arrived: Segment, seq: int, ack: int, flags: Flags) -> None:
    assert tcp.reset_for(arrived) == Segment(80, 40000, seq, ack, flags, window=0)


@pytest.mark.parametrize("flags", [Flags.RST, Flags.RST | Flags.ACK, Flags.RST | Flags.SYN])
def test_a_reset_is_never_answered(flags: Flags) -> None:
    assert tcp.reset_for(replace(SYN, flags=flags)) is None


@given(bytes8)
def test_a_reset_is_the_last_word(flags: int) -> None:
    reset = tcp.reset_for(replace(SYN, flags=Flags(flags)))
    assert reset is None or tcp.reset_for(reset) is None


@pytest.mark.parametrize(
    ("seq", "other", "diff"),
    [
        (0, 0, 0),
        (TOP, TOP, 0),
        (1, 0, 1),
        (0, 1, -1),
        (0, TOP, 1),
        (TOP, 0, -1),
        (HALF - 1, 0, HALF - 1),
        (HALF, 0, -HALF),
        (0, HALF, -HALF),
        (HALF + 1, 0, -HALF + 1),
        (5, TOP - 4, 10),
    ],
)
def test_order_of_sequence_numbers(seq: int, other: int, diff: int) -> None:
    assert tcp.seq_diff(seq, other) == diff
    assert tcp.seq_lt(seq, other) is (diff < 0)


@given(words32, st.integers(-HALF, HALF - 1))
def test_sequence_numbers_go_round(seq: int, count: int) -> None:
    moved = tcp.seq_add(seq, count)
    assert 0 <= moved <= TOP
    assert tcp.seq_diff(moved, seq) == count


def to_scapy(options: Options) -> list[tuple[str, object]]:
    """Say the same in scapy's words, in the order and with the padding in which we write."""
    said: list[tuple[str, object]] = []
    if options.mss is not None:
        said.append(("MSS", options.mss))
    if options.window_scale is not None:
        said += [("NOP", None), ("WScale", options.window_scale)]
    if options.sack_permitted:
        said += [("NOP", None)] * 2 + [("SAckOK", b"")]
    if options.timestamps is not None:
        stamps = (options.timestamps.tsval, options.timestamps.tsecr)
        said += [("NOP", None)] * 2 + [("Timestamp", stamps)]
    if options.sack_blocks:
        edges = tuple(edge for block in options.sack_blocks for edge in block)
        said += [("NOP", None)] * 2 + [("SAck", edges)]
    return said


@given(segments, either_addresses)
def test_agrees_with_scapy(segment: Segment, addresses: Addresses) -> None:
    source, destination = addresses
    layer = IP if source.version == 4 else IPv6
    packet = layer(src=str(source), dst=str(destination)) / TCP(
        sport=segment.source_port,
        dport=segment.destination_port,
        seq=segment.seq,
        ack=segment.ack,
        flags=int(segment.flags),
        window=segment.window,
        urgptr=segment.urgent,
        options=to_scapy(segment.options),
    )
    theirs = bytes(packet / segment.payload)[20 if source.version == 4 else 40 :]
    data = tcp.encode(segment, *addresses)
    assert tcp.decode(theirs, *addresses) == segment
    assert theirs == data
    parsed = TCP(data)
    assert (parsed.sport, parsed.dport) == (segment.source_port, segment.destination_port)
    assert (parsed.seq, parsed.ack, int(parsed.flags)) == (segment.seq, segment.ack, segment.flags)
    assert (parsed.window, parsed.urgptr) == (segment.window, segment.urgent)
    assert parsed.options == to_scapy(segment.options)
    assert bytes(parsed.payload) == segment.payload
