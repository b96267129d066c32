from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP

from jitsu.errors import WireError
from jitsu.wire import icmp, ipv4
from jitsu.wire.checksum import checksum
from jitsu.wire.icmp import (
    DestinationUnreachable,
    EchoReply,
    EchoRequest,
    Message,
    Other,
    Unreachable,
)
from jitsu.wire.ipv4 import Packet, Protocol
from wire.strategies import CLIENT, SERVER, bytes8, damaged, payloads, words16

echoes = st.builds(EchoRequest, words16, words16, payloads)
replies = st.builds(EchoReply, words16, words16, payloads)
unreachables = st.builds(DestinationUnreachable, bytes8, payloads, words16)
others = st.builds(Other, bytes8, bytes8, st.binary(min_size=4, max_size=60)).filter(
    lambda other: other.type != 3 and (other.type not in (0, 8) or other.code != 0)
)
messages = echoes | replies | unreachables | others


@given(messages)
def test_round_trip(message: Message) -> None:
    data = icmp.encode(message)
    assert icmp.decode(data) == icmp.decode(memoryview(data)) == message


@given(st.binary(max_size=40) | damaged(messages.map(icmp.encode)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        message = icmp.decode(data)
        assert icmp.decode(icmp.encode(message)) == message


@given(others.map(icmp.encode), st.data())
def test_the_checksum_covers_all(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="checksum"):
        icmp.decode(bytes(broken))


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (0, 0, EchoReply(0x0102, 0x0304, b"")),
        (0, 1, Other(0, 1, b"\1\2\3\4")),
        (8, 0, EchoRequest(0x0102, 0x0304, b"")),
        (8, 255, Other(8, 255, b"\1\2\3\4")),
        (3, 0, DestinationUnreachable(Unreachable.NETWORK, b"", 0x0304)),
        (3, 255, DestinationUnreachable(255, b"", 0x0304)),
        (11, 0, Other(11, 0, b"\1\2\3\4")),
    ],
)
def test_kinds(kind: int, code: int, expected: Message) -> None:
    head = bytes([kind, code])
    summed = checksum(head + b"\0\0\1\2\3\4").to_bytes(2, "big")
    assert icmp.decode(head + summed + b"\1\2\3\4") == expected


@pytest.mark.parametrize("length", [0, 7])
def test_too_short(length: int) -> None:
    with pytest.raises(WireError, match=f"message of {length} bytes"):
        icmp.decode(icmp.encode(EchoRequest(1, 2))[:length])


def test_zeros_are_no_reply() -> None:
    with pytest.raises(WireError, match="checksum"):
        icmp.decode(bytes(8))
    assert icmp.encode(EchoReply(0, 0)) == b"\0\0\xff\xff\0\0\0\0"


def test_a_message_has_a_whole_header() -> None:
    with pytest.raises(AssertionError):
        icmp.encode(Other(13, 0, b"123"))


def test_reply() -> None:
    assert EchoRequest(1, 2, b"data").reply() == EchoReply(1, 2, b"data")


@pytest.mark.parametrize(("length", "quoted"), [(0, 20), (528, 548), (529, 548), (1480, 548)])
def test_an_error_fits_576_bytes(length: int, quoted: int) -> None:
    original = ipv4.encode(Packet(CLIENT, SERVER, Protocol.UDP, bytes(length)))
    error = icmp.unreachable(Unreachable.PORT, memoryview(original))
    assert error == DestinationUnreachable(3, original[:quoted])
    packet = ipv4.encode(Packet(SERVER, CLIENT, Protocol.ICMP, icmp.encode(error)))
    assert len(packet) == 20 + 8 + quoted <= 576


def test_fragmentation_needed_tells_the_mtu() -> None:
    error = icmp.unreachable(Unreachable.FRAGMENTATION_NEEDED, b"packet", mtu=1400)
    assert icmp.encode(error)[6:] == (1400).to_bytes(2, "big") + b"packet"


@given(echoes | replies)
def test_echo_agrees_with_scapy(echo: EchoRequest | EchoReply) -> None:
    kind = 8 if isinstance(echo, EchoRequest) else 0
    theirs = ICMP(type=kind, id=echo.identifier, seq=echo.sequence) / echo.data
    assert bytes(theirs) == icmp.encode(echo)
    assert icmp.decode(bytes(theirs)) == echo
    parsed = ICMP(icmp.encode(echo))
    assert (parsed.type, parsed.code) == (kind, 0)
    assert (parsed.id, parsed.seq) == (echo.identifier, echo.sequence)
    assert bytes(parsed.payload) == echo.data


@pytest.mark.parametrize("code", [Unreachable.PORT, Unreachable.FRAGMENTATION_NEEDED])
def test_unreachable_agrees_with_scapy(code: Unreachable) -> None:
    original = ipv4.encode(Packet(CLIENT, SERVER, 254, b"original"))
    error = icmp.unreachable(code, original, mtu=1400 if code == 4 else 0)
    parsed = ICMP(icmp.encode(error))
    assert (parsed.type, parsed.code) == (3, code)
    assert bytes(parsed.payload) == original
    assert code != Unreachable.FRAGMENTATION_NEEDED or parsed.nexthopmtu == 1400
    assert icmp.decode(bytes(parsed)) == error
