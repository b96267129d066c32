"""IPv6 below TCP: announcement, neighbour discovery, ICMPv6, UDP, headers, and ip6=."""

import ctypes
import json
import struct
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unikernel.guest import BOTH, CMDLINE, SECOND, Guest
from unikernel.packets import (
    GUEST_IP6,
    GUEST_LINK_LOCAL,
    GUEST_MAC,
    ICMPV6,
    IPV6,
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
from unikernel.talk import GET, Peer, World, get

Start = Callable[..., Guest]
ONLY = "ip6=fd77::10/64,fd77::1"
NOBODY = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")
LINK_LOCAL_PEER = IPv6Address("fe80::77")
NEW_MAC = bytes.fromhex("020000000099")
SOLICITATION, ADVERTISEMENT = 135, 136
SOLICITED, OVERRIDE = 0x40000000, 0x20000000
OURS = [GUEST_IP6, GUEST_LINK_LOCAL]


@pytest.fixture
def world(start: Start) -> World:
    world = World(start(BOTH), PEER_IP6)
    world.advance(1)
    world.frames.clear()
    return world


def group_of(address: IPv6Address) -> IPv6Address:
    """The solicited-node group."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def mac_option(kind: int, mac: bytes = PEER_MAC) -> bytes:
    return bytes([kind, 1]) + mac


def solicitation(
    target: IPv6Address,
    *,
    peer: IPv6Address = PEER_IP6,
    to: IPv6Address | None = None,
    options: bytes | None = None,
) -> bytes:
    if options is None:
        options = b"" if peer == NOBODY else mac_option(1)
    rest = bytes(4) + target.packed + options
    return icmpv6(SOLICITATION, rest, peer=peer, guest=to or group_of(target))


def advertisement(
    target: IPv6Address,
    *,
    flags: int = SOLICITED | OVERRIDE,
    to: IPv6Address = GUEST_IP6,
    options: bytes | None = None,
) -> bytes:
    rest = flags.to_bytes(4) + target.packed
    rest += mac_option(2, NEW_MAC) if options is None else options
    return icmpv6(ADVERTISEMENT, rest, peer=target, guest=to)


def assert_advertises(frame: bytes, address: IPv6Address, flags: int, to: IPv6Address) -> None:
    body = payload_of(frame, ICMPV6)
    assert body is not None
    assert frame[21] == 255
    assert ends_of(frame) == (address, to)
    assert body[:2] == bytes([ADVERTISEMENT, 0])
    assert body[4:] == flags.to_bytes(4) + address.packed + b"\2\1" + GUEST_MAC


def stats(world: World) -> dict[str, int]:
    peer = Peer(world, 29999, PEER_IP).open()
    peer.send("PA", get("/stats"))
    answer: dict[str, int] = json.loads(peer.read().partition(b"\r\n\r\n")[2])
    peer.send("R")
    return answer


# -- The command line --


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


# -- Neighbour discovery --


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


# -- ICMPv6 and UDP --


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
