from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP

from jitsu.errors import WireError
from jitsu.wire import ipv4
from jitsu.wire.checksum import checksum
from jitsu.wire.ipv4 import Packet, Protocol
from wire.strategies import CLIENT, SERVER, addresses, bytes8, damaged, payloads, words16

packets = st.builds(
    Packet,
    source=addresses,
    destination=addresses,
    protocol=bytes8,
    payload=payloads,
    ttl=bytes8,
    identification=words16,
    dont_fragment=st.booleans(),
    more_fragments=st.booleans(),
    fragment_offset=st.integers(0, 0x1FFF).map(lambda words: words * 8),
    traffic_class=bytes8,
    options=st.integers(0, 10).flatmap(lambda n: st.binary(min_size=n * 4, max_size=n * 4)),
)
PLAIN = Packet(CLIENT, SERVER, Protocol.TCP, b"payload")


def patched(at: int, value: int) -> bytes:
    """Overwrite a byte of the header of PLAIN and mend the checksum."""
    data = bytearray(ipv4.encode(PLAIN))
    data[at] = value
    data[10:12] = bytes(2)
    data[10:12] = checksum(data[: (data[0] & 15) * 4]).to_bytes(2, "big")
    return bytes(data)


@given(packets, st.binary(max_size=26))
def test_round_trip_with_padding(packet: Packet, padding: bytes) -> None:
    data = ipv4.encode(packet)
    assert ipv4.decode(data) == ipv4.decode(memoryview(data + padding)) == packet


@given(st.binary(max_size=80) | damaged(packets.map(ipv4.encode)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        packet = ipv4.decode(data)
        assert ipv4.decode(ipv4.encode(packet)) == packet


@pytest.mark.parametrize("at", range(20))
def test_the_checksum_covers_the_header(at: int) -> None:
    data = bytearray(ipv4.encode(PLAIN))
    data[at] ^= 0x01
    with pytest.raises(WireError):
        ipv4.decode(bytes(data))


def test_the_checksum_covers_options_but_no_payload() -> None:
    data = bytearray(ipv4.encode(replace(PLAIN, options=bytes(40))))
    data[-1] ^= 0xFF
    assert ipv4.decode(bytes(data)).payload != PLAIN.payload
    data[59] ^= 0xFF
    with pytest.raises(WireError, match="checksum"):
        ipv4.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "packet of 0 bytes"),
        (ipv4.encode(PLAIN)[:19], "packet of 19 bytes"),
        (ipv4.encode(PLAIN)[:20], "received 20"),
        (ipv4.encode(PLAIN)[:-1], "total 27, received 26"),
        (patched(0, 0x65), "version 6"),
        (patched(0, 0x44), "header 16"),
        (patched(0, 0x40), "header 0"),
        (patched(0, 0x47), "header 28, total 27"),
        (patched(3, 28), "total 28, received 27"),
        (patched(3, 19), "total 19"),
        (patched(3, 0), "total 0"),
    ],
)
def test_lengths_and_version(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        ipv4.decode(data)


def test_shortest_and_longest() -> None:
    assert ipv4.decode(patched(3, 20)).payload == b""
    longest = replace(PLAIN, payload=bytes(65535 - 20))
    assert ipv4.decode(ipv4.encode(longest)) == longest


@pytest.mark.parametrize(
    ("value", "fragment"), [(0x00, False), (0x40, False), (0x80, False), (0x20, True), (0x10, True)]
)
def test_fragments(value: int, fragment: bool) -> None:
    """The reserved flag, 0x80, changes nothing."""
    packet = ipv4.decode(patched(6, value))
    assert packet.is_fragment is fragment
    assert packet.dont_fragment is (value == 0x40)
    assert packet.fragment_offset == (0x1000 * 8 if value == 0x10 else 0)


@pytest.mark.parametrize(
    "packet",
    [
        replace(PLAIN, options=b"123"),
        replace(PLAIN, options=bytes(44)),
        replace(PLAIN, payload=bytes(65535 - 19)),
        replace(PLAIN, fragment_offset=4),
        replace(PLAIN, fragment_offset=65536),
    ],
)
def test_what_cannot_be_said(packet: Packet) -> None:
    with pytest.raises(AssertionError):
        ipv4.encode(packet)


@given(packets.map(lambda packet: replace(packet, options=b"", protocol=254)))
def test_agrees_with_scapy(packet: Packet) -> None:
    flags = 2 * packet.dont_fragment + packet.more_fragments
    theirs = (
        IP(
            src=str(packet.source),
            dst=str(packet.destination),
            proto=packet.protocol,
            ttl=packet.ttl,
            id=packet.identification,
            flags=flags,
            frag=packet.fragment_offset // 8,
            tos=packet.traffic_class,
        )
        / packet.payload
    )
    data = ipv4.encode(packet)
    assert bytes(theirs) == data
    assert ipv4.decode(bytes(theirs)) == packet
    parsed = IP(data)
    assert (parsed.version, parsed.ihl, parsed.len) == (4, 5, len(data))
    assert (parsed.src, parsed.dst) == (str(packet.source), str(packet.destination))
    assert (parsed.proto, parsed.ttl, parsed.id) == (254, packet.ttl, packet.identification)
    assert (int(parsed.flags), parsed.frag) == (flags, packet.fragment_offset // 8)
    assert parsed.tos == packet.traffic_class
    assert bytes(parsed.payload) == packet.payload


def test_options_agree_with_scapy() -> None:
    router_alert = bytes.fromhex("94040000")
    parsed = IP(ipv4.encode(replace(PLAIN, options=router_alert, protocol=254)))
    assert parsed.ihl == 6
    assert [bytes(option) for option in parsed.options] == [router_alert]
    assert ipv4.decode(bytes(parsed)).options == router_alert
