"""A network of Jitsu's in dom0, a backend on it, and what is left there of guests."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

import pytest
import structlog

from jitsu import config, store
from jitsu.backends.xen import XenBackend
from jitsu.host.bridge import bridge
from jitsu.host.link import KernelNetwork, kernel_network
from jitsu.host.xen.guests import XenGuests
from jitsu.host.xen.libxc import Xen
from jitsu.host.xen.store import DOM0_SOCKET, Connect
from jitsu.model import (
    Config,
    DirectoryConfig,
    HostConfig,
    Name,
    NetworkConfig,
    Service,
    mac_of,
)

SUBNET = IPv4Network("10.77.0.0/24")
NETWORK = NetworkConfig("jtest0", SUBNET, None, SUBNET[1], SUBNET[-2])
IMAGE = Path(config.__file__).parent.parent / "images" / "xen" / "hello.elf"
DOM0: Connect = partial(store.connect, DOM0_SOCKET)
PATIENCE = 60.0
"""Seconds: the lab is an emulated machine on a busy one."""


def service(name: str = "www", number: int = 10) -> Service:
    """Return a service of Jitsu's own guest."""
    mac = mac_of(name)
    return Service(Name(name), (), str(IMAGE), SUBNET[number], mac, backend="xen")


def left() -> list[str]:
    """Return what is there of domains: those of Xen, nodes of the store, interfaces."""
    there = [str(domid) for domid in domains() if domid]
    nodes = _said("xenstore-ls", "-f", "/local/domain").splitlines()
    # What dom0 has at its home, and what xl asks for its own ends, are nobody's leftovers.
    theirs = [n for n in nodes if not n.startswith("/local/domain/0/") or "/backend/" in n]
    theirs = [n for n in theirs if n.split(" ")[0] not in ("/local/domain", "/local/domain/0")]
    conduits = _said("xenstore-ls", "-f", "/conduit").splitlines()
    links = [
        n for n in _said("ip", "-br", "link").splitlines() if n.startswith(("vif", "jtest0-g"))
    ]
    return [*there, *theirs, *conduits, *links]


def ports(name: str) -> set[str]:
    """Return the ports of a bridge."""
    return {port.name for port in Path(f"/sys/class/net/{name}/brif").iterdir()}


def loops() -> list[str]:
    """Return the files that are block devices."""
    return [p.read_text() for p in Path("/sys/block").glob("loop*/loop/backing_file")]


def domains() -> list[int]:
    """Return the numbers of all domains."""
    xen = Xen()
    try:
        return [info.domid for info in xen.domains()]
    finally:
        xen.close()


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextmanager
def network(*services: Service) -> Iterator[KernelNetwork]:
    """Have a bridge for services."""
    with (
        bridge(NETWORK) as up,
        kernel_network(up, NETWORK.probe, services, pytest.fail) as made,
    ):
        yield made


@asynccontextmanager
async def backend(
    run: Path, *services: Service, connect: Connect = DOM0
) -> AsyncIterator[tuple[XenBackend, XenGuests]]:
    """Have a backend that is open."""
    host = HostConfig(1 << 30, str(run), str(run))
    given = Config(DirectoryConfig((), ()), NETWORK, host, services)
    made = XenBackend(Xen(), given, structlog.get_logger())
    guests = await made.open(connect)
    try:
        yield made, guests
    finally:
        await made.close()


class Detour:
    """A socket that leads to dom0's store, and can be closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Lead there."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        """Lead nowhere; who is on the way is cut off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        while self._writers:
            self._writers.pop().close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(DOM0_SOCKET)
        self._writers += [writer, far_writer]
        back = asyncio.create_task(_pump(far_reader, writer))
        await _pump(reader, far_writer)
        await back


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()
