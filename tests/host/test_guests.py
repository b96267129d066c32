"""What a guest finds of itself in the store."""

import asyncio
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest
import structlog

from jitsu.core.xenstore import tree
from jitsu.core.xenstore.path import home_of, names
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.space import Space
from jitsu.host.guests import Guests
from jitsu.host.xenstored import Xenstored
from jitsu.model import Epoch, NetworkConfig, Service
from jitsu.testing.network import SimulatedLink, SimulatedNetwork
from jitsu.testing.world import SUBNET, service

NETWORK = NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[-2])
NETWORK6 = replace(NETWORK, subnet6=IPv6Network("fd77::/64"), gateway6=IPv6Address("fd77::1"))
WWW = service(0, address6=IPv6Address("fd77::10"))


def home(network: NetworkConfig, guest: Service) -> dict[bytes, bytes]:
    """Return what is there for a guest that has just come, and see it go with the guest."""
    found: dict[bytes, bytes] = {}

    def look(space: Space) -> None:
        node = tree.find(space.root, names(home_of(1)))
        found.update({name: child.value for name, child in node.children.items()} if node else {})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        xenstored = Xenstored(Server(), None, structlog.get_logger(), loop.time)
        guests = Guests(xenstored, network)
        link = SimulatedLink(SimulatedNetwork(Random(1), (guest,)), guest)
        presence = guests.enter(guest, Epoch(1), link, lambda _: None)
        xenstored.edit(look)
        here = dict(found)
        presence.leave()
        found.clear()
        xenstored.edit(look)
        assert not found
        found.update(here)

    asyncio.run(main())
    return found


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
