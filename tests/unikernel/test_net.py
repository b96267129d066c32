"""Everything below TCP: announcement, ARP, IPv4, ICMP, UDP, and the command line."""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from unikernel.guest import CMDLINE, Guest
from unikernel.packets import (
    BROADCAST,
    GUEST_IP,
    GUEST_MAC,
    ICMP,
    PEER_IP,
    PEER_MAC,
    UDP,
    Segment,
    arp,
    ipv4,
    payload_of,
    ping,
    udp,
)
from unikernel.talk import GET, Peer, World

Start = Callable[..., Guest]


def test_first_frame_announces_the_address(start: Start) -> None:
    frame = start().run(0)[0]
    assert frame[:14] == BROADCAST + GUEST_MAC + b"\x08\x06"
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert frame[22:42] == GUEST_MAC + GUEST_IP.packed + bytes(6) + GUEST_IP.packed
    assert len(frame) == 60


@pytest.mark.parametrize(
    "cmdline",
    [
        "",
        "quiet",
        "ip=",
        "ip=10.77.0.300::10.77.0.1:255.255.255.0:www::off",
        "ip=10.77.0.10::10.77.0.1:255.0.255.0:www::off",
        "ip=10.77.0.10::10.77.0.1::www::off",
        "ip=10.77.0.10::nowhere:255.255.255.0:www::off",
        'ip=10.77.0.10::10.77.0.1:255.255.255.0:w"w::off',
        f"{CMDLINE} listen_delay_ms=soon",
    ],
)
def test_bad_command_line_is_the_end(start: Start, cmdline: str) -> None:
    guest = start(cmdline)
    assert guest.run(0) == []
    assert guest.status == 1
    assert guest.console.startswith("jitsu: cannot start: ")


@pytest.mark.parametrize(
    "cmdline", ["ip=10.77.0.10:::255.255.255.0", f"console=x {CMDLINE} virtio_mmio.device=5@0x1:2"]
)
def test_good_command_lines(start: Start, cmdline: str) -> None:
    guest = start(cmdline)
    assert len(guest.run(0)) == 1
    assert guest.status is None


def test_silent(start: Start) -> None:
    world = World(start(f"{CMDLINE} silent=1"))
    assert world.frames == []
    assert world.answers(arp(1, GUEST_IP), ping(b""), Segment("S").frame()) == []


def test_listen_delay(start: Start) -> None:
    world = World(start(f"{CMDLINE} listen_delay_ms=250"))
    assert len(world.frames) == 1
    peer = Peer(world)
    peer.send("S")
    peer.expect("RA")
    world.advance(0.251)
    Peer(world, 40001).open()


def test_arp_answers_who_asks(world: World) -> None:
    [frame] = world.answers(arp(1, GUEST_IP))
    assert frame[:14] == PEER_MAC + GUEST_MAC + b"\x08\x06"
    assert frame[20:22] == b"\x00\x02"
    assert frame[22:42] == GUEST_MAC + GUEST_IP.packed + PEER_MAC + PEER_IP.packed


def test_arp_answers_a_probe(world: World) -> None:
    assert len(world.answers(arp(1, GUEST_IP, source=IPv4Address(0)))) == 1


def test_arp_for_others_and_announcements_are_not_answered(world: World) -> None:
    assert world.answers(arp(1, PEER_IP), arp(1, GUEST_IP, source=GUEST_IP), arp(2, GUEST_IP)) == []


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_ping(world: World, size: int) -> None:
    data = bytes(range(256)) * 6
    [frame] = world.answers(ping(data[:size]))
    reply = payload_of(frame, ICMP)
    assert reply is not None
    assert reply[:2] == b"\0\0"
    assert reply[4:] == struct.pack("!HH", 7, 1) + data[:size]


@pytest.mark.parametrize("data", [b"", b"x", b"hello", bytes(1472)])
def test_udp_echo(world: World, data: bytes) -> None:
    [frame] = world.answers(udp(7, data))
    reply = payload_of(frame, UDP)
    assert reply is not None
    assert reply[:4] == struct.pack("!HH", 7, 5000)
    assert reply[8:] == data


def test_two_echo_services_do_not_talk(world: World) -> None:
    assert world.answers(udp(7, b"x", source_port=7)) == []


def test_udp_to_nobody_is_unreachable(world: World) -> None:
    [frame] = world.answers(udp(9, b"x"))
    reply = payload_of(frame, ICMP)
    assert reply is not None
    assert reply[:2] == b"\x03\x03"


def test_options_are_stepped_over(world: World) -> None:
    body = payload_of(udp(7, b"x"), UDP)
    assert body is not None
    assert len(world.answers(ipv4(UDP, body, options=b"\x01" * 8))) == 1


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "10.77.0.10", "10.77.0.255", "10.77.0.0", "224.0.0.1", "127.0.0.1"]
)
def test_nobody_sends_from_there(world: World, source: str) -> None:
    syn = Segment("S", peer=IPv4Address(source))
    assert world.answers(syn.frame()) == []


def test_damage_and_fragments_are_dropped(world: World) -> None:
    good = udp(7, b"hello")
    body = payload_of(good, UDP)
    assert body is not None
    for at in range(14, len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 0x10
        assert world.answers(bytes(damaged)) == [], f"byte {at}"
    assert world.answers(ipv4(UDP, body, fragment=0x2000)) == []
    assert world.answers(ipv4(UDP, body, fragment=1)) == []
    assert world.answers(ipv4(UDP, body, target=IPv4Address("10.77.0.11"))) == []


def test_answers_go_where_the_question_came_from(world: World) -> None:
    """No ARP before the SYN-ACK, be the client near or far."""
    for peer in "10.77.0.77", "192.0.2.1":
        [frame] = world.answers(Segment("S", peer=IPv4Address(peer)).frame())
        assert frame[:6] == PEER_MAC


@pytest.mark.parametrize(
    ("address", "hop"), [("10.77.0.77", "10.77.0.77"), ("192.0.2.1", "10.77.0.1")]
)
def test_a_next_hop_that_moved_is_found_again(world: World, address: str, hop: str) -> None:
    new_mac = bytes.fromhex("020000000099")
    peer = Peer(world, address=IPv4Address(address)).open()
    peer.send("PA", GET)
    peer.segments()
    asked = False
    for _ in range(4):
        world.next_deadline()
        for frame in world.frames:
            if frame[12:14] == b"\x08\x06":
                assert frame[38:42] == IPv4Address(hop).packed
                asked = True
        peer.segments()
    assert asked
    world.give(arp(2, GUEST_IP, source=IPv4Address(hop), mac=new_mac, to=GUEST_MAC))
    world.frames.clear()
    world.next_deadline()
    assert world.frames[0][:6] == new_mac
