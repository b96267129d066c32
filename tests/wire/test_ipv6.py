from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import NoPayload

from jitsu.errors import WireError
from jitsu.model import Mac, mac_of
from jitsu.wire import ipv6
from jitsu.wire.ipv6 import EXTENSIONS_MAX, Extension, Packet, Protocol
from wire.strategies import CLIENT6, SERVER6, addresses6, bytes8, damaged, payloads

EXTENSIONS = {0, 43, 44, 60}
WHOLE_FRAGMENT = Extension(Protocol.FRAGMENT, bytes(6))
FIRST_FRAGMENT = Extension(Protocol.FRAGMENT, b"\0\1\0\0\0\7")
LATER_FRAGMENT = Extension(Protocol.FRAGMENT, b"\0\x08\0\0\0\7")
contents = st.integers(0, 3).flatmap(lambda n: st.binary(min_size=n * 8 + 6, max_size=n * 8 + 6))
options = st.builds(Extension, st.just(Protocol.DESTINATION_OPTIONS), contents)
routings = st.builds(
    Extension, st.just(Protocol.ROUTING), contents.map(lambda c: c[:1] + b"\0" + c[2:])
)
fragments = st.builds(
    Extension, st.just(Protocol.FRAGMENT), st.binary(min_size=6, max_size=6)
).filter(lambda extension: extension.is_fragment)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Extension, ...]:
    first = draw(st.lists(st.builds(Extension, st.just(Protocol.HOP_BY_HOP), contents), max_size=1))
    middle = draw(st.lists(options | routings | st.just(WHOLE_FRAGMENT), max_size=6))
    return (*first, *middle, *draw(st.lists(fragments, max_size=1)))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    extensions = draw(chains())
    fragment = bool(extensions) and extensions[-1].is_fragment
    return Packet(
        draw(addresses6),
        draw(addresses6),
        draw(bytes8 if fragment else bytes8.filter(lambda kind: kind not in EXTENSIONS)),
        draw(payloads),
        draw(bytes8),
        draw(bytes8),
        draw(st.integers(0, 0xFFFFF)),
        extensions,
    )


PLAIN = Packet(CLIENT6, SERVER6, Protocol.TCP, b"payload")


def patched(at: int, value: int, packet: Packet = PLAIN) -> bytes:
    data = bytearray(ipv6.encode(packet))
    data[at] = value
    return bytes(data)


@given(packets(), st.binary(max_size=26))
def test_round_trip_with_padding(packet: Packet, padding: bytes) -> None:
    data = ipv6.encode(packet)
    assert ipv6.decode(data) == ipv6.decode(memoryview(data + padding)) == packet


