"""QEMU passes the contract that the fake passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from e2e.conftest import guests
from jitsu.backends import qemu
from jitsu.backends.qemu_accel import hello_image
from jitsu.bench.demo import CLIENT
from jitsu.host.bridge import bridge
from jitsu.host.link import kernel_network
from jitsu.host.netns import two_hosts
from jitsu.host.process import Leftovers
from jitsu.model import Name, NetworkConfig, Service, StopMode, mac_of
from jitsu.testing.backend_contract import (
    Case,
    Fate,
    Make,
    check_cannot_start,
    check_death,
    check_life,
    check_pause,
    check_prepare,
    check_stop_twice,
    check_stop_while_booting,
)

SUBNET = IPv4Network("10.77.0.0/24")
NETWORK = NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[-2])


def test_qemu_passes_the_contract(tmp_path: Path) -> None:
    with ExitStack() as stack:
        hosts = stack.enter_context(two_hosts(CLIENT))
        stack.enter_context(hosts.at(hosts.host))

        name = Name("www")
        plain = Service(name, (), str(hello_image()), SUBNET[10], mac_of(name))
        up = stack.enter_context(bridge(NETWORK))
        network = stack.enter_context(kernel_network(up, NETWORK.probe, (plain,), pytest.fail))
        leftovers = Leftovers(tmp_path / "guests", pytest.fail)

        @asynccontextmanager
        async def make(fate: Fate) -> AsyncIterator[Case]:
            service = plain
            if fate is Fate.DIES:
                service = replace(service, cmdline="panic_ms=1")
            if fate is Fate.CANNOT_START:
                service = replace(service, image=str(tmp_path / "nothing.elf"))
            backend = qemu.QemuBackend(qemu.find(), NETWORK, leftovers)
            yield Case(backend, network, service, partial(guests, hosts.host))

        asyncio.run(_stories(make))


async def _stories(make: Make) -> None:
    """All of the contract but a life that ends by SHUTDOWN: this guest has no power button."""
    await check_life(make, StopMode.DESTROY)
    await check_stop_twice(make)
    await check_stop_while_booting(make)
    await check_death(make)
    await check_cannot_start(make)
    await check_pause(make)
    await check_prepare(make)
