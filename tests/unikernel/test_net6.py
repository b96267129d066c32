"""IPv6 below TCP: ICMPv6, UDP, headers, and who is spoken to."""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from unikernel.guest import BOTH, Guest
from unikernel.ndp import solicitation
from unikernel.packets import (
    ALL_NODES,
    GUEST_IP6,
    GUEST_LINK_LOCAL,
    ICMPV6,
    LINK_LOCAL_PEER,
    OURS,
    PEER_IP,
    PEER_IP6,
    PEER_MAC,
    TCP,
    UDP,
    Segment,
    ends_of,
    icmpv6,
    ipv6,
    payload_of,
    udp,
)
from unikernel.talk import Peer, World, get, stats

Start = Callable[..., Guest]


@pytest.fixture
def world(start: Start) -> World:
    world = World(start(BOTH), PEER_IP6)
    world.advance(1)
    world.frames.clear()
    return world


@pytest.mark.parametrize("size", [0, 1, 56, 1452])
@pytest.mark.parametrize("guest", OURS)
def test_ping(world: World, size: int, guest: IPv6Address) -> None:
    data = struct.pack("!HH", 7, 1) + (bytes(range(256)) * 6)[:size]
    [frame] = world.answers(icmpv6(128, data, guest=guest))
    reply = payload_of(frame, ICMPV6)
    assert reply is not None
    assert reply[:2] == b"\x81\0"
    assert reply[4:] == data
    assert ends_of(frame) == (guest, PEER_IP6)


@pytest.mark.parametrize(
    ("peer", "guest"), [(PEER_IP6, GUEST_IP6), (LINK_LOCAL_PEER, GUEST_LINK_LOCAL)]
)
def test_ping_to_all(world: World, peer: IPv6Address, guest: IPv6Address) -> None:
    [frame] = world.answers(icmpv6(128, bytes(4), peer=peer, guest=ALL_NODES))
    assert ends_of(frame) == (guest, peer)


@pytest.mark.parametrize("data", [b"", b"x", b"hello", bytes(1452)])
@pytest.mark.parametrize("guest", OURS)
def test_udp_echo(world: World, data: bytes, guest: IPv6Address) -> None:
    [frame] = world.answers(udp(7, data, peer=PEER_IP6, guest=guest))
    reply = payload_of(frame, UDP)
    assert reply is not None
    assert reply[:4] == struct.pack("!HH", 7, 5000)
    assert reply[8:] == data
    assert ends_of(frame) == (guest, PEER_IP6)


def test_udp_must_have_a_checksum(world: World) -> None:
    frame = bytearray(udp(7, b"hello", peer=PEER_IP6))
    frame[60:62] = bytes(2)
    assert world.answers(bytes(frame)) == []


@pytest.mark.parametrize("size", [1, 1232 - 48, 1232 - 47, 1452])
def test_udp_to_nobody_is_unreachable(world: World, size: int) -> None:
    question = udp(9, bytes(size), peer=PEER_IP6)
    [frame] = world.answers(question)
    reply = payload_of(frame, ICMPV6)
    assert reply is not None
    assert reply[:2] == b"\1\4"
    assert reply[4:] == bytes(4) + question[14 : 14 + 1232]
    assert len(frame) <= 14 + 1280


def test_groups_are_for_icmpv6_alone(world: World) -> None:
    frames = [udp(port, b"x", peer=PEER_IP6, guest=ALL_NODES) for port in (7, 9)]
    frames.append(Segment("S", peer=PEER_IP6, guest=ALL_NODES).frame())
    frames += [icmpv6(128, bytes(4), guest=IPv6Address(group)) for group in ("ff02::2", "ff05::1")]
    syn = Segment("S", peer=PEER_IP6).frame()
    frames.append(bytes.fromhex("333300000001") + syn[6:])  # but for one of us
    assert world.answers(*frames) == []


# -- Headers --


