from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from jitsu.errors import WireError
from jitsu.wire import udp
from jitsu.wire.checksum import checksum, pseudo_header
from jitsu.wire.udp import Datagram
from wire.strategies import (
    CLIENT,
    CLIENT6,
    SERVER,
    SERVER6,
    damaged,
    either_addresses,
    payloads,
    words16,
)

Addresses = tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]
datagrams = st.builds(Datagram, words16, words16, payloads)
QUERY = Datagram(40000, 53, b"query")


@given(datagrams, either_addresses, st.binary(max_size=8))
def test_round_trip_with_padding(datagram: Datagram, addresses: Addresses, padding: bytes) -> None:
    data = udp.encode(datagram, *addresses)
    assert udp.decode(data, *addresses) == datagram
    assert udp.decode(memoryview(data + padding), *addresses) == datagram


@given(
    st.binary(max_size=40) | damaged(datagrams.map(lambda d: udp.encode(d, CLIENT, SERVER))),
    st.booleans(),
)
def test_any_bytes_decode_or_raise_wire_error(data: bytes, verify: bool) -> None:
    with suppress(WireError):
        datagram = udp.decode(data, CLIENT, SERVER, verify=verify)
        assert udp.decode(udp.encode(datagram, CLIENT, SERVER), CLIENT, SERVER) == datagram


@pytest.mark.parametrize("at", range(13))
def test_the_checksum_covers_all(at: int) -> None:
    data = bytearray(udp.encode(QUERY, CLIENT, SERVER))
    data[at] ^= 0x01
    with pytest.raises(WireError):
        udp.decode(bytes(data), CLIENT, SERVER)


def test_the_checksum_covers_the_addresses() -> None:
    data = udp.encode(QUERY, CLIENT, SERVER)
    with pytest.raises(WireError, match="checksum"):
        udp.decode(data, CLIENT, SERVER + 1)
    assert udp.decode(data, CLIENT, SERVER + 1, verify=False) == QUERY


def test_no_checksum_is_for_ipv4_only() -> None:
    data = udp.encode(QUERY, CLIENT, SERVER)
    data = data[:6] + bytes(2) + data[8:]
    assert udp.decode(data, CLIENT, SERVER) == QUERY
    with pytest.raises(WireError, match="checksum"):
        udp.decode(data, CLIENT6, SERVER6)
    assert udp.decode(data, CLIENT6, SERVER6, verify=False) == QUERY


def test_a_checksum_of_zero_is_sent_as_the_other_zero() -> None:
    head = bytes(4) + b"\0\x0a"
    rest = checksum(head + bytes(4), pseudo_header(CLIENT, SERVER, 17, 10)).to_bytes(2, "big")
    data = udp.encode(Datagram(0, 0, rest), CLIENT, SERVER)
    assert data == head + b"\xff\xff" + rest
    assert udp.decode(data, CLIENT, SERVER) == Datagram(0, 0, rest)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "datagram of 0 bytes"),
        (bytes(7), "datagram of 7 bytes"),
        (bytes(8), "length 0, received 8"),
        (b"\0\0\0\0\0\7\0\0", "length 7, received 8"),
        (b"\0\0\0\0\0\x09\0\0", "length 9, received 8"),
    ],
)
def test_lengths(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        udp.decode(data, CLIENT, SERVER)


def test_shortest_and_longest() -> None:
    assert udp.decode(b"\0\1\0\2\0\x08\0\0", CLIENT, SERVER) == Datagram(1, 2, b"")
    longest = Datagram(1, 2, bytes(65527))
    assert udp.decode(udp.encode(longest, CLIENT, SERVER), CLIENT, SERVER) == longest
    with pytest.raises(AssertionError):
        udp.encode(Datagram(1, 2, bytes(65528)), CLIENT, SERVER)


@given(datagrams, either_addresses)
def test_agrees_with_scapy(datagram: Datagram, addresses: Addresses) -> None:
    source, destination = addresses
    layer = IP if source.version == 4 else IPv6
    packet = layer(src=str(source), dst=str(destination)) / UDP(
        sport=datagram.source_port, dport=datagram.destination_port
    )
    theirs = bytes(packet / datagram.payload)[20 if source.version == 4 else 40 :]
    data = udp.encode(datagram, *addresses)
    assert udp.decode(theirs, *addresses) == datagram
    assert theirs == data
    parsed = UDP(data)
    assert (parsed.sport, parsed.dport) == (datagram.source_port, datagram.destination_port)
    assert parsed.len == len(data)
    assert bytes(parsed.payload) == datagram.payload
