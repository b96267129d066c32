"""Who answers a neighbour solicitation for one that sleeps, and how."""

from ipaddress import IPv6Address

import pytest

from jitsu.core.neighbours import answer
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv6, ndp
from jitsu.wire.ethernet import EtherType, Frame
from jitsu.wire.ipv6 import UNSPECIFIED, Packet, Protocol

CLIENT, SERVICE = IPv6Address("fd77::2"), IPv6Address("fd77::10")
CLIENT_MAC, MAC = Mac(b"\x06client"[:6]), Mac(b"\x02sleeps"[:6])
ALL_NODES = (Mac(bytes.fromhex("333300000001")), IPv6Address("ff02::1"))


def framed(packet: Packet, source: Mac = CLIENT_MAC) -> bytes:
    to = ipv6.multicast_mac(packet.destination) if packet.destination.is_multicast else MAC
    return ethernet.encode(Frame(to, source, EtherType.IPV6, ipv6.encode(packet)))


@pytest.mark.parametrize(
    "asked",
    [
        ndp.question(SERVICE, CLIENT, CLIENT_MAC),
        ndp.encode(ndp.Solicitation(SERVICE), CLIENT, SERVICE),
        ndp.encode(ndp.Solicitation(SERVICE, Mac(b"elsewh")), CLIENT, SERVICE),
    ],
    ids=["for its group", "for itself", "with somebody else's address"],
)
def test_the_asker_is_told(asked: Packet) -> None:
    """And nobody else: an option that names another station makes us send nothing there."""
    told = ndp.Advertisement(SERVICE, MAC, solicited=True, override=True)
    content = ipv6.encode(ndp.encode(told, SERVICE, CLIENT))
    assert answer(framed(asked), MAC) == ethernet.encode(
        Frame(CLIENT_MAC, MAC, EtherType.IPV6, content)
    )


def test_who_would_take_the_address_is_told_with_all() -> None:
    asked = ndp.question(SERVICE, UNSPECIFIED, CLIENT_MAC)
    told = ndp.Advertisement(SERVICE, MAC, override=True)
    content = ipv6.encode(ndp.encode(told, SERVICE, ALL_NODES[1]))
    assert answer(framed(asked), MAC) == ethernet.encode(
        Frame(ALL_NODES[0], MAC, EtherType.IPV6, content)
    )


@pytest.mark.parametrize(
    "frame",
    [
        framed(ndp.announcement(CLIENT_MAC, CLIENT)),
        framed(Packet(CLIENT, SERVICE, Protocol.UDP, bytes(8))),
        framed(ndp.question(SERVICE, CLIENT, CLIENT_MAC))[:-1],
        b"",
    ],
    ids=["an advertisement", "a datagram", "cut short", "nothing"],
)
def test_silence(frame: bytes) -> None:
    assert answer(frame, MAC) is None
