"""Neighbour discovery: answers, questions, and the ways of packets that follow from them."""

from collections.abc import Callable
from ipaddress import IPv6Address

import pytest

from unikernel.guest import BOTH, CMDLINE, Guest
from unikernel.ndp import (
    ADVERTISEMENT,
    NEW_MAC,
    OVERRIDE,
    SOLICITATION,
    SOLICITED,
    advertisement,
    assert_advertises,
    group_of,
    mac_option,
    solicitation,
)
from unikernel.packets import (
    ALL_NODES,
    GUEST_IP6,
    GUEST_MAC,
    ICMPV6,
    LINK_LOCAL_PEER,
    NOBODY,
    OURS,
    PEER_IP6,
    PEER_MAC,
    TCP,
    ends_of,
    icmpv6,
    payload_of,
)
from unikernel.talk import GET, Peer, World, stats

Start = Callable[..., Guest]


@pytest.fixture
def world(start: Start) -> World:
    world = World(start(BOTH), PEER_IP6)
    world.advance(1)
    world.frames.clear()
    return world


@pytest.mark.parametrize("target", OURS)
@pytest.mark.parametrize("peer", [PEER_IP6, LINK_LOCAL_PEER])
def test_who_asks_is_answered(world: World, target: IPv6Address, peer: IPv6Address) -> None:
    for to in group_of(target), target:
        [frame] = world.answers(solicitation(target, peer=peer, to=to))
        assert frame[:6] == PEER_MAC
        assert_advertises(frame, target, SOLICITED | OVERRIDE, peer)


def test_a_question_without_the_asker_s_mac(world: World) -> None:
    [frame] = world.answers(solicitation(GUEST_IP6, to=GUEST_IP6, options=b""))
    assert_advertises(frame, GUEST_IP6, SOLICITED | OVERRIDE, PEER_IP6)


@pytest.mark.parametrize("target", OURS)
def test_one_who_has_no_address_yet_is_told_of_the_clash(world: World, target: IPv6Address) -> None:
    [frame] = world.answers(solicitation(target, peer=NOBODY))
    assert frame[:6] == bytes.fromhex("333300000001")
    assert_advertises(frame, target, OVERRIDE, ALL_NODES)


def test_others_are_not_answered_for(world: World) -> None:
    other = IPv6Address("fd77::1:0:10")  # of the same group
    assert group_of(other) == group_of(GUEST_IP6)
    assert world.answers(solicitation(other), solicitation(PEER_IP6)) == []


def with_hop_limit(frame: bytes, hop_limit: int) -> bytes:
    return frame[:21] + bytes([hop_limit]) + frame[22:]


@pytest.mark.parametrize(
    "frame",
    [
        with_hop_limit(solicitation(GUEST_IP6), 254),
        solicitation(ALL_NODES, to=GUEST_IP6),
        solicitation(GUEST_IP6, options=b"\1\0" + PEER_MAC),
        solicitation(GUEST_IP6, options=b"\1\2" + PEER_MAC),
        solicitation(GUEST_IP6, options=mac_option(1) + b"\1"),
        solicitation(GUEST_IP6, peer=NOBODY, options=mac_option(1)),
        solicitation(GUEST_IP6, peer=NOBODY, to=GUEST_IP6),
        icmpv6(SOLICITATION, bytes(4) + GUEST_IP6.packed[:15]),
        with_hop_limit(advertisement(PEER_IP6), 64),
        advertisement(PEER_IP6, to=ALL_NODES),  # to all, and yet an answer
        advertisement(PEER_IP6, options=b"\2\0"),
        icmpv6(ADVERTISEMENT, bytes(4) + PEER_IP6.packed, peer=NOBODY),
        icmpv6(128, bytes(4), peer=NOBODY),
        icmpv6(128, b""),
    ],
)
def test_what_makes_no_sense_is_counted(world: World, frame: bytes) -> None:
    before = stats(world)["malformed"]
    assert world.answers(frame) == []
    assert stats(world)["malformed"] == before + 1


