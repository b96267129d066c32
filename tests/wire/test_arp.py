from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import arp
from jitsu.wire.arp import Arp, Operation
from wire.strategies import (
    CLIENT,
    CLIENT_MAC,
    SERVER,
    SERVER_MAC,
    addresses,
    damaged,
    macs,
)

packets = st.builds(Arp, st.sampled_from(Operation), macs, addresses, macs, addresses)
QUESTION = Arp(Operation.REQUEST, CLIENT_MAC, CLIENT, Mac(bytes(6)), SERVER)


@given(packets, st.binary(max_size=18))
def test_round_trip_with_padding(packet: Arp, padding: bytes) -> None:
    data = arp.encode(packet)
    assert len(data) == 28
    assert arp.decode(data) == arp.decode(memoryview(data + padding)) == packet


@given(st.binary(max_size=40) | damaged(packets.map(arp.encode)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        assert arp.encode(arp.decode(data)) == data[:28]


@pytest.mark.parametrize(
    ("at", "value"),
    [(1, 6), (0, 1), (2, 0x86), (3, 1), (4, 8), (5, 16), (7, 0), (7, 3), (7, 8), (6, 1)],
)
def test_foreign_formats_and_operations(at: int, value: int) -> None:
    data = bytearray(arp.encode(QUESTION))
    data[at] = value
    with pytest.raises(WireError):
        arp.decode(bytes(data))


@pytest.mark.parametrize("length", [0, 27])
def test_too_short(length: int) -> None:
    with pytest.raises(WireError, match=f"packet of {length} bytes"):
        arp.decode(arp.encode(QUESTION)[:length])


def test_reply() -> None:
    expected = Arp(Operation.REPLY, SERVER_MAC, SERVER, CLIENT_MAC, CLIENT)
    assert arp.reply_to(QUESTION, SERVER_MAC) == expected
    with pytest.raises(AssertionError):
        arp.reply_to(expected, CLIENT_MAC)


def test_announcement() -> None:
    announced = arp.announcement(SERVER_MAC, SERVER)
    assert announced == Arp(Operation.REQUEST, SERVER_MAC, SERVER, Mac(bytes(6)), SERVER)


@pytest.mark.parametrize("mac", [b"", b"12345", b"1234567"])
def test_a_mac_has_six_bytes(mac: bytes) -> None:
    with pytest.raises(AssertionError):
        arp.encode(arp.announcement(Mac(mac), SERVER))
    with pytest.raises(AssertionError):
        arp.encode(
            arp.reply_to(Arp(Operation.REQUEST, Mac(mac), CLIENT, Mac(mac), SERVER), SERVER_MAC)
        )


@given(packets)
def test_agrees_with_scapy(packet: Arp) -> None:
    theirs = ARP(
        op=int(packet.operation),
        hwsrc=packet.sender_mac.hex(":"),
        psrc=str(packet.sender_ip),
        hwdst=packet.target_mac.hex(":"),
        pdst=str(packet.target_ip),
    )
    assert arp.decode(bytes(theirs)) == packet
    parsed = ARP(arp.encode(packet))
    assert (parsed.hwtype, parsed.ptype, parsed.hwlen, parsed.plen) == (1, 0x0800, 6, 4)
    assert parsed.op == packet.operation
    assert (parsed.hwsrc, parsed.hwdst) == (packet.sender_mac.hex(":"), packet.target_mac.hex(":"))
    assert (IPv4Address(parsed.psrc), IPv4Address(parsed.pdst)) == (
        packet.sender_ip,
        packet.target_ip,
    )
