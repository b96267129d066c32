"""This host's guests as domains of the store, each by the link of its own tap.

    /local/domain/<domid>/name      the service                         for the guest to read
    /local/domain/<domid>/domid     its own number
    /local/domain/<domid>/ip        its address, in the form of the option `ip=`
    /local/domain/<domid>/ip6       the same of `ip6=`, if it has one
    /local/domain/<domid>/handoff   "<service>/<epoch>", the option `handoff=`, if it imports
    /local/domain/<domid>/data      the guest's own: what it wants to tell
    /conduit/<service>              the domid under which the service runs now, and below it
                                    how connections are handed over to it (`core.handoff`)

Numbers are not used again as long as there are others: who remembers one finds nothing, rather
than somebody else.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from jitsu.core import handoff
from jitsu.core.flows import Flow
from jitsu.core.readiness import OWN_MAC
from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import NONE, READ, WRITE, Actor, Given
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.link import Closed, Effect, Opened, Received, Send, StoreLink
from jitsu.core.xenstore.path import home_of, locate, names
from jitsu.core.xenstore.space import Space
from jitsu.errors import HostError
from jitsu.host.network import GuestLink, StorePort
from jitsu.host.xenstored import Xenstored
from jitsu.model import Epoch, Handoff, Name, NetworkConfig, ReadyOnKey, Service
from jitsu.wire.ethernet import EtherType, Frame, encode

_DOMID_MAX = 0x7FEF


class Listener(Protocol):
    """Who wants to know what a guest says in the store."""

    def wrote(self, word: bytes) -> None:
        """It has written its word on the hand-over."""

    def ready(self) -> None:
        """The node is there for which it is waited."""


class Present(Protocol):
    """A guest that is here."""

    def leave(self) -> None:
        """It is gone."""


class Guests(Protocol):
    """The guests of a hypervisor as domains of a store, in which they are told things.

    It is a store of this process, or another's: then what is written there takes its time.
    """

    def enter(self, service: Service, epoch: Epoch, link: GuestLink, listener: Listener) -> Present:
        """Let a guest into the store, whose link it is; tell `listener` what it says there."""

    def commit(
        self, name: Name, epoch: Epoch, flows: Sequence[Flow]
    ) -> Coroutine[Any, Any, None] | None:
        """Give a guest its connections, in one transaction; None when that is done already.

        What is returned is awaited, and may raise HostError.
        """

    def clear(self, name: Name) -> Coroutine[Any, Any, None] | None:
        """Forget the connections that a guest has imported, likewise."""


class LinkedGuests:
    """Guests of the store of this process, by domid."""

    def __init__(self, xenstored: Xenstored, network: NetworkConfig) -> None:
        self._xenstored = xenstored
        self._network = network
        self._last = 0
        self._present: set[int] = set()
        for domid in xenstored.domains():  # an earlier daemon's guests have ended with it
            self._forget(domid, b"/conduit")

    def enter(
        self, service: Service, epoch: Epoch, link: GuestLink, listener: Listener
    ) -> "Presence":
        """Let a guest into the store; it comes there by its link."""
        domid = self._last % _DOMID_MAX + 1
        while domid in self._present:
            domid = domid % _DOMID_MAX + 1
        self._last = domid
        self._present.add(domid)
        self._xenstored.edit(partial(self._publish, service, epoch, domid))
        self._xenstored.introduce(domid)
        word = handoff.word_of(service.name, epoch)
        ignore = [self._xenstored.observe(word, listener.wrote)]
        if isinstance(service.ready, ReadyOnKey):
            path, _ = locate(service.ready.path.encode(), home_of(domid))
            ignore.append(self._await(path, listener.ready))
        return Presence(self, self._xenstored, service, domid, link, ignore)

    def _await(self, path: bytes, told: Callable[[], None]) -> Callable[[], None]:
        """Call `told`, soon and once, when a node is there, be it already; return what ends that.

        It is observed no longer than that: what a guest writes there later costs nothing.
        """
        loop = asyncio.get_running_loop()

        def appeared(_: bytes) -> None:
            ignore()
            loop.call_soon(told)  # not now: the guest's request is being served

        ignore = self._xenstored.observe(path, appeared)
        if self._xenstored.has(path):
            appeared(b"")
        return ignore

    def commit(self, name: Name, epoch: Epoch, flows: Sequence[Flow]) -> None:
        """Give a guest its connections, at once: it reads them with its next request."""

        def write(space: Space) -> None:
            for path, value in handoff.commit(name, epoch, flows):
                _write(space, path, value)

        self._xenstored.edit(write)

    def clear(self, name: Name) -> None:
        """Forget the connections that a guest has imported."""
        self._xenstored.edit(partial(_remove, handoff.cleared(name)))

    def leave(self, presence: "Presence") -> None:
        """Forget a guest that is gone."""
        self._present.discard(presence.domid)
        self._forget(presence.domid, handoff.conduit(presence.service.name))

    def _publish(self, service: Service, epoch: Epoch, domid: int, space: Space) -> None:
        home = home_of(domid)
        its = Given(0, NONE, ((domid, READ),), None)
        _make(space, home, its)
        _make(space, home + b"/data", Given(domid, NONE, (), None))
        _write(space, home + b"/name", service.name.encode())
        _write(space, home + b"/domid", b"%d" % domid)
        _write(space, home + b"/ip", address(service, self._network).encode())
        if ip6 := address6(service, self._network):
            _write(space, home + b"/ip6", ip6.encode())
        if service.handoff is Handoff.IMPORT:
            _write(space, home + b"/handoff", f"{service.name}/{epoch}".encode())
        conduit = handoff.conduit(service.name)
        _remove((conduit,), space)
        _write(space, conduit, b"%d" % domid)
        space.permit(conduit, names(conduit), its)
        for path, value in handoff.beginning(service.name, epoch):
            _write(space, path, value)
        word = handoff.word_of(service.name, epoch)
        _make(space, word, Given(0, NONE, ((domid, READ | WRITE),), None))

    def _forget(self, domid: int, conduit: bytes) -> None:
        self._xenstored.edit(partial(_remove, (home_of(domid), conduit)))
        self._xenstored.release(domid)


def _make(space: Space, path: bytes, perms: Given) -> None:
    space.mkdir(path, names(path))
    space.permit(path, names(path), perms)


def _write(space: Space, path: bytes, value: bytes) -> None:
    space.write(path, names(path), value)


def _remove(paths: Sequence[bytes], space: Space) -> None:
    for path in paths:
        if tree.find(space.root, names(path)) is not None:
            space.remove(path, names(path))


def address(service: Service, network: NetworkConfig) -> str:
    """Return a guest's address as Linux's nfsroot.rst has it."""
    return f"{service.address}::{network.gateway}:{network.subnet.netmask}:{service.name}::off"


def address6(service: Service, network: NetworkConfig) -> str:
    """Return a guest's IPv6 address, the length of its prefix, and the host's; or nothing."""
    if service.address6 is None or network.subnet6 is None:
        return ""
    return f"{service.address6}/{network.subnet6.prefixlen},{network.gateway6}"


class Presence:
    """One guest in the store: its link, and a connection for each session of that."""

    def __init__(
        self,
        guests: LinkedGuests,
        xenstored: Xenstored,
        service: Service,
        domid: int,
        link: GuestLink,
        ignore: Sequence[Callable[[], None]],
    ) -> None:
        self.service = service
        self.domid = domid
        self._guests = guests
        self._ignore = ignore
        self._xenstored = xenstored
        self._session = StoreLink()
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._corked = False
        self._port: StorePort | None = None
        with suppress(HostError):  # the guest has gone already
            self._port = link.attend(self._heard)

    def __repr__(self) -> str:
        """Say who it is."""
        return f"<Presence {self.service.name} as domain {self.domid}, {self._session!r}>"

    def leave(self) -> None:
        """The guest is gone."""
        for ignore in self._ignore:
            ignore()
        if self._port is not None:
            self._port.close()
            self._port = None
        self._perform(self._session.close(self._xenstored.clock()))
        if self._timer is not None:
            self._timer.cancel()
        self._guests.leave(self)

    def send(self, connection: Connection) -> None:
        """Send the guest what the store has for it."""
        if not self._corked:
            self._perform(self._session.send(connection.take(), self._xenstored.clock()))
            self._tick()

    def drop(self) -> None:
        """The store has forgotten the guest's connection: let it begin another."""
        self._connection = None
        self._perform(self._session.close(self._xenstored.clock()))

    def _heard(self, payload: bytes) -> None:
        now = self._xenstored.clock()
        # All answers together: what does not fit a first frame waits for its acknowledgement.
        self._corked = True
        self._perform(self._session.handle(payload, now))
        self._corked = False
        if self._connection is not None and self._connection.pending:
            self._perform(self._session.send(self._connection.take(), now))
        self._tick()

    def _tick(self) -> None:
        """Do what is due, and come back when more is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._xenstored.clock()
        while (at := self._session.deadline()) is not None and at <= now:
            self._perform(self._session.tick(now))
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(at - now, self._tick)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(payload) if self._port is not None:
                    mac = self.service.mac
                    self._port.send(encode(Frame(mac, OWN_MAC, EtherType.STORE_LINK, payload)))
                case Opened():
                    actor = Actor(self.domid)
                    self._connection = self._xenstored.attach(self, actor)
                case Received(data) if self._connection is not None:
                    self._xenstored.receive(self._connection, data)
                case Closed() if self._connection is not None:
                    connection, self._connection = self._connection, None
                    self._xenstored.detach(connection)
                case _:
                    pass