def stuck(world: World, address: str) -> bytes:
    """The question for the next hop to a peer that has vanished in the midst of an answer."""
    [question] = set(questions(world, address))
    return question


def questions(world: World, address: str) -> list[bytes]:
    world.frames.clear()
    peer = Peer(world, address=IPv6Address(address)).open()
    peer.send("PA", GET)
    peer.segments()
    asked = []
    for _ in range(4):
        world.next_deadline()
        asked += [frame for frame in world.frames if payload_of(frame, ICMPV6)]
        world.frames.clear()
    return asked


def sends_to(world: World) -> bytes:
    """The MAC address that the next retransmission goes to."""
    world.frames.clear()
    world.next_deadline()
    [mac] = {frame[:6] for frame in world.frames if payload_of(frame, TCP)}
    return mac


@pytest.mark.parametrize(
    ("address", "hop"),
    [("fd77::77", "fd77::77"), ("2001:db8::1", "fd77::1"), ("fe80::77", "fe80::77")],
)
def test_a_next_hop_that_moved_is_found_again(world: World, address: str, hop: str) -> None:
    question = stuck(world, address)
    assert question[:6] == b"\x33\x33" + group_of(IPv6Address(hop)).packed[12:]
    assert ends_of(question) == (GUEST_IP6, group_of(IPv6Address(hop)))
    body = payload_of(question, ICMPV6)
    assert body is not None
    assert body[:2] == bytes([SOLICITATION, 0])
    assert body[4:] == bytes(4) + IPv6Address(hop).packed + b"\1\1" + GUEST_MAC
    assert world.answers(advertisement(IPv6Address(hop))) == []
    assert sends_to(world) == NEW_MAC


@pytest.mark.parametrize(
    "frame",
    [
        advertisement(PEER_IP6),
        advertisement(IPv6Address("fd77::77"), options=b""),
        advertisement(IPv6Address("fd77::77"), options=mac_option(2, b"\x33\x33\0\0\0\1")),
        advertisement(IPv6Address("fd77::77"), options=mac_option(1, NEW_MAC)),
    ],
)
def test_what_says_nothing_of_a_next_hop(world: World, frame: bytes) -> None:
    stuck(world, "fd77::77")
    world.give(frame)
    assert sends_to(world) == PEER_MAC


def test_a_neighbour_says_where_it_is_unasked(world: World) -> None:
    stuck(world, "fd77::77")
    there = IPv6Address("fd77::77")
    world.give(solicitation(GUEST_IP6, peer=there, options=mac_option(1)))  # by its question
    world.give(advertisement(there, flags=OVERRIDE, to=ALL_NODES))  # to all
    world.give(advertisement(there, flags=SOLICITED, options=mac_option(2)))  # does not override
    assert sends_to(world) == NEW_MAC


@pytest.mark.parametrize(
    ("bits", "address", "near"),
    [
        (128, "fd77::11", False),
        (64, "fd77::ffff", True),
        (64, "fd77:0:0:1::", False),
        (63, "fd77:0:0:1::1", True),
        (61, "fd77:0:0:8::1", False),
        (0, "2001:db8::1", True),
        (1, "fd78::1", True),
        (7, "ff:0::1", False),
    ],
)
def test_what_is_on_the_link(start: Start, bits: int, address: str, near: bool) -> None:
    world = World(start(f"{CMDLINE} ip6=fd77::10/{bits},fd77::1"), PEER_IP6)
    target = payload_of(stuck(world, address), ICMPV6)
    assert target is not None
    assert IPv6Address(target[8:24]) == (IPv6Address(address) if near else PEER_IP6)


def test_without_a_gateway_far_peers_stay_where_they_are(start: Start) -> None:
    world = World(start("ip6=fd77::10/64"), PEER_IP6)
    assert questions(world, "2001:db8::1") == []
    assert questions(world, "fd77::2") != []
