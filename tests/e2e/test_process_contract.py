"""Programs pass the contract that the fake passes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.test_process import public, running, written
from e2e.test_qemu_contract import NETWORK, SUBNET
from jitsu.backends.process import ProcessBackend
from jitsu.bench.demo import CLIENT
from jitsu.host.bridge import bridge
from jitsu.host.link import kernel_network
from jitsu.host.netns import two_hosts
from jitsu.model import Handoff, Name, Service, mac_of
from jitsu.testing.backend_contract import Case, Fate, check_backend

__all__ = ["public"]

SERVE = "trap 'exit 0' TERM; while :; do ping -c1 -W1 {} >/dev/null; sleep 0.1; done"


def test_a_program_passes_the_contract(public: Path) -> None:
    server = written(public, SERVE.format(SUBNET[9]))
    with ExitStack() as stack:
        hosts = stack.enter_context(two_hosts(CLIENT))
        stack.enter_context(hosts.at(hosts.host))
        name = Name("www")
        mac = mac_of(name)
        plain = Service(name, (), str(server), SUBNET[10], mac, backend="process")
        plain = replace(plain, handoff=Handoff.REPLAY)
        up = stack.enter_context(bridge(NETWORK))
        network = stack.enter_context(kernel_network(up, NETWORK.probe, (plain,), pytest.fail))

        def left() -> list[object]:
            links = [name for _, name in socket.if_nameindex() if name.startswith("jitsu0-g")]
            return [*links, *running(str(server).encode())]

        @asynccontextmanager
        async def make(fate: Fate) -> AsyncIterator[Case]:
            service = plain
            if fate is Fate.DIES:
                service = replace(service, image="/bin/false")
            if fate is Fate.CANNOT_START:
                service = replace(service, image=str(public / "nothing"))
            backend = ProcessBackend()
            yield Case(backend, network, service, left)
            backend.close()

        asyncio.run(check_backend(make))
