"""The true daemon in a simulated world: network, clock and hypervisor are simulated, it is not.

One seed gives one world, and one run of it: who asks for what and when, how long boots take,
which guests fail. What must hold in every world is checked while it runs and at its end.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import dns.message
import structlog

from jitsu.backends.fake import FakeBackend, Script
from jitsu.core import directory
from jitsu.core.xenstore.server import Server as StoreServer
from jitsu.daemon import Ambient, Daemon
from jitsu.host.guests import LinkedGuests
from jitsu.host.network import GuestLink
from jitsu.host.saved import Saved
from jitsu.host.xenstored import Xenstored
from jitsu.model import (
    Answer,
    Config,
    DirectoryConfig,
    Endpoint,
    Handoff,
    HostConfig,
    Mac,
    Name,
    NetworkConfig,
    ReadyOnFrame,
    ReadyOnTcp,
    Service,
    State,
    StopMode,
    Terms,
    mac_of,
)
from jitsu.testing.importer import Importer
from jitsu.testing.network import SimulatedLink, SimulatedNetwork
from jitsu.testing.peer import PORT, Client, Server

SUBNET = IPv4Network("10.77.0.0/24")
MEMORY = 16 << 20
TERMS = Terms(connections=64, window=8192, window_scale=0)


@dataclass(slots=True)
class World:
    """A daemon, its network and its clients."""

    chance: Random
    config: Config
    network: SimulatedNetwork = field(init=False)
    backend: FakeBackend = field(init=False)
    xenstored: Xenstored = field(init=False)
    daemon: Daemon = field(init=False)
    scripts: dict[Name, list[Script]] = field(default_factory=dict)
    """How the next boots of each service go; when there is none left, well."""
    replies: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    crashes: list[tuple[Name, float]] = field(default_factory=list)
    folder: Path = field(init=False)
    """Of what the host keeps."""
    _servers: dict[SimulatedLink, Server] = field(default_factory=dict)
    _saved: list[Server | None] = field(default_factory=list)
    _clients: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.network = SimulatedNetwork(self.chance, self.config.services)
        self.backend = FakeBackend(self._script, self)
        loop = asyncio.get_running_loop()
        secret = self.chance.randbytes(16)
        silent = structlog.wrap_logger(
            structlog.PrintLogger(), wrapper_class=structlog.make_filtering_bound_logger("critical")
        )
        self.folder = Path(mkdtemp(prefix="jitsu-world-"))
        saved = Saved(self.folder)
        saved.clear()
        ambient = Ambient(loop.time, secret, serial=1, saved=saved)
        backends = {"fake": self.backend}
        self.xenstored = Xenstored(StoreServer(), None, silent, loop.time)
        guests = dict.fromkeys(backends, LinkedGuests(self.xenstored, self.config.network))
        self.daemon = Daemon(self.config, self.network, backends, guests, silent, ambient)
        self.network.to_synjitsu = self.daemon.frame

    # The world as the daemon sees it.

    def respond(self, client: directory.Client, data: bytes) -> None:
        """Take an answer of the directory."""
        assert isinstance(client.token, int)
        future = self.replies.pop(client.token)
        if not future.done():
            future.set_result(data)

    def forward(self, effect: directory.Forward) -> None:
        """Refuse: this world has no other resolvers."""
        self.daemon.asked(directory.Forwarded(effect.ident, None))

    def boot(self, service: Service, link: GuestLink, listens_after: float) -> None:
        """Play a guest that has come up."""
        assert isinstance(link, SimulatedLink)
        server = Server(service.mac, service.address, link.guest_sends, page_of(service))
        self._plug(server, link)
        if listens_after:
            server.listens = False
            asyncio.get_running_loop().call_later(listens_after, _listen, server)
        if service.handoff is Handoff.IMPORT:
            self._tasks.add(asyncio.create_task(self._import(service, link, server, listens_after)))
        else:
            server.announce()

    def _plug(self, server: Server, link: SimulatedLink) -> None:
        server.transmit = link.guest_sends
        link.to_guest = server.receive
        link.flows = lambda: len(server.flows)
        self._servers[link] = server

    def pause(self, link: GuestLink) -> None:
        """Play a guest that is paused."""
        assert isinstance(link, SimulatedLink)
        link.pause()

    def resume(self, link: GuestLink) -> None:
        """Play a guest that runs on."""
        assert isinstance(link, SimulatedLink)
        link.resume()

    def save(self, link: GuestLink) -> str:
        """Play a guest that is saved."""
        assert isinstance(link, SimulatedLink)
        self._saved.append(self._servers.get(link))
        return str(len(self._saved) - 1)

    def restore(self, service: Service, link: GuestLink, saved: str) -> bool:
        """Play a guest that is restored, if that is what was saved."""
        assert isinstance(link, SimulatedLink)
        server = self._saved[int(saved)] if saved.isdecimal() else None
        if server is None or server.mac != service.mac:
            return False
        self._plug(server, link)
        return True

    async def _import(
        self, service: Service, link: SimulatedLink, server: Server, after: float
    ) -> None:
        """Play a guest that takes over the connections that were opened for it."""
        await asyncio.sleep(after + 0.0001)
        if link not in self.network.links:
            return

        def pause() -> float:
            return 0.0005 * self.chance.random()

        def lives() -> bool:
            return link in self.network.links

        await Importer(self.xenstored, service, server.adopt, lives, pause).run()
        server.announce()

    def _script(self, service: Service) -> Script:
        scripts = self.scripts.get(service.name)
        if scripts:
            return scripts.pop(0)
        boots_after, stops_after = 0.005 + 0.03 * self.chance.random(), 0.05 * self.chance.random()
        return Script(boots_after=boots_after, stops_after=stops_after)

    # The world as clients see it.

    def client(self) -> Client:
        """Return a client that nobody has seen before."""
        self._clients += 1
        address = SUBNET[100 + self._clients % 100]
        mac = Mac(b"\x06" + self._clients.to_bytes(5))
        client = Client(mac, address, lambda data: self.network.forward(data, mac))
        self.network.clients[mac] = client.receive
        return client

    async def query(self, name: str) -> dns.message.Message:
        """Ask the directory for an address, and wait for the answer."""
        self._clients += 1
        token = self._clients
        question = dns.message.make_query(name, "A", id=token & 0xFFFF)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.replies[token] = future
        who = directory.Client(SUBNET[50], 5353, "udp", token)
        self.daemon.asked(directory.Query(question.to_wire(), who))
        return dns.message.from_wire(await future)

    def state(self, service: Service) -> State:
        """Return where in its life a service is."""
        return self.daemon.state(service.name)

    async def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Run the daemon while `story` happens; then check that everything is given back."""
        started = asyncio.Event()
        serving = asyncio.create_task(self.daemon.run(self, started.set))
        await started.wait()
        try:
            await story
        finally:
            self.daemon.close()
            await serving
            for task in self._tasks:
                await task
            files = [path.name for path in self.folder.rglob("*") if path.is_file()]
            rmtree(self.folder)
        assert not files, "a suspended guest is left"
        self.check_returned()

    def check_returned(self) -> None:
        """Check that the daemon, which has ended, holds nothing."""
        assert not self.backend.running, "a guest still runs"
        assert not self.backend.there, "a prepared guest is left"
        assert self.backend.memory_most <= self.config.host.memory, "more memory than there is"
        assert not self.network.links, "an interface is left"
        assert all(owner is None for owner in self.network.owners.values()), "an entry is left"
        assert self.daemon.memory_free == self.config.host.memory, "memory is still claimed"
        assert not self.xenstored.domains(), "a guest is still in the store"


