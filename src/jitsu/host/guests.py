"""This host's guests as domains of the store, each by the link of its own tap.

    /local/domain/<domid>/name      the service                         for the guest to read
    /local/domain/<domid>/domid     its own number
    /local/domain/<domid>/ip        its address, in the form of the option `ip=`
    /local/domain/<domid>/data      the guest's own: what it wants to tell
    /conduit/<service>              the domid under which the service runs now

Numbers are not used again as long as there are others: who remembers one finds nothing, rather
than somebody else.
"""

import asyncio
from contextlib import suppress

from jitsu.core.synjitsu import OWN_MAC
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.link import Closed, Effect, Opened, Received, Send, StoreLink
from jitsu.core.xenstore.path import home_of
from jitsu.errors import HostError
from jitsu.host.network import GuestLink, StorePort
from jitsu.host.xenstored import Xenstored
from jitsu.model import NetworkConfig, Service
from jitsu.wire.ethernet import EtherType, Frame, encode
from jitsu.wire.xenstore import Message, Op, join
from jitsu.wire.xenstore import encode as encode_message

_DOMID_MAX = 0x7FEF


class Guests:
    """Who is here, by domid."""

    def __init__(self, xenstored: Xenstored, network: NetworkConfig) -> None:
        self._xenstored = xenstored
        self._network = network
        self._toolstack = xenstored.attach(_Ignore())
        self._last = 0
        self._present: set[int] = set()
        for domid in xenstored.domains():  # an earlier daemon's guests have ended with it
            self._forget(domid)
        self._ask(Op.RM, join(b"/conduit"))

    def enter(self, service: Service, link: GuestLink) -> "Presence":
        """Let a guest into the store, whose link it is."""
        domid = self._last % _DOMID_MAX + 1
        while domid in self._present:
            domid = domid % _DOMID_MAX + 1
        self._last = domid
        self._present.add(domid)
        home = home_of(domid)
        name = service.name.encode()
        self._xenstored.introduce(domid)
        self._ask(Op.MKDIR, join(home))
        self._ask(Op.SET_PERMS, join(home, b"n0", b"r%d" % domid))
        keys = {
            b"name": name,
            b"domid": b"%d" % domid,
            b"ip": address(service, self._network).encode(),
        }
        for key, value in keys.items():
            self._ask(Op.WRITE, join(b"%b/%b" % (home, key)) + value)
        self._ask(Op.MKDIR, join(home + b"/data"))
        self._ask(Op.SET_PERMS, join(home + b"/data", b"n%d" % domid))
        self._ask(Op.WRITE, join(b"/conduit/" + name) + b"%d" % domid)
        return Presence(self, self._xenstored, service, domid, link)

    def leave(self, presence: "Presence") -> None:
        """Forget a guest that is gone."""
        self._present.discard(presence.domid)
        self._ask(Op.RM, join(b"/conduit/" + presence.service.name.encode()))
        self._forget(presence.domid)

    def _forget(self, domid: int) -> None:
        self._ask(Op.RM, join(home_of(domid)))
        self._xenstored.release(domid)

    def _ask(self, op: Op, payload: bytes) -> None:
        self._xenstored.receive(self._toolstack, encode_message(Message(op, 0, 0, payload)))


def address(service: Service, network: NetworkConfig) -> str:
    """Return a guest's address as Linux's nfsroot.rst has it."""
    return f"{service.address}::{network.gateway}:{network.subnet.netmask}:{service.name}::off"


class Presence:
    """One guest in the store: its link, and a connection for each session of that."""

    def __init__(
        self, guests: Guests, xenstored: Xenstored, service: Service, domid: int, link: GuestLink
    ) -> None:
        self.service = service
        self.domid = domid
        self._guests = guests
        self._xenstored = xenstored
        self._session = StoreLink()
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._port: StorePort | None = None
        with suppress(HostError):  # the guest has gone already
            self._port = link.attend(self._heard)

    def __repr__(self) -> str:
        """Say who it is."""
        return f"<Presence {self.service.name} as domain {self.domid}, {self._session!r}>"

    def leave(self) -> None:
        """The guest is gone."""
        if self._port is not None:
            self._port.close()
            self._port = None
        self._perform(self._session.close(self._xenstored.clock()))
        if self._timer is not None:
            self._timer.cancel()
        self._guests.leave(self)

    def send(self, connection: Connection) -> None:
        """Send the guest what the store has for it."""
        self._perform(self._session.send(connection.take(), self._xenstored.clock()))
        self._tick()

    def drop(self) -> None:
        """The store has forgotten the guest's connection: let it begin another."""
        self._connection = None
        self._perform(self._session.close(self._xenstored.clock()))

    def _heard(self, payload: bytes) -> None:
        self._perform(self._session.handle(payload, self._xenstored.clock()))
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


class _Ignore:
    """The toolstack's own channel: its requests are its own, and their replies are OK."""

    def send(self, connection: Connection) -> None:
        connection.take()

    def drop(self) -> None:
        """It is never dropped."""
