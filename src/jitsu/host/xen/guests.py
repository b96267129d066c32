"""Guests of Xen as domains of the store: each comes by its own ring, and has its domain's number.

What the store says of them is as in `jitsu.host.guests`, and is there before the domain runs.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from jitsu.core import handoff
from jitsu.core.flows import Flow
from jitsu.core.xenstore.path import home_of, locate
from jitsu.errors import HostError
from jitsu.host.guests import Listener, address, address6
from jitsu.host.network import GuestLink
from jitsu.host.xen.domain import Kind
from jitsu.host.xen.store import Change, HostStore, Remove, Write
from jitsu.model import Epoch, Handoff, Name, NetworkConfig, ReadyOnKey, Service


def addresses(service: Service, network: NetworkConfig, domid: int) -> Iterator[Write]:
    """Yield what a guest is told of its addresses."""
    yield Write(home_of(domid) + b"/ip", address(service, network).encode())
    if ip6 := address6(service, network):
        yield Write(home_of(domid) + b"/ip6", ip6.encode())


def cmdline(service: Service, epoch: Epoch | None, network: NetworkConfig, kind: Kind) -> str:
    """Return the guest's command line.

    A unikernel that is prepared, of no epoch yet, has no address there either: that it lacks one is
    why it asks the store, at its beginning, for this and for the hand-over.
    """
    words = []
    if epoch is not None or kind is Kind.PV:
        words.append(f"ip={address(service, network)}")
        ip6 = address6(service, network)
        words += [f"ip6={ip6}"] if ip6 else []
    if kind is Kind.PVH:
        words.append("store")
    if epoch is not None and service.handoff is Handoff.IMPORT:
        words.append(f"handoff={service.name}/{epoch}")
    return " ".join([*words, service.cmdline]).rstrip()


def beginning(service: Service, epoch: Epoch, domid: int) -> Iterator[Change]:
    """Yield what a boot changes: the service is in this domain now, and nothing is handed over."""
    top = handoff.conduit(service.name)
    yield Remove(top)
    yield Write(top, b"%d" % domid, (b"n0", b"r%d" % domid))
    for path, value in handoff.beginning(service.name, epoch):
        yield Write(path, value)
    yield Write(handoff.word_of(service.name, epoch), b"", (b"n0", b"b%d" % domid))
    if service.handoff is Handoff.IMPORT:
        yield Write(home_of(domid) + b"/handoff", f"{service.name}/{epoch}".encode())


class XenGuests:
    """Who is here, by domid."""

    def __init__(self, store: HostStore) -> None:
        self._store = store
        self._domids: dict[Name, int] = {}

    async def begin(self, service: Service, epoch: Epoch, domid: int) -> None:
        """A domain is about to run: the service is in it. Raises HostError."""
        self._domids[service.name] = domid
        await self._store.write(beginning(service, epoch, domid))

    def enter(
        self, service: Service, epoch: Epoch, link: GuestLink, listener: Listener
    ) -> "XenPresence":
        """Tell `listener` what the guest that has begun says in the store, where it is already."""
        presence = XenPresence(self._store)
        presence.follow(handoff.word_of(service.name, epoch), listener.wrote)
        if isinstance(service.ready, ReadyOnKey):
            home = home_of(self._domids[service.name])
            path, _ = locate(service.ready.path.encode(), home)
            presence.follow(path, lambda _: listener.ready(), once=True)
        return presence

    async def commit(self, name: Name, epoch: Epoch, flows: Sequence[Flow]) -> None:
        """Give a guest its connections, in one transaction. Raises HostError."""
        await self._store.commit(Write(*node) for node in handoff.commit(name, epoch, flows))

    async def clear(self, name: Name) -> None:
        """Forget the connections that a guest has imported. Raises HostError."""
        await self._store.write(map(Remove, handoff.cleared(name)))


class XenPresence:
    """What is watched of one guest."""

    def __init__(self, store: HostStore) -> None:
        self._store = store
        self._stops: list[Callable[[], None]] = []
        self._readers: list[asyncio.Task[None]] = []

    def leave(self) -> None:
        """The guest is gone."""
        for stop in self._stops:
            stop()
        for reader in self._readers:
            reader.cancel()

    def follow(self, path: bytes, told: Callable[[bytes], None], *, once: bool = False) -> None:
        """Call `told` with each value that is seen of a node, or `once` with the first at all.

        A guest may write faster than anybody reads: it is read once for all changes meanwhile.
        """
        changed = asyncio.Event()

        async def read() -> None:
            last: bytes | None = None if once else b""
            while await changed.wait():
                changed.clear()
                with suppress(HostError):  # the store has gone: it is read when it is back
                    value = await self._store.read(path)
                    if value is not None and value != last:
                        last = value
                        told(value)
                        if once:
                            stop()
                            return

        stop = self._store.watch(path, changed.set)
        self._stops.append(stop)
        self._readers.append(asyncio.get_running_loop().create_task(read()))
