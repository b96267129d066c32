"""The drivers for Xen against a store and a backend of a few lines, honest and not."""

import ctypes
import struct
from collections.abc import Callable, Iterator

import pytest

from unikernel.guest import CMDLINE, build
from unikernel.packets import BROADCAST, PEER_MAC, ping
from unikernel.storehost import Type
from unikernel.xenworld import (
    BACKEND,
    DEVICE,
    ENTRIES,
    HEADER,
    LIBRARY,
    RING,
    XenGuest,
    XenWorld,
    load_xen,
)

Boot = Callable[..., XenWorld]
ECHO = ping(b"hello")


@pytest.fixture(scope="module")
def xen_library() -> ctypes.CDLL:
    build("host")
    return load_xen(LIBRARY)


@pytest.fixture
def boot(xen_library: ctypes.CDLL) -> Iterator[Boot]:
    """Start a guest; it has not run yet."""
    guests: list[XenGuest] = []

    def start(cmdline: str = CMDLINE, values: dict[str, bytes] | None = None) -> XenWorld:
        guests.append(XenGuest(xen_library, cmdline))
        return XenWorld(guests[-1], values)

    yield start
    for guest in guests:
        guest.close()


def answers(world: XenWorld) -> bool:
    world.sent.clear()
    world.give(ECHO)
    world.run()
    return [frame[:6] for frame in world.sent] == [PEER_MAC]


@pytest.mark.parametrize("piece", [RING, 100, 1])
def test_it_comes_up(boot: Boot, piece: int) -> None:
    world = boot()
    world.piece = piece
    world.run(0.2)
    assert [frame[:6] for frame in world.sent] == [BROADCAST]
    assert world.store.values["data/ready"] == b"1"
    assert answers(world)
    written = [path for kind, path, _ in world.store.asked if kind is Type.WRITE]
    device = [path for path in written if path.startswith("device/")]
    assert device[-1] == "device/vif/0/state"  # all else is there when the backend looks
    assert {"device/vif/0/request-rx-copy", "device/vif/0/event-channel"} < set(device)
    assert "is ready at 10.77.0.10" in world.guest.console


def test_nothing_is_said_before_the_backend_has_connected(boot: Boot) -> None:
    world = boot()
    world.connects = False
    while world.turn():
        pass
    ring = world.granted("tx-ring-ref")
    assert (ring.word(0), world.sent) == (0, [])
    assert "data/ready" not in world.store.values
    world.connect()
    world.run(0.1)
    assert [frame[:6] for frame in world.sent] == [BROADCAST]
    assert world.store.values["data/ready"] == b"1"


def test_a_prepared_guest_reads_who_it_is(boot: Boot) -> None:
    line = CMDLINE.removeprefix("ip=").encode()
    world = boot("store", {"ip": line, "handoff": b"www/3"})
    world.run(0.1)
    assert world.store.values["/conduit/www/handoff/3/guest"] == b"prepared"
    assert world.sent == []
    world.store.values |= {"/conduit/www/handoff/3": b"committed", "/conduit/www/tcpv4": b"0"}
    world.fire("/conduit/www/handoff/3", "handoff")
    world.run(0.1)
    assert world.store.values["/conduit/www/handoff/3/guest"] == b"imported"
    assert [frame[:6] for frame in world.sent] == [BROADCAST]


@pytest.mark.parametrize("word", [b"poweroff", b"halt", b"reboot"])
def test_it_ends_when_told_to(boot: Boot, word: bytes) -> None:
    world = boot()
    world.run(0.1)
    world.store.values["control/shutdown"] = word
    world.fire("control/shutdown", "shutdown")
    world.run()
    assert world.store.values["control/shutdown"] == b""
    assert world.guest.status == 0