def extension(following: int, size: int = 8, rest: bytes = b"\1\4") -> bytes:
    return (bytes([following, size // 8 - 1]) + rest).ljust(size, b"\0")


SYN = payload_of(Segment("S", peer=PEER_IP6).frame(), TCP)
assert SYN is not None
SEGMENTS_LEFT = b"\0\1"


@pytest.mark.parametrize(
    ("first", "headers"),
    [
        (0, extension(TCP)),
        (60, extension(TCP, 24)),
        (
            0,
            extension(60) + extension(43, 2048 // 8) + extension(60, rest=b"\0\0") + extension(TCP),
        ),
        (43, extension(TCP, rest=b"\0\0")),
    ],
)
def test_extension_headers_are_stepped_over(world: World, first: int, headers: bytes) -> None:
    assert SYN is not None
    [frame] = world.answers(ipv6(first, headers + SYN))
    assert payload_of(frame, TCP) is not None


@pytest.mark.parametrize(
    ("first", "rest", "counter"),
    [
        (0, b"", "malformed"),
        (0, extension(TCP)[:7], "malformed"),
        (0, extension(TCP, 256)[:255], "malformed"),
        (0, extension(60, 2048)[:1000], "malformed"),
        (43, extension(TCP, rest=SEGMENTS_LEFT), "malformed"),
        (44, extension(TCP, rest=bytes(6)), "fragments"),
        (60, extension(44) + extension(TCP, rest=b"\0\1"), "fragments"),
        (59, b"", "none"),
        (0, extension(59), "none"),
        (50, bytes(8), "none"),
        (1, bytes(8), "none"),
        (255, bytes(8), "malformed"),
    ],
)
def test_what_cannot_be_stepped_over(world: World, first: int, rest: bytes, counter: str) -> None:
    assert SYN is not None
    data = rest + SYN if counter != "malformed" else rest
    before = stats(world)
    assert world.answers(ipv6(first, data)) == []
    after = stats(world)
    for name in "malformed", "fragments":
        assert after[name] - before[name] == (name == counter), name


@pytest.mark.parametrize(
    "source",
    ["::", "::1", "fd77::10", "fe80::ff:fe00:10", "ff02::1", "::ffff:10.77.0.1", "::a4d:1"],
)
def test_nobody_sends_from_there(world: World, source: str) -> None:
    assert world.answers(Segment("S", peer=IPv6Address(source)).frame()) == []


def test_damage_is_dropped(world: World) -> None:
    good = udp(7, b"hello", peer=PEER_IP6)
    # The first word but for the version, and the hop limit, are under no checksum.
    for at in {14, *range(18, len(good))} - {21}:
        damaged = bytearray(good)
        damaged[at] ^= 0x10
        assert world.answers(bytes(damaged)) == [], f"byte {at}"
    for length in range(14, len(good)):
        assert world.answers(good[:length]) == [], f"{length} bytes"


def test_padding_of_the_frame_is_no_payload(world: World) -> None:
    [frame] = world.answers(udp(7, b"hello", peer=PEER_IP6).ljust(100, b"\xff"))
    assert payload_of(frame, UDP)


def test_other_addresses_are_not_ours(world: World) -> None:
    for address in "fd77::11", "fe80::10", "::ffff:10.77.0.10", "::":
        assert world.answers(Segment("S", peer=PEER_IP6, guest=IPv6Address(address)).frame()) == []


def test_answers_go_where_the_question_came_from(world: World) -> None:
    """No solicitation before the SYN-ACK, be the client near or far."""
    for peer in "fd77::77", "2001:db8::1", "fe80::77":
        [frame] = world.answers(Segment("S", peer=IPv6Address(peer)).frame())
        assert frame[:6] == PEER_MAC


def test_the_same_ports_of_all_addresses_are_connections_of_their_own(world: World) -> None:
    ends = [(PEER_IP, None), (IPv4Address("10.77.0.2"), None)]
    peers = [Peer(world, 40000, address, guest) for address, guest in ends]
    peers += [Peer(world, 40000, PEER_IP6, GUEST_IP6)]
    peers += [Peer(world, 40000, LINK_LOCAL_PEER, guest) for guest in OURS]
    numbers = set()
    for at, peer in enumerate(peers):
        peer.seq += at * 1000
        peer.send("S")
        [answer] = [s for f in world.frames if (s := Segment.parse(f))]
        assert ends_of(world.frames[0])[0] in (*OURS, IPv4Address("10.77.0.10"))
        peer.ack = answer.seq + 1
        numbers.add(answer.seq)
        world.frames.clear()
        peer.send("A")
    assert len(numbers) == len(peers)
    for size, peer in enumerate(peers):
        peer.send("PA", get(f"/bytes/{size}"))
        assert peer.read().endswith(b"\r\n\r\n" + bytes(range(size)))


def test_packets_are_counted(world: World) -> None:
    before = stats(world)
    world.answers(udp(7, b"", peer=PEER_IP6), solicitation(PEER_IP6), solicitation(GUEST_IP6))
    after = stats(world)
    assert after["ipv6_in"] - before["ipv6_in"] == 2
    assert after["ipv6_out"] - before["ipv6_out"] == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_rubbish_under_sanitizers(seed: int, sanitized: Callable[..., None]) -> None:
    sanitized("unikernel.fuzz_net", seed, 400)
