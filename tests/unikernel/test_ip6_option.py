"""What ip6= says, and what the guest says of it first."""

import ctypes
from collections.abc import Callable
from ipaddress import AddressValueError, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unikernel.guest import BOTH, CMDLINE, SECOND, Guest
from unikernel.ndp import (
    OVERRIDE,
    assert_advertises,
    solicitation,
)
from unikernel.packets import (
    ALL_NODES,
    GUEST_IP6,
    GUEST_MAC,
    IPV6,
    NOBODY,
    OURS,
    PEER_IP,
    PEER_IP6,
    Segment,
    icmpv6,
)
from unikernel.talk import GET, Peer, World

Start = Callable[..., Guest]
ONLY = "ip6=fd77::10/64,fd77::1"


def test_both_announcements(start: Start) -> None:
    first, second = start(BOTH).run(0)
    assert first[12:14] == b"\x08\x06"
    assert second[:14] == bytes.fromhex("333300000001") + GUEST_MAC + IPV6
    assert_advertises(second, GUEST_IP6, OVERRIDE, ALL_NODES)


def test_ipv6_alone(start: Start) -> None:
    guest = start(ONLY)
    [announcement] = guest.run(1000)
    assert_advertises(announcement, GUEST_IP6, OVERRIDE, ALL_NODES)
    guest.run(SECOND)
    assert guest.console == "jitsu: guest is ready at fd77:0:0:0:0:0:0:10 after 1 us\n"
    world = World(guest, PEER_IP6)
    Peer(world).open().send("PA", GET)
    assert world.answers(Segment("S", peer=PEER_IP).frame()) == []


def test_without_ip6_nothing_of_it_is_answered(start: Start) -> None:
    world = World(start(CMDLINE))
    frames = [Segment("S", peer=PEER_IP6, guest=guest).frame() for guest in (*OURS, NOBODY)]
    frames += [solicitation(target) for target in (*OURS, NOBODY)]
    frames += [icmpv6(128, bytes(4), guest=guest) for guest in (*OURS, NOBODY, ALL_NODES)]
    assert world.answers(*frames) == []


@pytest.mark.parametrize(
    ("ip6", "why"),
    [
        ("", "bad address"),
        ("10.77.0.10/24", "bad address"),
        ("::/64", "bad address"),
        ("::1/64", "bad address"),
        ("::ffff:a4d:10/64", "bad address"),
        ("ff02::1/64", "bad address"),
        ("fd77::10", "bad prefix length"),
        ("fd77::10/", "bad prefix length"),
        ("fd77::10/129", "bad prefix length"),
        ("fd77::10/64,nowhere", "bad gateway"),
        ("fd77::10/64,ff02::1", "bad gateway"),
        ("fd77::10/64,fd77::1,fd77::2", "bad gateway"),
    ],
)
def test_bad_options(start: Start, ip6: str, why: str) -> None:
    guest = start(f"{CMDLINE} ip6={ip6}")
    assert guest.run(0) == []
    assert guest.status == 1
    assert guest.console == f"jitsu: cannot start: ip6=: {why}\n"


def read_back(library: ctypes.CDLL, text: str) -> IPv6Address | None:
    """The address that a guest makes of it."""
    guest = Guest(library, f"ip6={text}/64")
    frames = guest.run(0)
    guest.close()
    return IPv6Address(frames[0][22:38]) if frames else None


def parse(text: str) -> IPv6Address | None:
    """The same by Python, of what can be a host on a link."""
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    return None if address.is_multicast or address < IPv6Address("0:0:0:1::") else address


@pytest.mark.parametrize(
    "text",
    [
        *("1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "fe80::A", "1::2:0:0:3", "1:2:3:4::5:6:7"),
        *(":1", "1:", "1:2", ":::1", "1:::2", "1::2::3", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8:"),
        *("1:2:3:4:5:6:7::8", "1::2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8::", "12345::1", "g::1", "1::g"),
    ],
)
def test_the_text_of_addresses(library: ctypes.CDLL, text: str) -> None:
    assert read_back(library, text) == parse(text)


@given(st.one_of(st.text("01af:", max_size=24), st.ip_addresses(v=6).map(str)))
def test_any_text_of_an_address(library: ctypes.CDLL, text: str) -> None:
    assert read_back(library, text) == parse(text)
