"""What a launcher leaves is seen through."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from host.kernel import marks
from jitsu.bench.demo import CLIENT
from jitsu.core.xenstore.guest_end import GuestEnd
from jitsu.core.xenstore.link import Received, Send, StoreLink
from jitsu.host.heir import Heir
from jitsu.host.netns import CLIENT_PORT, UPLINK, two_hosts
from jitsu.wire.ethernet import EtherType
from jitsu.wire.storelink import decode

pytestmark = marks()
PATIENCE = 5.0
NUMBER = 0x1234_5678
GROUP = bytes.fromhex("0180c200000e")


@dataclass
class Host:
    """The host's end, which has heard the guest once, and hears only so much of what comes."""

    wire: socket.socket
    deaf: int = 0
    """What comes so often is lost, or its answer is."""
    mute: int = 0
    link: StoreLink = field(default_factory=StoreLink)
    said: list[bytes] = field(default_factory=list)
    now: float = 0.0

    def hear(self) -> None:
        payload = self.wire.recv(2000)
        if self.deaf:
            self.deaf -= 1
            return
        for answer in self.answers(payload):
            if self.mute:
                self.mute -= 1
            else:
                self.wire.sendto(answer, (UPLINK, EtherType.STORE_LINK, 0, 0, GROUP))

    def answers(self, payload: bytes) -> list[bytes]:
        """Say yes to all that is said."""
        self.now += 1.0  # between two frames all that is due comes due
        effects = self.link.handle(payload, self.now)
        said = [effect.data for effect in effects if isinstance(effect, Received)]
        self.said += said
        effects += [more for _ in said for more in self.link.send(b"yes", self.now)]
        effects += [] if said else self.link.tick(self.now)
        return [effect.payload for effect in effects if isinstance(effect, Send)]


@pytest.fixture
def wires() -> Iterator[tuple[socket.socket, socket.socket]]:
    with ExitStack() as stack:
        hosts = stack.enter_context(two_hosts(CLIENT))
        ends = []
        for place, name in ((hosts.host, UPLINK), (hosts.client, CLIENT_PORT)):
            with hosts.at(place):
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
                stack.enter_context(wire).bind((name, EtherType.STORE_LINK))
                ends.append(wire)
        yield ends[0], ends[1]


def met(host: Host) -> GuestEnd:
    """Return a guest's end that has said something and heard the answer."""
    guest = GuestEnd(draw=lambda: NUMBER)
    (said,) = guest.send(b"prepared", 0.0)
    (answer,) = host.answers(said)
    (acknowledged,) = guest.handle(answer, 0.0)
    assert host.answers(acknowledged) == []
    host.said.clear()
    return guest


async def inherited(host: Host, wire: socket.socket, left: bytes) -> None:
    """Return when an heir has closed the wire."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(theirs, [left], [wire.fileno()])
    gone = asyncio.Event()
    loop.add_reader(host.wire, host.hear)
    try:
        heir = Heir(ours, CLIENT_PORT, lambda _: gone.set())
        await asyncio.wait_for(gone.wait(), PATIENCE)
    finally:
        loop.remove_reader(host.wire)
    assert "None" in repr(heir)
    assert ours.fileno() == -1


@pytest.mark.parametrize(("deaf", "mute"), [(0, 0), (1, 0), (0, 1), (2, 2)])
def test_the_last_word_is_heard_once(
    wires: tuple[socket.socket, socket.socket], deaf: int, mute: int
) -> None:
    host = Host(wires[0], deaf, mute)
    segment = decode(met(host).send(b"imported", 0.0)[0])  # which is lost
    left = struct.pack("=IIIH", NUMBER, segment.sequence, segment.acknowledged, 8) + b"imported"
    asyncio.run(inherited(host, wires[1], left))
    assert (host.said, host.deaf, host.mute) == ([b"imported"], 0, 0)


def test_who_has_said_nothing_is_only_closed(wires: tuple[socket.socket, socket.socket]) -> None:
    host = Host(wires[0])
    asyncio.run(inherited(host, wires[1], bytes(14)))
    assert host.said == []


def test_a_launcher_that_was_killed_leaves_nothing(
    wires: tuple[socket.socket, socket.socket],
) -> None:
    async def inherit() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gone = asyncio.Event()
        heir = Heir(ours, CLIENT_PORT, lambda _: gone.set())
        theirs.close()
        await asyncio.wait_for(gone.wait(), PATIENCE)
        assert "None" in repr(heir)

    asyncio.run(inherit())


def test_it_ends_with_the_daemon(wires: tuple[socket.socket, socket.socket]) -> None:
    """The host says nothing, and the heir still asks."""

    async def inherit() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gone = asyncio.Event()
        heir = Heir(ours, CLIENT_PORT, lambda _: gone.set())
        with theirs:
            socket.send_fds(
                theirs, [struct.pack("=IIIH", 1, 2, 3, 4) + b"word"], [wires[1].fileno()]
            )
        loop, said = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(wires[0], said.set)
        await asyncio.wait_for(said.wait(), PATIENCE)
        loop.remove_reader(wires[0])
        assert not gone.is_set()
        heir.end()
        assert gone.is_set()

    asyncio.run(inherit())
