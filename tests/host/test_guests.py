"""What a guest finds of itself in the store."""

import asyncio
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest
import structlog

from jitsu.core.flows import Flow
from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.path import home_of, names
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.space import Space
from jitsu.host.guests import LinkedGuests
from jitsu.host.xenstored import Xenstored
from jitsu.model import Epoch, Mac, NetworkConfig, ReadyOnKey, Service
from jitsu.testing.importer import StoreSpeaker
from jitsu.testing.network import SimulatedLink, SimulatedNetwork
from jitsu.testing.world import SUBNET, service
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.xenstore import Op

NETWORK = NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[-2])
NETWORK6 = replace(NETWORK, subnet6=IPv6Network("fd77::/64"), gateway6=IPv6Address("fd77::1"))
WWW = service(0, address6=IPv6Address("fd77::10"))


FLOW = Flow(
    Tcb(
        state=TcbState.ESTABLISHED,
        local=SUBNET[10],
        port=80,
        peer=SUBNET[100],
        peer_port=40000,
        peer_mac=Mac(b"\2client"[:6]),
        iss=1,
        snd_una=2,
        snd_nxt=2,
        snd_wnd=1000,
        irs=5,
        rcv_nxt=9,
        rcv_wnd=1000,
        mss=1460,
        snd_wscale=0,
        rcv_wscale=0,
        sack=False,
        ts=False,
        ts_val=0,
        ts_recent=0,
        rx=3,
    ),
    b"GET",
)


class Heard:
    """Keeps what a guest says."""

    def __init__(self) -> None:
        self.words: list[bytes] = []
        self.readies = 0

    def wrote(self, word: bytes) -> None:
        self.words.append(word)

    def ready(self) -> None:
        self.readies += 1


def home(network: NetworkConfig, guest: Service) -> dict[bytes, bytes]:
    """Return what is there for a guest that has just come, and see it go with the guest."""
    found: dict[bytes, bytes] = {}

    def look(space: Space) -> None:
        node = tree.find(space.root, names(home_of(1)))
        found.update({name: child.value for name, child in node.children.items()} if node else {})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        xenstored = Xenstored(Server(), None, structlog.get_logger(), loop.time)
        guests = LinkedGuests(xenstored, network)
        link = SimulatedLink(SimulatedNetwork(Random(1), (guest,)), guest)
        presence = guests.enter(guest, Epoch(1), link, Heard())
        xenstored.edit(look)
        here = dict(found)
        presence.leave()
        found.clear()
        xenstored.edit(look)
        assert not found
        found.update(here)

    asyncio.run(main())
    return found


def keyed(path: str, *written: tuple[int, bytes]) -> list[int]:
    """Return how often each of two guests' readiness is told, when clients have written nodes.

    The first write is there before the guests come.
    """
    heard = [Heard(), Heard()]
    guest = service(0, ready=ReadyOnKey(path))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        xenstored = Xenstored(Server(), None, structlog.get_logger(), loop.time)
        guests = LinkedGuests(xenstored, NETWORK)
        link = SimulatedLink(SimulatedNetwork(Random(1), (guest,)), guest)
        first, *others = written
        write(xenstored, *first)
        here = [guests.enter(guest, Epoch(1), link, each) for each in heard]
        for each in others:
            write(xenstored, *each)
        await asyncio.sleep(0)
        for presence in here:
            presence.leave()
        write(xenstored, 0, b"/too/late")

    asyncio.run(main())
    return [each.readies for each in heard]


def write(xenstored: Xenstored, domid: int, path: bytes) -> None:
    speaker = StoreSpeaker(xenstored, Actor(domid))
    speaker.ask(Op.WRITE, path, b"1")
    speaker.close()


@pytest.mark.parametrize(
    ("path", "written", "told"),
    [
        ("data/ready", [(0, b"/x"), (1, b"data/ready"), (1, b"data/ready")], [1, 0]),
        ("data/ready", [(0, b"/x"), (1, b"data/not"), (2, b"data/ready/too")], [0, 1]),
        ("data/ready", [(0, b"/x"), (2, b"/local/domain/1/data/ready")], [0, 0]),
        ("/tool/up", [(0, b"/tool/up")], [1, 1]),
        ("/tool/up", [(0, b"/x"), (1, b"/tool/up")], [0, 0]),
        ("/tool/up", [(0, b"/x"), (0, b"/tool/up")], [1, 1]),
        ("/too/late", [(0, b"/x")], [0, 0]),
    ],
)
def test_a_node_that_says_that_a_guest_is_ready(
    path: str, written: list[tuple[int, bytes]], told: list[int]
) -> None:
    assert keyed(path, *written) == told


