"""How many connections there are, and what happens when there are no more; cookies."""

from collections.abc import Callable

import pytest

from unikernel.guest import CMDLINE, MIB, Guest
from unikernel.packets import Segment
from unikernel.talk import GET, Peer, World, get, stats


@pytest.fixture
def world(world_of_either: World) -> World:
    return world_of_either


def table_size(world: World) -> int:
    return int(stats(world)["connections_max"])


@pytest.mark.parametrize(
    ("heap", "least", "most"), [(2, 64, 84), (4, 160, 168), (7, 256, 295), (15, 600, 640)]
)
def test_the_table_follows_the_memory(
    start: Callable[..., Guest], heap: int, least: int, most: int
) -> None:
    guest = start(heap=heap * MIB)
    size = table_size(World(guest))
    assert least <= size <= most
    # What is left is not enough for one more.
    assert 0 <= heap * MIB - size * 24576 < 25 * 1024 + size * 512 + 64 * 1024


def test_the_table_has_an_end(start: Callable[..., Guest]) -> None:
    assert table_size(World(start(heap=64 * MIB))) == 1024


def test_too_little_memory_is_the_end(start: Callable[..., Guest]) -> None:
    guest = start(heap=3 * MIB // 2)
    assert guest.run(0) == []
    assert guest.status == 1
    assert guest.console == "jitsu: cannot start: not enough memory\n"


def test_memory_is_not_touched_before_it_is_used(start: Callable[..., Guest]) -> None:
    world = World(start(heap=64 * MIB))
    at_start = world.guest.touched
    assert at_start < 64 * 1024
    Peer(world).open().send("PA", GET)
    assert world.guest.touched <= at_start + 8 * 4096


def test_full_table_refuses_until_one_leaves(world: World) -> None:
    peers = [Peer(world, 30000 + i).open() for i in range(table_size(world))]
    late = Peer(world, 50000)
    late.send("S")
    late.silence()
    peers[17].send("R")
    late.seq -= 1
    late.open().send("PA", GET)
    assert b"200 OK" in late.read()
    for peer in peers[:17] + peers[18:]:
        peer.send("PA", get("/bytes/10"))
        assert peer.read().endswith(bytes(range(10)))


def test_the_oldest_time_wait_makes_room(world: World) -> None:
    peers = [Peer(world, 30000 + i).open() for i in range(table_size(world))]
    for peer in peers:
        peer.send("PA", get("/bytes/3", "Connection: close"))
        last = peer.segments()[-1]
        peer.ack = last.seq + last.length
        peer.send("FA")
        peer.segments()
        world.now += 1000
    late = Peer(world, 50000).open()
    late.send("PA", GET)
    assert b"200 OK" in late.read()
    peers[1].send("FA", seq=peers[1].seq - 1)
    peers[1].expect("A")


def test_a_flood_of_syns_locks_nobody_out(world: World) -> None:
    """Honest clients connect, idle and ask in the midst of 100,000 SYNs from nowhere."""
    before = Peer(world, 50000).open()
    honest: list[Peer] = []
    for i in range(100_000):
        source = world.peer + (19 + i % 200)
        world.guest.give(Segment("S", i * 77, port=1024 + i // 200, peer=source).frame())
        if i % 64 == 0:
            world.guest.run(world.now)
            world.now += 100_000
        if i % 5000 == 4999:
            peer = Peer(world, 60000 + i // 5000)
            peer.send("S", options=bytes.fromhex("020405b4"))
            peer.expect("SA")
            honest.append(peer)
            world.frames.clear()
        if i % 5000 == 2000 and honest:
            honest[-1].send("A")
            honest[-1].send("PA", get("/bytes/2000"))
            assert honest[-1].read().endswith(bytes(i % 251 for i in range(2000))[-500:])
    before.send("PA", GET)
    assert b"200 OK" in before.read()


def test_a_guessed_cookie_is_reset(world: World) -> None:
    for i in range(80):
        world.give(Segment("S", i, port=1024 + i, peer=world.peer).frame())
    peer = Peer(world)
    peer.send("S")
    cookie = peer.expect("SA")
    peer.send("A", ack=cookie.seq + 2)
    peer.expect_reset()
    peer.world.advance(200)
    peer.send("A", ack=cookie.seq + 1)
    peer.expect_reset()


def test_panic_is_asked_for(start: Callable[..., Guest]) -> None:
    world = World(start(f"{CMDLINE} panic_ms=500"))
    world.advance(0.2)
    assert world.guest.deadline == 500_000_000
