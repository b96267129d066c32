"""A simulated bridge: the contract of `jitsu.host.network`, in memory and in simulated time.

Frames take time, and stay in order between any two ports. The forwarding table is sticky, as the
real one is: what a port sends never moves an entry. Moving an entry takes time too, and frames
that were sent before it has moved go to the earlier owner.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from jitsu.core.segment import Ends
from jitsu.core.splice import Numbers
from jitsu.core.summon import Traffic
from jitsu.errors import HostError
from jitsu.host.network import FrameHandler, GuestLink
from jitsu.model import Mac, Service
from jitsu.wire.ethernet import BROADCAST

Deliver = Callable[[bytes], None]
HOP = 0.00005
"""Seconds that a frame takes from port to port."""
NOTICE = 0.03
"""Seconds from the end of a guest's port until that of its process is noticed: at most, and half
of it at least."""


class SilentPort:
    """The store link of a guest that does not use it."""

    def send(self, frame: bytes) -> None:
        """Lose the frame."""

    def close(self) -> None:
        """Nothing to close."""


class SimulatedLink:
    """One guest's interface."""

    def __init__(self, network: "SimulatedNetwork", service: Service) -> None:
        self.service = service
        self.fd = -1
        self.index = 0
        self.requests = (b"", b"")
        self.to_guest: Deliver | None = None
        self.last = 0.0
        self.flows: Callable[[], int] = lambda: 0
        self._network = network
        self._on_frame: FrameHandler | None = None
        self.joined = False
        self.swept = 0
        self.waiting: list[bytes] | None = None
        """Frames for a guest that is paused; None while it runs."""

    def __repr__(self) -> str:
        """Return whose it is."""
        return f"<SimulatedLink {self.service.name}>"

    def release(self) -> None:
        """Nothing to close."""

    def hear(self, on_frame: FrameHandler) -> None:
        """Listen to the guest."""
        self._on_frame = on_frame

    async def join(self, on_frame: FrameHandler) -> None:
        """Become a port of the bridge, after a while."""
        await self._network.pause()
        if self not in self._network.links:
            raise HostError("the guest has gone")
        self.hear(on_frame)
        self.joined = True

    def send(self, frame: bytes) -> None:
        """Send to the guest alone."""
        self._network.later(self, self.deliver, frame)

    def attend(self, on_payload: FrameHandler) -> SilentPort:
        """Hear nothing."""
        return SilentPort()

    def shift(self, ends: Ends, numbers: Numbers | None) -> None:
        """Refuse: nobody here translates."""
        raise HostError("a simulated link does not splice")

    def unshift(self, ends: Ends) -> None:
        """There is nothing to leave."""

    async def sweep(self) -> None:
        """Count how often that is asked."""
        self.swept += 1

    def deafen(self) -> None:
        """Copy no more frames."""
        self._on_frame = None

    async def close(self) -> None:
        """Leave the bridge; entries that point here go with the port, as the kernel's do.

        That is so before anybody knows that the guest has gone.
        """
        self.unplug()
        await self._network.notice()

    def ask_orphans(self) -> None:
        """Clients here give up by themselves."""

    def unplug(self) -> None:
        """The guest has died: its port is gone at once."""
        self._network.links.discard(self)
        for mac in [mac for mac, owner in self._network.owners.items() if owner is self]:
            del self._network.owners[mac]

    def deliver(self, frame: bytes) -> None:
        """Give a frame to the guest, if it is there."""
        if self.waiting is not None:
            self.waiting.append(frame)
        elif self in self._network.links and self.to_guest is not None:
            self.last = asyncio.get_running_loop().time()
            self.to_guest(frame)

    def pause(self) -> None:
        """The guest takes nothing: frames wait in its queue."""
        self.waiting = []

    def resume(self) -> None:
        """The guest takes what has waited, and what comes."""
        waiting, self.waiting = self.waiting or [], None
        for frame in waiting:
            self.deliver(frame)

    def guest_sends(self, frame: bytes) -> None:
        """Take a frame of the guest."""
        assert self.waiting is None, "a guest that is paused sends nothing"
        if self.joined and self in self._network.links:
            self.last = asyncio.get_running_loop().time()
            if self._on_frame is not None:
                self._on_frame(frame)
            self._network.forward(frame, self)


