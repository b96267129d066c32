from contextlib import suppress
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

from jitsu.errors import WireError
from jitsu.wire import icmpv6, ipv6
from jitsu.wire.checksum import checksum, pseudo_header
from jitsu.wire.icmp import EchoReply, EchoRequest
from jitsu.wire.icmpv6 import DestinationUnreachable, Message, Other, Unreachable
from jitsu.wire.ipv6 import Packet, Protocol
from wire.strategies import CLIENT6, SERVER6, addresses6, bytes8, damaged, payloads, words16

Addresses = tuple[IPv6Address, IPv6Address]
ENDS = (CLIENT6, SERVER6)
ends = st.tuples(addresses6, addresses6)
echoes = st.builds(EchoRequest, words16, words16, payloads)
replies = st.builds(EchoReply, words16, words16, payloads)
unreachables = st.builds(DestinationUnreachable, bytes8, payloads)
others = st.builds(Other, bytes8, bytes8, st.binary(min_size=4, max_size=60)).filter(
    lambda other: other.type != 1 and (other.type not in (128, 129) or other.code != 0)
)
messages = echoes | replies | unreachables | others


def encoded(message: Message) -> bytes:
    return icmpv6.encode(message, *ENDS)


@given(messages, ends)
def test_round_trip(message: Message, ends: Addresses) -> None:
    data = icmpv6.encode(message, *ends)
    assert icmpv6.decode(data, *ends) == icmpv6.decode(memoryview(data), *ends) == message


@given(st.binary(max_size=40) | damaged(messages.map(encoded)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        message = icmpv6.decode(data, *ENDS)
        assert icmpv6.decode(encoded(message), *ENDS) == message


@given(others.map(encoded), st.data())
def test_the_checksum_covers_all(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="checksum"):
        icmpv6.decode(bytes(broken), *ENDS)


def test_the_checksum_covers_the_addresses() -> None:
    with pytest.raises(WireError, match="checksum"):
        icmpv6.decode(encoded(EchoRequest(1, 2)), CLIENT6, SERVER6 + 1)


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (129, 0, EchoReply(0x0102, 0x0304, b"")),
        (129, 1, Other(129, 1, b"\1\2\3\4")),
        (128, 0, EchoRequest(0x0102, 0x0304, b"")),
        (128, 255, Other(128, 255, b"\1\2\3\4")),
        (1, 0, DestinationUnreachable(Unreachable.NO_ROUTE, b"")),
        (1, 255, DestinationUnreachable(255, b"")),
        (135, 0, Other(135, 0, b"\1\2\3\4")),
        (0, 0, Other(0, 0, b"\1\2\3\4")),
        (8, 0, Other(8, 0, b"\1\2\3\4")),
    ],
)
def test_kinds(kind: int, code: int, expected: Message) -> None:
    head, body = bytes([kind, code]), b"\1\2\3\4"
    summed = checksum(head + b"\0\0" + body, pseudo_header(*ENDS, Protocol.ICMPV6, 8))
    assert icmpv6.decode(head + summed.to_bytes(2) + body, *ENDS) == expected


@pytest.mark.parametrize("length", [0, 7])
def test_too_short(length: int) -> None:
    with pytest.raises(WireError, match=f"message of {length} bytes"):
        icmpv6.decode(encoded(EchoRequest(1, 2))[:length], *ENDS)


def test_a_message_has_a_whole_header() -> None:
    with pytest.raises(AssertionError):
        encoded(Other(131, 0, b"123"))


@pytest.mark.parametrize(("length", "quoted"), [(0, 40), (1192, 1232), (1193, 1232), (1400, 1232)])
def test_an_error_fits_every_link(length: int, quoted: int) -> None:
    original = ipv6.encode(Packet(CLIENT6, SERVER6, Protocol.UDP, bytes(length)))
    error = icmpv6.unreachable(Unreachable.PORT, memoryview(original))
    assert error == DestinationUnreachable(4, original[:quoted])
    packet = Packet(SERVER6, CLIENT6, Protocol.ICMPV6, icmpv6.encode(error, SERVER6, CLIENT6))
    assert len(ipv6.encode(packet)) == 40 + 8 + quoted <= 1280


@given(echoes | replies, ends)
def test_echo_agrees_with_scapy(echo: EchoRequest | EchoReply, ends: Addresses) -> None:
    source, destination = ends
    layer = ICMPv6EchoRequest if isinstance(echo, EchoRequest) else ICMPv6EchoReply
    theirs = IPv6(src=str(source), dst=str(destination)) / layer(
        id=echo.identifier, seq=echo.sequence, data=echo.data
    )
    payload = icmpv6.encode(echo, source, destination)
    assert ipv6.encode(Packet(source, destination, Protocol.ICMPV6, payload)) == bytes(theirs)
    assert icmpv6.decode(bytes(theirs)[40:], source, destination) == echo
    parsed = layer(payload)
    assert (parsed.id, parsed.seq, parsed.data) == (echo.identifier, echo.sequence, echo.data)


@pytest.mark.parametrize("code", Unreachable)
def test_unreachable_agrees_with_scapy(code: Unreachable) -> None:
    original = ipv6.encode(Packet(CLIENT6, SERVER6, 254, b"original"))
    payload = icmpv6.encode(icmpv6.unreachable(code, original), SERVER6, CLIENT6)
    theirs = IPv6(src=str(SERVER6), dst=str(CLIENT6)) / ICMPv6DestUnreach(code=code) / original
    assert bytes(theirs)[40:] == payload
    parsed = ICMPv6DestUnreach(payload)
    assert (parsed.type, parsed.code) == (1, code)
    assert bytes(parsed.payload) == original
