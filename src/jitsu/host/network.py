"""The contract between the daemon and a network, be it the kernel's or a simulated one.

A network is a bridge. Synjitsu is one port of it, each running guest another. Who gets the frames
for a service's MAC address is one entry of the bridge's forwarding table, its *owner*; only
`own` changes it. While a guest boots, its *link* is open: the daemon sees what the guest sends
and may send to it alone, past the bridge.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from jitsu.core.segment import Ends
from jitsu.core.splice import Numbers
from jitsu.core.summon import Traffic
from jitsu.model import Service

FrameHandler = Callable[[bytes], None]


class StorePort(Protocol):
    """The host's end of a guest's store link."""

    def send(self, frame: bytes) -> None:
        """Send `frame` to the guest; it may be lost."""

    def close(self) -> None:
        """Listen no more."""


class GuestLink(Protocol):
    """The host's end of one guest's network interface."""

    @property
    def fd(self) -> int:
        """What the guest gets: its tap, or for a process its namespace; -1 once it is released."""

    @property
    def index(self) -> int:
        """The number of the host's end, in the bridge's namespace."""

    @property
    def requests(self) -> tuple[bytes, bytes]:
        """The rtnetlink requests by which a process joins its interface to the bridge itself.

        First in our namespace, where the bridge is, then in its own, which gets its addresses.
        """

    def release(self) -> None:
        """Close the descriptor: from now on the interface lives as long as the guest."""

    def hear(self, on_frame: FrameHandler) -> None:
        """Have `on_frame` get each frame that the guest sends, from the first on; as `join` does.

        Raises HostError.
        """

    async def join(self, on_frame: FrameHandler) -> None:
        """Make it a port of the bridge; `on_frame` gets each frame that the guest sends.

        A process does the first part itself (`requests`).
        Raises HostError when the interface is gone, because the guest is.
        """

    def send(self, frame: bytes) -> None:
        """Send `frame` to this guest alone; a full queue loses it."""

    def attend(self, on_payload: FrameHandler) -> StorePort:
        """Call `on_payload` with what each frame of the store link carries, until it is closed.

        Raises HostError when the interface is gone.
        """

    def shift(self, ends: Ends, numbers: Numbers | None) -> None:
        """Translate what the guest sends of a connection by its `numbers`; None: lose it.

        What it is sent is changed the other way round. Raises HostError where that cannot be.
        """

    def unshift(self, ends: Ends) -> None:
        """Leave the numbers of a connection as they are."""

    async def sweep(self) -> None:
        """Forget the numbers of connections that have long been over."""

    def deafen(self) -> None:
        """Call `on_frame` no more, and copy no more frames."""

    async def close(self) -> None:
        """Give back all that the host holds of it; the interface goes when the guest has."""

    def ask_orphans(self) -> None:
        """After `close`, when Synjitsu owns the address: ask the clients that the guest had.

        Their answers come to Synjitsu, who tells them that it is over.
        """


class Network(Protocol):
    """A bridge with Synjitsu's port."""

    def send(self, frame: bytes) -> None:
        """Send `frame` from Synjitsu's port; a full queue loses it."""

    async def open(self, service: Service, made: str = "", *, ahead: bool = False) -> GuestLink:
        """Make a network interface for a guest, not yet on the bridge. Raises HostError.

        With `made` it is one that the hypervisor has made, and removes. It is made `ahead` for a
        guest that does not run yet; the service may have another that does.
        """

    async def own(self, service: Service, link: GuestLink | None) -> None:
        """Let `link`, or Synjitsu when it is None, own the service's MAC address.

        Frames go to the new owner from the moment that this returns. Raises HostError.
        """

    def remember(self, local: bytes, port: int, peer: bytes, peer_port: int) -> None:
        """Keep a connection in mind that a client is about to believe in, should we be killed.

        Addresses are in network order.
        """

    async def track(self, service: Service, opened: Sequence[Ends], ended: Sequence[Ends]) -> None:
        """Count connections among those that are open, or no more, whatever their guest sent."""

    async def traffic(self, services: list[Service]) -> dict[str, Traffic]:
        """Return by name how the services are used, `Traffic.last` on the monotonic clock."""
