"""The guest's store: against the true link and a store of a few lines, in any weather."""

import ctypes
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from random import Random

import pytest

from jitsu.core.xenstore.link import StoreLink
from jitsu.wire.storelink import Segment, decode, encode
from unikernel.guest import CMDLINE, SECOND, Guest
from unikernel.lossy import MS, Weather
from unikernel.packets import (
    BROADCAST,
    GUEST_IP,
    ICMP,
    PEER_IP,
    PEER_IP6,
    PEER_MAC,
    arp,
    ipv4,
    ping,
)
from unikernel.storehost import HostEnd, Type, frame_to_guest, is_link_frame, message
from unikernel.storeworld import Asker, Kind, StoreWorld
from unikernel.talk import Peer, World, stats

Start = Callable[..., Guest]
NOWHERE = IPv4Address("0.0.0.0")
IP = CMDLINE.removeprefix("ip=").encode()
IP6 = b"fd77::10/64,fd77::1"
# A host gives up after ten tries: with a fifth of the frames lost that happens, if rarely.
BAD = Weather(loss=0.1, duplicate=0.2, jitter=20 * MS)


@pytest.fixture
def asker(library: ctypes.CDLL) -> Iterator[Asker]:
    asker = Asker(library)
    yield asker
    asker.close()


def segments(frames: list[bytes]) -> list[Segment]:
    return [decode(frame[14:]) for frame in frames if is_link_frame(frame)]


def is_announcement(frame: bytes) -> bool:
    return frame[:6] == BROADCAST and frame[28:32] == frame[38:42] == GUEST_IP.packed


# Frames.


def test_the_first_frames(asker: Asker) -> None:
    assert asker.run(SECOND) == []  # nothing is said before anything is asked
    assert asker.ask(1, Type.READ, b"a\0")
    [first] = segments(asker.run(SECOND))
    request = message(Type.READ, int.from_bytes(first.data[4:8], "little"), b"a\0")
    assert first == Segment(first.session, 0, 0, request, open=True)
    asker.give(frame_to_guest(encode(Segment(first.session, 0, 1))))
    assert asker.run(SECOND) == []
    asker.ask(2, Type.READ, b"b\0")
    [second] = segments(asker.run(SECOND))
    assert (second.sequence, second.open) == (1, False)


def test_it_tries_for_ever(asker: Asker) -> None:
    asker.ask(1, Type.READ, b"a\0")
    [first] = segments(asker.run(0))
    now, waits = 0, []
    for _ in range(12):
        waits.append(asker.deadline - now)
        now = asker.deadline
        assert segments(asker.run(now)) == [first]
    assert waits == [MS * ms for ms in (10, 20, 40, 80, 160, 320, 640, 640, 640, 640, 640, 640)]
    asker.give(frame_to_guest(encode(Segment(first.session, 0, 1))))
    asker.run(now)
    asker.ask(2, Type.READ, b"b\0")
    asker.run(now)
    assert asker.deadline == now + 10 * MS


def test_data_is_acknowledged_and_not_taken_twice(asker: Asker) -> None:
    asker.ask(1, Type.READ, b"a\0")
    [first] = segments(asker.run(0))
    answer = message(Type.READ, int.from_bytes(first.data[4:8], "little"), b"value")
    data = frame_to_guest(encode(Segment(first.session, 0, 1, answer)))
    later = frame_to_guest(encode(Segment(first.session, 2, 1, answer)))
    for frame in (data, data, later):
        asker.give(frame)
    assert segments(asker.run(0)) == [Segment(first.session, 1, 1)]  # once for all three
    assert asker.events() == [(Kind.DONE, 1, b"value")]
    assert asker.rubbish == 1


def test_an_acknowledgement_travels_with_data(asker: Asker) -> None:
    asker.ask(1, Type.READ, b"a\0")
    [first] = segments(asker.run(0))
    asker.give(frame_to_guest(encode(Segment(first.session, 0, 1, b"\0"))))
    asker.ask(2, Type.READ, b"b\0")
    [second] = segments(asker.run(0))
    assert (second.sequence, second.acknowledged, len(second.data)) == (1, 1, 18)
    asker.give(frame_to_guest(encode(Segment(first.session, 1, 1, b"\0"))))
    assert segments(asker.run(0)) == [Segment(first.session, 2, 2)]  # 1 is under way