@pytest.mark.parametrize(
    ("network", "guest", "ip6"),
    [
        (NETWORK, service(0), None),
        (NETWORK6, service(0), None),
        (NETWORK6, WWW, b"fd77::10/64,fd77::1"),
        (replace(NETWORK6, subnet6=IPv6Network("fd77::/112")), WWW, b"fd77::10/112,fd77::1"),
    ],
)
def test_who_it_is(network: NetworkConfig, guest: Service, ip6: bytes | None) -> None:
    there = home(network, guest)
    assert there.pop(b"ip6", None) == ip6
    assert there == {
        b"name": b"s0",
        b"domid": b"1",
        b"ip": b"10.77.0.10::10.77.0.1:255.255.255.0:s0::off",
        b"data": b"",
    }


HOSTILE = [
    (Op.WRITE, b"/conduit/s0/epoch"),
    (Op.WRITE, b"/conduit/s0/handoff/7"),
    (Op.WRITE, b"/conduit/s0/handoff/8"),
    (Op.MKDIR, b"/conduit/s0/handoff/8/guest"),
    (Op.WRITE, b"/conduit/s0/tcpv4"),
    (Op.WRITE, b"/conduit/s0/tcpv4/0"),
    (Op.WRITE, b"/conduit/s0/tcpv4/0/rx/0"),
    (Op.RM, b"/conduit/s0/tcpv4"),
    (Op.RM, b"/conduit/s0/handoff/7"),
    (Op.RM, b"/conduit/s0"),
    (Op.WRITE, b"/conduit/s0"),
    (Op.SET_PERMS, b"/conduit/s0/handoff/7"),
    (Op.WRITE, b"/local/domain/1/ip"),
]
"""What no guest may do, with a service of its own or another's."""
SECRET = [
    b"/conduit/s0/handoff/7",
    b"/conduit/s0/handoff/7/guest",
    b"/conduit/s0/tcpv4/0",
    b"/conduit/s0/tcpv4/0/rx/0",
    b"/local/domain/1/ip",
]
"""What only the guest of that boot may read."""


def test_a_hostile_guest_cannot_forge_a_hand_over() -> None:
    """Neither of its own service, nor of another's, nor of its next boot."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        xenstored = Xenstored(Server(), None, structlog.get_logger(), loop.time)
        guests = LinkedGuests(xenstored, NETWORK)
        its, others = service(0), service(1)
        network = SimulatedNetwork(Random(1), (its, others))
        heard = Heard()
        own = guests.enter(its, Epoch(7), SimulatedLink(network, its), heard)
        guests.enter(others, Epoch(3), SimulatedLink(network, others), Heard())
        guests.commit(its.name, Epoch(7), [FLOW])
        one, other = (StoreSpeaker(xenstored, Actor(domid)) for domid in (1, 2))
        for op, path in HOSTILE:
            for guest, domid in ((one, 1), (other, 2)):
                value = b"n%d\0" % domid if op == Op.SET_PERMS else b"committed"
                assert guest.ask(op, path, b"" if op in (Op.RM, Op.MKDIR) else value) is None, path
        for path in SECRET:
            assert one.ask(Op.READ, path) is not None, path
            assert other.ask(Op.READ, path) is None, path
        assert other.ask(Op.WRITE, b"/conduit/s0/handoff/7/guest", b"prepared") is None
        assert heard.words == []
        assert one.ask(Op.WRITE, b"/conduit/s0/handoff/7/guest", b"prepared") is not None
        assert heard.words == [b"prepared"]
        own.leave()
        again = guests.enter(its, Epoch(8), SimulatedLink(network, its), heard)
        for op, path in ((Op.READ, b"8"), (Op.READ, b"8/guest"), (Op.WRITE, b"8/guest")):
            assert one.ask(op, b"/conduit/s0/handoff/" + path, b"prepared") is None, "it is over"
        assert again.domid == 3
        assert heard.words == [b"prepared"]

    asyncio.run(main())