def page_of(service: Service) -> bytes:
    """Return the page that a service's guests serve."""
    return f"HTTP/1.1 200 OK\r\n\r\nThis is {service.name}.\n".encode()


def service(number: int, **changes: object) -> Service:
    """Return a service of this world."""
    name = Name(f"s{number}")
    values: dict[str, object] = {
        "name": name,
        "dns": (f"{name}.jitsu.test",),
        "image": "fake",
        "address": SUBNET[10 + number],
        "mac": mac_of(name),
        "backend": "fake",
        "memory": MEMORY,
    }
    return Service(**(values | changes))  # type: ignore[arg-type]


def config(services: tuple[Service, ...], memory: int = 1 << 30) -> Config:
    """Return a configuration for `services`."""
    return Config(
        DirectoryConfig((Endpoint(SUBNET[1], 53),), (SUBNET,)),
        NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[-2]),
        HostConfig(memory, "/nowhere", "/nowhere"),
        services,
    )


def random_services(chance: Random) -> tuple[Service, ...]:
    """Return a few services of any kind."""
    return tuple(
        service(
            i,
            idle_after=chance.choice([0.05, 0.2, 1.0]),
            answer=chance.choice(list(Answer)),
            ready=chance.choice([ReadyOnFrame(), ReadyOnTcp(PORT)]),
            boot_timeout=0.5,
            stop=chance.choice(list(StopMode)),
            warm=chance.choice([0, 0, 1, 2]),
            **({"handoff": Handoff.IMPORT, "terms": TERMS} if chance.random() < 0.5 else {}),
        )
        for i in range(chance.randint(1, 4))
    )


def _listen(server: Server) -> None:
    server.listens = True