def test_what_it_cannot_it_leaves_unanswered(boot: Boot) -> None:
    world = boot()
    world.run(0.1)
    world.store.values["control/shutdown"] = b"suspend"
    world.fire("control/shutdown", "shutdown")
    world.run()
    assert world.store.values["control/shutdown"] == b"suspend"
    assert answers(world)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("device/vif/0/backend", None, "no network device (device/vif/0)"),
        ("device/vif/0/backend", bytes(200), "no network device (device/vif/0)"),
        ("device/vif/0/backend-id", b"x", "device/vif/0/backend-id is no domain"),
        ("device/vif/0/backend-id", b"32752", "device/vif/0/backend-id is no domain"),
        ("device/vif/0/mac", b"02:00", "device/vif/0/mac is no address"),
    ],
)
def test_a_device_that_is_none_is_said_to_be(
    boot: Boot, path: str, value: bytes | None, complaint: str
) -> None:
    world = boot()
    world.store.values = {**DEVICE, path: value} if value is not None else dict(DEVICE)
    if value is None:
        del world.store.values[path]
    world.run()
    assert world.guest.status == 1
    assert world.guest.console == f"jitsu: {complaint}\n"


def test_the_rings_wrap(boot: Boot) -> None:
    world = boot()
    world.run(0.2)
    assert all(answers(world) for _ in range(2 * ENTRIES + 1))


@pytest.mark.parametrize(
    ("identifier", "flags", "status"),
    [(128, 0, 60), (0xFFFF, 0, 60), (0, 8, 60)],
    ids=["no buffer of ours", "far from it", "extra information"],
)
def test_an_answer_that_cannot_be_stops_the_device(
    boot: Boot, identifier: int, flags: int, status: int
) -> None:
    world = boot()
    world.run(0.2)
    ring = world.granted("rx-ring-ref")
    slot = HEADER + world.rx_produced % ENTRIES * 8
    ring.write(slot, struct.pack("<HHHh", identifier, 0, flags, status))
    world.rx_produced += 1
    ring.set_word(8, world.rx_produced)
    world.run()
    assert not answers(world)
    assert world.guest.status is None


@pytest.mark.parametrize(
    ("offset", "flags", "status"),
    [(4095, 0, 60), (0xFFFF, 0, 60), (0, 0, 4000), (0, 0, -1), (0, 0, 0), (0, 0, 13), (0, 4, 60)],
)
def test_a_frame_that_cannot_be_is_dropped(
    boot: Boot, offset: int, flags: int, status: int
) -> None:
    world = boot()
    world.run(0.2)
    ring = world.granted("rx-ring-ref")
    for rest in (flags, 0):  # where more is to come, it ends with the second
        slot = HEADER + world.rx_produced % ENTRIES * 8
        identifier = struct.unpack("<H", ring.read(slot, 2))[0]
        ring.write(slot, struct.pack("<HHHh", identifier, offset, rest, status))
        world.rx_produced += 1
        ring.set_word(8, world.rx_produced)
    world.run()
    assert answers(world)


@pytest.mark.parametrize(("key", "index"), [("rx-ring-ref", 8), ("tx-ring-ref", 8)])
def test_an_index_that_cannot_be_stops_the_device(boot: Boot, key: str, index: int) -> None:
    world = boot()
    world.run(0.2)
    world.granted(key).set_word(index, 0x7FFFFFFF)
    world.run()
    world.store.values["control/shutdown"] = b"poweroff"
    world.fire("control/shutdown", "shutdown")
    world.run()
    assert world.guest.status == 0  # the store it still has


@pytest.mark.parametrize("index", [2 * RING, 2 * RING + 12])
def test_a_forged_index_of_the_store_leaves_the_network(boot: Boot, index: int) -> None:
    world = boot()
    world.run(0.2)
    world.guest.ring.set_word(index, 0x7FFFFFFF)
    world.guest.run(world.now)
    world.sent.clear()
    world.give(ECHO)
    world.guest.run(world.now)
    assert world.take_frames()


def test_a_backend_that_goes_stops_the_device(boot: Boot) -> None:
    world = boot()
    world.run(0.2)
    world.store.values[f"{BACKEND}/state"] = b"6"
    world.fire(f"{BACKEND}/state", "state")
    world.run()
    assert not answers(world)


@pytest.mark.parametrize("seed", [1, 21])
def test_rubbish_under_sanitizers(seed: int, sanitized: Callable[..., None]) -> None:
    sanitized("unikernel.fuzz_xen", seed, 200, "libjitsuxen-sanitized.so")