def test_frames_of_others_are_not_heard(asker: Asker) -> None:
    asker.ask(1, Type.READ, b"a\0")
    [first] = segments(asker.run(0))
    reset = encode(Segment(first.session, reset=True))
    for destination in (BROADCAST, PEER_MAC):
        asker.give(destination + PEER_MAC + b"\x88\xb5" + reset)
    asker.give(frame_to_guest(encode(Segment(first.session % 2**31 + 1, reset=True))))
    asker.run(0)
    assert asker.events() == []


def test_after_a_reset_it_begins_anew(asker: Asker) -> None:
    asker.ask(1, Type.READ, b"a\0")
    asker.ask(2, Type.READ, b"b\0")
    [first] = segments(asker.run(0))
    asker.give(frame_to_guest(encode(Segment(first.session, reset=True))))
    assert asker.run(0) == []
    assert asker.events() == [(Kind.LOST, 1, b""), (Kind.LOST, 2, b""), (Kind.ANEW, 0, b"")]
    asker.ask(3, Type.READ, b"c\0")
    assert asker.run(0) == []  # after a pause
    [again] = segments(asker.run(asker.deadline))
    assert (again.open, again.sequence, len(again.data)) == (True, 0, 18)
    assert again.session not in (0, first.session)


# Requests.


def test_so_many_at_a_time(asker: Asker) -> None:
    world = StoreWorld(asker, HostEnd({f"k{i}": str(i).encode() for i in range(32)}))
    asked = [asker.ask(i, Type.READ, f"k{i}\0".encode()) for i in range(33)]
    assert asked == [True] * 32 + [False]
    world.run()
    assert asker.events() == [(Kind.DONE, i, str(i).encode()) for i in range(32)]
    assert asker.ask(17, Type.READ, b"k1\0")


def test_sizes(asker: Asker) -> None:
    world = StoreWorld(asker)
    value = Random(1).randbytes(4094)
    assert not asker.ask(1, Type.WRITE, b"k\0" + value + b"!")
    assert asker.ask(1, Type.WRITE, b"k\0" + value)
    assert not asker.ask(2, Type.WRITE, b"k\0" + value), "8 KiB are what it queues"
    world.run()
    assert world.host.store.values["k"] == value
    asker.ask(2, Type.READ, b"k\0")
    world.host.store.values["k"] += b"!!"
    world.run()
    assert asker.events() == [(Kind.DONE, 1, b"OK\0"), (Kind.DONE, 2, value + b"!!")]


def test_errors_have_names(asker: Asker) -> None:
    world = StoreWorld(asker)
    asker.ask(1, Type.READ, b"nothing\0")
    asker.ask(2, Type.DIRECTORY, b"\0")
    world.run()
    assert asker.events() == [(Kind.FAILED, 1, b"ENOENT"), (Kind.FAILED, 2, b"ENOSYS")]


def test_watches(asker: Asker) -> None:
    world = StoreWorld(asker)
    asker.ask(1, Type.WATCH, b"path\0token\0")
    world.run()
    assert asker.events() == [
        (Kind.DONE, 1, b"OK\0"),
        (Kind.WATCH, 0, b"path"),
        (Kind.WATCH, 1, b"token"),
    ]
    world.host_sends(message(Type.WATCH_EVENT, 0, b"path/below\0token\0"))
    world.run()
    assert asker.events() == [(Kind.WATCH, 0, b"path/below"), (Kind.WATCH, 1, b"token")]


def test_a_reply_counts_once(asker: Asker) -> None:
    world = StoreWorld(asker, HostEnd({"a": b"value"}))
    asker.ask(1, Type.READ, b"a\0")
    world.run()
    request = int.from_bytes(segments(world.links)[0].data[4:8], "little")
    asker.ask(2, Type.READ, b"a\0")
    world.host_sends(message(Type.READ, request, b"once more"))
    world.run()
    assert asker.events() == [(Kind.DONE, 1, b"value"), (Kind.DONE, 2, b"value")]
    assert asker.rubbish == 1


@pytest.mark.parametrize(
    "rubbish",
    [
        message(Type.READ, 4711, b"of nobody"),
        message(Type.WATCH_EVENT, 0, b""),
        message(Type.WATCH_EVENT, 0, b"path\0"),
        message(Type.WATCH_EVENT, 0, b"path\0token"),
        message(Type.WATCH_EVENT, 0, b"path\0token\0more\0"),
        message(99, 0, b""),
    ],
)
def test_messages_without_sense_are_passed_over(asker: Asker, rubbish: bytes) -> None:
    world = StoreWorld(asker, HostEnd({"a": b"value"}))
    asker.ask(1, Type.READ, b"a\0")
    world.run()
    world.host_sends(rubbish)
    asker.ask(2, Type.READ, b"a\0")
    world.run()
    assert asker.events() == [(Kind.DONE, 1, b"value"), (Kind.DONE, 2, b"value")]
    assert asker.rubbish == 1


