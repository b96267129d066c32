from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import icmpv6, ipv6, ndp
from jitsu.wire.icmp import EchoRequest
from jitsu.wire.ipv6 import ALL_NODES, UNSPECIFIED, Extension, Packet, Protocol
from jitsu.wire.ndp import Advertisement, Message, Solicitation
from wire.strategies import CLIENT6, CLIENT_MAC, SERVER6, SERVER_MAC, addresses6, damaged, macs

unicast = addresses6.filter(lambda a: not a.is_multicast and not a.is_unspecified)
solicitations = st.builds(Solicitation, unicast, st.none() | macs)
advertisements = st.builds(
    Advertisement, unicast, st.none() | macs, st.booleans(), st.booleans(), st.booleans()
)
messages = solicitations | advertisements
GROUP = ndp.solicited_node(SERVER6)
QUESTION = ndp.question(SERVER6, CLIENT6, CLIENT_MAC)
PROBE = ndp.question(SERVER6, UNSPECIFIED, CLIENT_MAC)
ANSWER = ndp.answer(Solicitation(SERVER6), CLIENT6, SERVER_MAC)


@given(messages, unicast, unicast)
def test_round_trip(message: Message, source: IPv6Address, destination: IPv6Address) -> None:
    packet = ndp.encode(message, source, destination)
    assert ndp.decode(packet) == ndp.decode(ipv6.decode(ipv6.encode(packet))) == message


@given(
    damaged(st.sampled_from([QUESTION, PROBE, ANSWER]).map(lambda packet: packet.payload)),
    st.sampled_from([CLIENT6, UNSPECIFIED]),
    st.sampled_from([SERVER6, GROUP]),
)
def test_any_bytes_decode_or_raise_wire_error(
    data: bytes, source: IPv6Address, destination: IPv6Address
) -> None:
    """Their checksum is made right, so that more is seen than that it is wrong."""
    unsummed = icmpv6.Other(data[0] if data else 0, 0, data[4:].ljust(4, b"\0"))
    payload = icmpv6.encode(unsummed, source, destination)
    packet = Packet(source, destination, Protocol.ICMPV6, payload, hop_limit=255)
    with suppress(WireError):
        message = ndp.decode(packet)
        assert ndp.decode(ndp.encode(message, source, destination)) == message


def test_a_question() -> None:
    assert str(GROUP) == "ff02::1:ff00:10"
    assert (QUESTION.source, QUESTION.destination, QUESTION.hop_limit) == (CLIENT6, GROUP, 255)
    assert ndp.decode(QUESTION) == Solicitation(SERVER6, CLIENT_MAC)


def test_a_question_whether_an_address_is_free() -> None:
    assert (PROBE.source, PROBE.destination) == (UNSPECIFIED, GROUP)
    assert ndp.decode(PROBE) == Solicitation(SERVER6)


def test_an_answer() -> None:
    assert (ANSWER.source, ANSWER.destination, ANSWER.hop_limit) == (SERVER6, CLIENT6, 255)
    assert ndp.decode(ANSWER) == Advertisement(SERVER6, SERVER_MAC, solicited=True, override=True)


def test_who_has_no_address_is_told_with_all() -> None:
    told = ndp.answer(Solicitation(SERVER6), UNSPECIFIED, SERVER_MAC)
    assert (told.source, told.destination) == (SERVER6, ALL_NODES)
    assert ndp.decode(told) == Advertisement(SERVER6, SERVER_MAC, override=True)


def test_an_announcement() -> None:
    told = ndp.announcement(SERVER_MAC, SERVER6)
    assert (told.source, told.destination) == (SERVER6, ALL_NODES)
    assert ndp.decode(told) == Advertisement(SERVER6, SERVER_MAC, override=True)


def test_a_mac_has_six_bytes() -> None:
    with pytest.raises(AssertionError):
        ndp.announcement(Mac(b"12345"), SERVER6)


def message(
    kind: int,
    rest: bytes,
    source: IPv6Address = CLIENT6,
    destination: IPv6Address = SERVER6,
    code: int = 0,
) -> Packet:
    payload = icmpv6.encode(icmpv6.Other(kind, code, rest), source, destination)
    return Packet(source, destination, Protocol.ICMPV6, payload, hop_limit=255)


PLAIN = bytes(4) + SERVER6.packed
CLIENTS_MAC = bytes([1, 1]) + CLIENT_MAC