class SimulatedNetwork:
    """A bridge with Synjitsu's port, guests' links, and clients."""

    def __init__(self, chance: Random, services: tuple[Service, ...]) -> None:
        self.links: set[SimulatedLink] = set()
        self.owners: dict[Mac, SimulatedLink | None] = {service.mac: None for service in services}
        self.clients: dict[Mac, Deliver] = {}
        self.to_synjitsu: Deliver = lambda _: None
        self._chance = chance
        self._busy_until: dict[object, float] = {}

    def send(self, frame: bytes) -> None:
        """Send from Synjitsu's port."""
        self.forward(frame, None)

    async def open(self, service: Service, made: str = "", *, ahead: bool = False) -> GuestLink:
        """Make a link."""
        await self.pause()
        link = SimulatedLink(self, service)
        self.links.add(link)
        return link

    async def own(self, service: Service, link: GuestLink | None) -> None:
        """Move an entry."""
        await self.pause()
        assert link is None or isinstance(link, SimulatedLink)
        if link is not None and link not in self.links:
            raise HostError("no such port")
        self.owners[service.mac] = link

    def remember(self, local: bytes, port: int, peer: bytes, peer_port: int) -> None:
        """Nobody is killed here."""

    async def track(self, service: Service, opened: Sequence[Ends], ended: Sequence[Ends]) -> None:
        """Take as long as it takes: a guest's connections are known here without."""
        await self.pause()

    async def traffic(self, services: list[Service]) -> dict[str, Traffic]:
        """Say when each guest last had a frame, and how many connections it has open."""
        await self.pause()
        by_name = {link.service.name: link for link in self.links if link.joined}
        return {
            s.name: Traffic(link.last, link.flows()) if link else Traffic(0.0, 0)
            for s in services
            for link in [by_name.get(s.name)]
        }

    def forward(self, frame: bytes, origin: SimulatedLink | Mac | None) -> None:
        """Send a frame to whom it is for; `origin` is a link, a client, or Synjitsu (None)."""
        mac = Mac(frame[:6])
        if mac == BROADCAST:
            self._broadcast(frame, origin)
        elif mac in self.clients:
            self.later(mac, self.clients[mac], frame)
        elif mac in self.owners:
            owner = self.owners[mac]
            if owner is not origin:  # a bridge never sends a frame back where it came from
                self.later(owner, owner.deliver if owner else self.to_synjitsu, frame)
        elif origin is not None:
            self.later(None, self.to_synjitsu, frame)  # the entry went with its port: flooded

    def _broadcast(self, frame: bytes, origin: SimulatedLink | Mac | None) -> None:
        for client, deliver in self.clients.items():
            if client != origin:
                self.later(client, deliver, frame)
        for link in self.links:
            if link is not origin:
                self.later(link, link.deliver, frame)
        if origin is not None:
            self.later(None, self.to_synjitsu, frame)

    def later(self, port: object, deliver: Deliver, frame: bytes) -> None:
        """Deliver a frame after the time of a hop, behind those sent to the port before."""
        loop = asyncio.get_running_loop()
        hop = HOP * (1 + self._chance.random())
        at = max(loop.time() + hop, self._busy_until.get(port, 0.0) + 1e-9)
        self._busy_until[port] = at
        loop.call_at(at, deliver, frame)

    async def notice(self) -> None:
        """Take as long as the end of a process does that closes its port."""
        await asyncio.sleep(NOTICE * (1 + self._chance.random()) / 2)

    async def pause(self) -> None:
        """Take as long as a system call may."""
        await asyncio.sleep(0.0001 + 0.002 * self._chance.random() ** 4)