def test_a_message_without_end_is_the_end_of_the_session(asker: Asker) -> None:
    world = StoreWorld(asker, HostEnd({"a": b"value"}))
    asker.ask(1, Type.READ, b"a\0")
    world.run()
    world.host_sends(message(Type.READ, 1, b"")[:12] + (4097).to_bytes(4, "little"))
    world.run()
    assert asker.events() == [(Kind.DONE, 1, b"value"), (Kind.ANEW, 0, b"")]
    assert not world.host.link.is_open
    asker.ask(2, Type.READ, b"a\0")
    world.run()
    assert asker.events() == [(Kind.DONE, 2, b"value")]


@pytest.mark.parametrize("seed", range(100))
def test_any_weather(library: ctypes.CDLL, seed: int) -> None:
    """Every request is answered once, in order, and every event comes, whatever is lost."""
    random = Random(seed)
    asker = Asker(library, seed)
    try:
        world = StoreWorld(asker, HostEnd(), BAD, seed)
        values = [random.randbytes(random.choice((1, 100, 1400, 3000))) for _ in range(12)]
        expected = []
        for tag, value in enumerate(values):
            asker.ask(tag, Type.WRITE, b"k\0" + value)
            asker.ask(tag + 100, Type.READ, b"k\0")
            expected += [(Kind.DONE, tag, b"OK\0"), (Kind.DONE, tag + 100, value)]
            if world.host.link.is_open:
                world.host_sends(message(Type.WATCH_EVENT, 0, b"k\0%d\0" % tag))
            world.run()
        events = asker.events()
        assert [event for event in events if event[0] is not Kind.WATCH] == expected
        tokens = [data for kind, part, data in events if kind is Kind.WATCH and part == 1]
        assert tokens == [b"%d" % tag for tag in range(1, 12)]
        assert [value for kind, _, value in world.host.store.asked if kind is Type.WRITE] == values
    finally:
        asker.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_host_that_forgets(library: ctypes.CDLL, seed: int) -> None:
    """Each request is answered or lost, and those after the last reset are answered."""
    asker = Asker(library, seed)
    try:
        world = StoreWorld(asker, HostEnd({"a": b"value"}), BAD, seed)
        for tag in range(8):
            asker.ask(tag, Type.READ, b"a\0")
            for _ in range(world.random.randint(0, 10)):
                world.step()
            world.host.link = StoreLink()
            world.host.store.unread.clear()
        world.run()
        ends = [(kind, tag) for kind, tag, _ in asker.events() if kind is not Kind.ANEW]
        assert sorted(tag for _, tag in ends) == list(range(8))
        assert all(kind in (Kind.DONE, Kind.LOST) for kind, _ in ends)
        asker.ask(8, Type.READ, b"a\0")
        world.run()
        while (Kind.DONE, 8, b"value") not in (events := asker.events()):
            assert (Kind.LOST, 8, b"") in events
            asker.ask(8, Type.READ, b"a\0")
            world.run()
    finally:
        asker.close()


# The demo's guest.


def test_with_ip_the_announcement_comes_first(start: Start) -> None:
    world = StoreWorld(start(f"{CMDLINE} store"))
    world.run_guest()
    assert world.links == []
    [announcement] = world.others
    assert is_announcement(announcement)
    world.run()
    assert world.links
    assert [(kind, path) for kind, path, _ in world.host.store.asked] == [
        (Type.WRITE, "data/boot_us"),
        (Type.WRITE, "data/ready"),
    ]
    assert world.host.store.values["data/ready"] == b"1"
    assert world.host.store.values["data/boot_us"].isdigit()
    assert stats(World(world.guest, now=world.now))["store"] == "ready"


def test_without_ip_the_store_has_it(start: Start) -> None:
    world = StoreWorld(start("store"), HostEnd({"ip": IP}))
    early = ping(b"too early")
    for address in (GUEST_IP, NOWHERE):
        world.guest.give(arp(1, address))
        world.guest.give(ipv4(ICMP, early[34:], target=address))
    world.run_guest()
    assert (len(world.links), world.others) == (1, [])
    world.run()
    [announcement] = world.others
    assert is_announcement(announcement)
    assert world.host.store.asked[0] == (Type.READ, "ip", b"")
    assert world.host.store.values["data/ready"] == b"1"
    told = stats(World(world.guest, now=world.now))
    assert (told["service"], told["store"]) == ("www", "ready")
    assert "jitsu: www is ready at 10.77.0.10 after " in world.guest.console