@pytest.mark.parametrize(
    ("rest", "mac"),
    [
        (b"", None),
        (bytes([2, 1]) + SERVER_MAC, None),
        (CLIENTS_MAC, CLIENT_MAC),
        (bytes([14, 1]) + b"nonce!" + CLIENTS_MAC, CLIENT_MAC),
        (bytes([14, 2]) + bytes(14) + CLIENTS_MAC, CLIENT_MAC),
        (bytes([1, 1]) + SERVER_MAC + CLIENTS_MAC, CLIENT_MAC),
    ],
)
def test_options(rest: bytes, mac: Mac | None) -> None:
    assert ndp.decode(message(135, PLAIN + rest)) == Solicitation(SERVER6, mac)


def test_the_reserved_bits_mean_nothing() -> None:
    assert ndp.decode(message(135, b"\xff" * 4 + SERVER6.packed)) == Solicitation(SERVER6)
    told = ndp.decode(message(136, b"\x1f" + b"\xff" * 3 + SERVER6.packed))
    assert told == Advertisement(SERVER6)


@pytest.mark.parametrize("kind", [135, 136])
@pytest.mark.parametrize(
    ("rest", "changes", "said"),
    [
        (PLAIN[:-1], {}, "discovery of 19 bytes"),
        (PLAIN + b"\1", {}, "option of 0 bytes, received 1"),
        (PLAIN + bytes([14, 0]) + bytes(6), {}, "option of 0 bytes"),
        (PLAIN + bytes([14, 2]) + bytes(6), {}, "option of 16 bytes, received 8"),
        (PLAIN + bytes([1, 2]) + bytes(14), {}, "link-layer address of 14 bytes"),
        (bytes(4) + ALL_NODES.packed, {}, "of a group: ff02::1"),
        (PLAIN, {"code": 1}, "no neighbour discovery"),
        (PLAIN, {"source": ALL_NODES}, "from a group: ff02::1"),
    ],
)
def test_what_must_not_be_believed(
    kind: int, rest: bytes, changes: dict[str, IPv6Address], said: str
) -> None:
    with pytest.raises(WireError, match=said):
        ndp.decode(message(kind, rest, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (replace(QUESTION, hop_limit=254), "hop limit 254"),
        (replace(QUESTION, protocol=Protocol.UDP), "protocol 17"),
        (replace(QUESTION, destination=SERVER6), "checksum"),
        (replace(QUESTION, extensions=(Extension(44, bytes(6)),)), "in fragments"),
        (message(134, PLAIN), "type 134"),
        (message(135, PLAIN, source=UNSPECIFIED), "is for one alone"),
        (message(135, PLAIN + CLIENTS_MAC, UNSPECIFIED, GROUP), "says where it is"),
        (message(136, b"\x40" + PLAIN[1:], destination=ALL_NODES), "told to many"),
        (
            Packet(
                CLIENT6,
                SERVER6,
                Protocol.ICMPV6,
                icmpv6.encode(EchoRequest(1, 2), CLIENT6, SERVER6),
                255,
            ),
            "no neighbour discovery",
        ),
    ],
)
def test_what_is_no_neighbours(packet: Packet, said: str) -> None:
    with pytest.raises(WireError, match=said):
        ndp.decode(packet)


@pytest.mark.parametrize("destination", [SERVER6, GROUP])
def test_a_question_may_be_for_one_or_for_the_group(destination: IPv6Address) -> None:
    packet = message(135, PLAIN + CLIENTS_MAC, destination=destination)
    assert ndp.decode(packet) == Solicitation(SERVER6, CLIENT_MAC)


@given(solicitations, unicast, unicast)
def test_questions_agree_with_scapy(
    asked: Solicitation, source: IPv6Address, destination: IPv6Address
) -> None:
    option = ICMPv6NDOptSrcLLAddr(lladdr=asked.source_mac.hex(":")) if asked.source_mac else b""
    theirs = (
        IPv6(src=str(source), dst=str(destination), hlim=255)
        / ICMPv6ND_NS(tgt=str(asked.target))
        / option
    )
    assert bytes(theirs) == ipv6.encode(ndp.encode(asked, source, destination))
    assert ndp.decode(ipv6.decode(bytes(theirs))) == asked


@given(advertisements, unicast, unicast)
def test_answers_agree_with_scapy(
    told: Advertisement, source: IPv6Address, destination: IPv6Address
) -> None:
    option = ICMPv6NDOptDstLLAddr(lladdr=told.target_mac.hex(":")) if told.target_mac else b""
    layer = ICMPv6ND_NA(tgt=str(told.target), R=told.router, S=told.solicited, O=told.override)
    theirs = IPv6(src=str(source), dst=str(destination), hlim=255) / layer / option
    assert bytes(theirs) == ipv6.encode(ndp.encode(told, source, destination))
    assert ndp.decode(ipv6.decode(bytes(theirs))) == told