@given(st.binary(max_size=120) | damaged(packets().map(ipv6.encode)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        packet = ipv6.decode(data)
        assert ipv6.decode(ipv6.encode(packet)) == packet


@given(bytes8, st.binary(max_size=80))
def test_any_chain_of_headers_may_come(following: int, data: bytes) -> None:
    with suppress(WireError):
        extensions, protocol, payload = ipv6.split(following, data)
        assert sum(len(e.content) + 2 for e in extensions) + len(payload) == len(data)
        assert protocol not in EXTENSIONS or extensions[-1].is_fragment


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "packet of 0 bytes"),
        (ipv6.encode(PLAIN)[:39], "packet of 39 bytes"),
        (ipv6.encode(PLAIN)[:-1], "payload of 7, received 6"),
        (patched(0, 0x40), "version 4"),
        (patched(4, 1), "payload of 263, received 7"),
        (patched(5, 8), "payload of 8, received 7"),
        (patched(6, Protocol.HOP_BY_HOP), "extension header 0 in 7 bytes"),
        (patched(6, Protocol.FRAGMENT), "extension header 44 in 7 bytes"),
        (patched(41, 1, replace(PLAIN, extensions=(Extension(60, bytes(6)),))), "60 in 15 bytes"),
        (patched(43, 1, replace(PLAIN, extensions=(Extension(43, bytes(6)),))), "1 hops before it"),
        (patched(40, 0, replace(PLAIN, extensions=(Extension(0, bytes(6)),))), "7 bytes"),
    ],
)
def test_lengths_and_version(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        ipv6.decode(data)


def test_hop_by_hop_options_are_first() -> None:
    two = replace(PLAIN, extensions=(Extension(60, bytes(6)), Extension(60, bytes(6))))
    with pytest.raises(WireError, match="not first"):
        ipv6.decode(patched(40, Protocol.HOP_BY_HOP, two))


def test_there_may_be_so_many_extension_headers() -> None:
    most = replace(PLAIN, extensions=(Extension(60, bytes(6)),) * EXTENSIONS_MAX)
    assert ipv6.decode(ipv6.encode(most)) == most
    with pytest.raises(WireError, match="more than 8"):
        ipv6.split(60, bytes([60, 0, 0, 0, 0, 0, 0, 0]) * (EXTENSIONS_MAX + 1))


@pytest.mark.parametrize(
    ("extensions", "fragment"),
    [
        ((), False),
        ((WHOLE_FRAGMENT,), False),
        ((FIRST_FRAGMENT,), True),
        ((LATER_FRAGMENT,), True),
        ((Extension(0, bytes(6)), LATER_FRAGMENT), True),
        ((Extension(60, b"\0\1" + bytes(4)),), False),
        ((Extension(44, b"\0\6" + bytes(4)),), False),
    ],
)
def test_fragments(extensions: tuple[Extension, ...], fragment: bool) -> None:
    """An atomic one is none, and two bits of a fragment header mean nothing."""
    packet = ipv6.decode(ipv6.encode(replace(PLAIN, extensions=extensions)))
    assert packet.is_fragment is fragment


def test_nothing_is_walked_behind_a_fragment_header() -> None:
    """A later fragment has no headers there, but the middle of something."""
    later = replace(PLAIN, protocol=60, payload=b"\xff", extensions=(LATER_FRAGMENT,))
    assert ipv6.decode(ipv6.encode(later)) == later


def test_the_reserved_byte_of_a_fragment_header_is_no_length() -> None:
    whole = replace(PLAIN, extensions=(WHOLE_FRAGMENT,))
    assert ipv6.decode(patched(41, 9, whole)) == whole


def test_shortest_and_longest() -> None:
    assert ipv6.decode(patched(5, 0)).payload == b""
    longest = replace(PLAIN, payload=bytes(65535))
    assert ipv6.decode(ipv6.encode(longest)) == longest


@pytest.mark.parametrize(
    "packet",
    [
        replace(PLAIN, payload=bytes(65536)),
        replace(PLAIN, payload=bytes(65528), extensions=(WHOLE_FRAGMENT,)),
        replace(PLAIN, flow_label=0x100000),
        replace(PLAIN, protocol=Protocol.HOP_BY_HOP),
        replace(PLAIN, extensions=(Extension(51, bytes(6)),)),
        replace(PLAIN, extensions=(Extension(60, b""),)),
        replace(PLAIN, extensions=(Extension(60, bytes(8)),)),
        replace(PLAIN, extensions=(Extension(44, bytes(14)),)),
        replace(PLAIN, extensions=(Extension(60, bytes(6)), Extension(0, bytes(6)))),
        replace(PLAIN, extensions=(Extension(43, b"\0\1" + bytes(4)),)),
        replace(PLAIN, extensions=(Extension(60, bytes(6)),) * 9),
        replace(PLAIN, extensions=(FIRST_FRAGMENT, Extension(60, bytes(6)))),
    ],
)
def test_what_cannot_be_said(packet: Packet) -> None:
    with pytest.raises(AssertionError):
        ipv6.encode(packet)


@given(packets().map(lambda packet: replace(packet, extensions=(), protocol=254)))
def test_agrees_with_scapy(packet: Packet) -> None:
    theirs = (
        IPv6(
            src=str(packet.source),
            dst=str(packet.destination),
            nh=packet.protocol,
            hlim=packet.hop_limit,
            tc=packet.traffic_class,
            fl=packet.flow_label,
        )
        / packet.payload
    )
    data = ipv6.encode(packet)
    assert bytes(theirs) == data
    assert ipv6.decode(bytes(theirs)) == packet
    parsed = IPv6(data)
    assert (parsed.version, parsed.plen, parsed.nh) == (6, len(packet.payload), 254)
    assert IPv6Address(parsed.src) == packet.source
    assert IPv6Address(parsed.dst) == packet.destination
    assert (parsed.hlim, parsed.tc, parsed.fl) == (
        packet.hop_limit,
        packet.traffic_class,
        packet.flow_label,
    )
    assert bytes(parsed.payload) == packet.payload


def test_extension_headers_agree_with_scapy() -> None:
    segment = bytes(TCP(sport=1, dport=2))
    theirs = bytes(
        IPv6(src="fd77::2", dst="fd77::10")
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrRouting(segleft=0, addresses=["fd77::3"])
        / IPv6ExtHdrFragment(id=7)
        / IPv6ExtHdrDestOpt()
        / TCP(segment)
    )
    packet = ipv6.decode(theirs)
    assert [extension.kind for extension in packet.extensions] == [0, 60, 43, 44, 60]
    assert (packet.protocol, len(packet.payload)) == (Protocol.TCP, len(segment))
    assert ipv6.encode(packet) == theirs


@given(chains())
def test_scapy_walks_the_same_headers(extensions: tuple[Extension, ...]) -> None:
    whole = tuple(e for e in extensions if not e.is_fragment and e.kind != Protocol.ROUTING)
    layer: Any = IPv6(ipv6.encode(replace(PLAIN, protocol=254, extensions=whole)))
    kinds = []
    while layer.name.startswith("IPv6"):
        kinds.append(layer.nh)
        layer = layer.payload
        assert not isinstance(layer, NoPayload)
    assert kinds == [*(e.kind for e in whole), 254]
    assert bytes(layer) == PLAIN.payload


def test_where_a_group_is() -> None:
    assert ipv6.multicast_mac(ipv6.ALL_NODES) == bytes.fromhex("333300000001")
    assert ipv6.multicast_mac(IPv6Address("ff02::1:ff12:3456")) == bytes.fromhex("3333ff123456")


def test_link_local_addresses() -> None:
    """The example of RFC 4291 appendix A, and one of our own."""
    assert ipv6.link_local(Mac(bytes.fromhex("345678901234"))) == IPv6Address(
        "fe80::3656:78ff:fe90:1234"
    )
    assert ipv6.link_local(mac_of("www")).is_link_local