@pytest.mark.parametrize(
    ("values", "types"),
    [
        ({"ip": IP}, [b"\x08\x06"]),
        ({"ip": IP, "ip6": IP6}, [b"\x08\x06", b"\x86\xdd"]),
        ({"ip6": IP6}, [b"\x86\xdd"]),
    ],
)
def test_the_store_may_have_either_or_both(
    start: Start, values: dict[str, bytes], types: list[bytes]
) -> None:
    world = StoreWorld(start("store"), HostEnd(values))
    world.run()
    assert [frame[12:14] for frame in world.others] == types
    assert [path for _, path, _ in world.host.store.asked[:3]] == ["ip", "handoff", "ip6"]
    assert len(segments(world.links)[0].data) == 16 + 3 + 16 + 8 + 16 + 4  # all at once
    assert world.host.store.values["data/ready"] == b"1"
    peer = PEER_IP6 if "ip6" in values else PEER_IP
    Peer(World(world.guest, peer, world.now)).open()


def test_with_ip6_alone_the_store_is_not_asked(start: Start) -> None:
    world = StoreWorld(start(f"ip6={IP6.decode()} store"), HostEnd({"ip": IP}))
    world.run()
    assert [frame[12:14] for frame in world.others] == [b"\x86\xdd"]
    asked = [path for _, path, _ in world.host.store.asked]
    assert asked == ["data/boot_us", "data/ready"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "no ip= on the command line, nor in the store"),
        ({"ip": IP, "ip6": b""}, "ip6=: bad address"),
        ({"ip": IP, "ip6": IP6 + b" "}, "ip6=: bad gateway"),
        ({"ip6": b"f" * 4000}, "ip6=: bad address"),
        ({"ip": b""}, "ip=: bad address"),
        ({"ip": b"10.77.0.10:::255.0.255.0"}, "ip=: bad netmask"),
        ({"ip": bytes(range(256)) * 16}, "ip=: bad address"),
    ],
)
def test_what_the_store_must_not_say(start: Start, values: dict[str, bytes], why: str) -> None:
    world = StoreWorld(start("store"), HostEnd(values))
    world.run_guest()
    world.run()
    assert world.guest.status == 1
    assert world.guest.console == f"jitsu: cannot start: {why}\n"


def test_the_rest_of_a_long_address_is_not_looked_at(start: Start) -> None:
    world = StoreWorld(start("store"), HostEnd({"ip": IP + b"x" * 4000}))
    world.run()
    assert world.guest.console.startswith("jitsu: www is ready at 10.77.0.10 after ")


@pytest.mark.parametrize("seed", range(20))
def test_the_demo_in_any_weather(start: Start, seed: int) -> None:
    values = {"ip": IP, "ip6": IP6} if seed % 2 else {"ip": IP}
    world = StoreWorld(start("store", seed), HostEnd(values), BAD, seed)
    world.run_guest()
    while "data/ready" not in world.host.store.values or world.frames:
        assert world.now < 3600 * SECOND
        world.step()
        if world.random.random() < 0.02 and not world.others:
            world.carry(False, world.host.perform(world.host.link.close(0.0), 0.0))
    assert len([frame for frame in world.others if is_announcement(frame)]) == 1


def test_stats_without_a_store(start: Start) -> None:
    guest = start()
    guest.run(0)
    assert stats(World(guest, now=0))["store"] == "off"


def test_stats_with_a_store_that_does_not_answer(start: Start) -> None:
    guest = start(f"{CMDLINE} store")
    guest.run(0)
    assert stats(World(guest, now=SECOND))["store"] == "waiting"


def test_published_again_after_a_reset(start: Start) -> None:
    world = StoreWorld(start(f"{CMDLINE} store"))
    world.run_guest()
    world.run()
    world.carry(False, world.host.perform(world.host.link.close(0.0), 0.0))
    world.run()
    asked = [path for _, path, _ in world.host.store.asked]
    assert asked == ["data/boot_us", "data/ready"] * 2
    session = segments(world.links)[-1].session
    world.guest.give(frame_to_guest(encode(Segment(session, reset=True))))
    assert stats(World(world.guest, now=world.now))["store"] == "waiting"


# Rubbish.


@pytest.mark.parametrize("seed", [0, 1000])
def test_rubbish_under_sanitizers(seed: int, sanitized: Callable[..., None]) -> None:
    sanitized("unikernel.fuzz_store", seed, 150)
