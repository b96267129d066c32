from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import ethernet
from jitsu.wire.ethernet import BROADCAST, EtherType, Frame
from wire.strategies import CLIENT_MAC, SERVER_MAC, damaged, macs, payloads, words16

frames = st.builds(Frame, macs, macs, words16, payloads)


@given(frames)
def test_round_trip(frame: Frame) -> None:
    data = ethernet.encode(frame)
    assert ethernet.decode(data) == ethernet.decode(memoryview(data)) == frame


@given(st.binary(max_size=40) | damaged(frames.map(ethernet.encode)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        assert ethernet.encode(ethernet.decode(data)) == data


@pytest.mark.parametrize("length", [0, 1, 13])
def test_too_short(length: int) -> None:
    with pytest.raises(WireError, match=f"frame of {length} bytes"):
        ethernet.decode(bytes(length))


def test_header_alone() -> None:
    empty = Frame(Mac(bytes(6)), Mac(bytes(6)), 0, b"")
    assert ethernet.decode(bytes(14)) == empty


@pytest.mark.parametrize(
    ("ethertype", "number"),
    [
        (EtherType.ARP, 0x0806),
        (EtherType.IPV4, 0x0800),
        (EtherType.IPV6, 0x86DD),
        (EtherType.STORE_LINK, 0x88B5),
    ],
)
def test_ethertypes(ethertype: EtherType, number: int) -> None:
    data = ethernet.encode(Frame(BROADCAST, CLIENT_MAC, ethertype, b"x"))
    assert data == b"\xff" * 6 + CLIENT_MAC + number.to_bytes(2, "big") + b"x"
    assert ethernet.decode(data).ethertype == ethertype


@pytest.mark.parametrize("mac", [b"", b"12345", b"1234567"])
def test_a_mac_has_six_bytes(mac: bytes) -> None:
    with pytest.raises(AssertionError):
        ethernet.encode(Frame(Mac(mac), SERVER_MAC, 0, b""))
    with pytest.raises(AssertionError):
        ethernet.encode(Frame(SERVER_MAC, Mac(mac), 0, b""))


@given(macs, macs, payloads)
def test_agrees_with_scapy(destination: Mac, source: Mac, payload: bytes) -> None:
    frame = Frame(destination, source, EtherType.STORE_LINK, payload)
    theirs = Ether(dst=destination.hex(":"), src=source.hex(":"), type=0x88B5) / payload
    assert bytes(theirs) == ethernet.encode(frame)
    assert ethernet.decode(bytes(theirs)) == frame
    parsed = Ether(ethernet.encode(frame))
    assert (parsed.dst, parsed.src, parsed.type) == (
        destination.hex(":"),
        source.hex(":"),
        0x88B5,
    )
    assert bytes(parsed.payload) == payload
