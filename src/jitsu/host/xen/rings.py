"""The rings of Xen's domains, and that of dom0's own kernel, as clients of the store.

An event says that a ring may have changed, and no more. Then what can be done is done: requests
are served one at a time, replies and events are put where there is room; the other end is notified
once, and the ring is looked at again, until nothing has changed (`core.xenstore.ring` says why).

A ring whose counts are impossible, or that carries no messages, is not served any more: its domain
is told in the page, and others notice nothing. It is served again if its guest asks for a new
beginning in the page, or its toolstack introduces it again.
"""

import asyncio
import mmap
from collections.abc import Callable, Mapping
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.journal import Cursor, Introduced
from jitsu.core.xenstore.ring import COMMUNICATION, INDICES, PROTOCOL, Ring
from jitsu.core.xenstore.store import DOM0
from jitsu.core.xenstore.stream import Stream
from jitsu.errors import HostError, ProtocolError, WireError
from jitsu.host.xen.evtchn import VIRQ_DOM_EXC, EventChannels
from jitsu.host.xen.gntdev import GrantMapper
from jitsu.host.xen.pages import SharedPages
from jitsu.host.xen.xenbus import kernel_ring
from jitsu.host.xenstored import Xenstored

STORE_REF = 1
"""The grant of its store page that each domain is born with (GNTTAB_RESERVED_XENSTORE)."""
_LOG_PAUSE = 1.0

Present = Callable[[], Mapping[int, bool]]
"""Returns the domains that Xen has, and whether each has shut down. Raises HostError."""


class RingClient:
    """One domain's ring: a `Channel`."""

    def __init__(
        self,
        rings: "XenRings",
        domid: int,
        pages: SharedPages | mmap.mmap,
        port: int,
        *,
        resumed: bool,
    ) -> None:
        self.domid = domid
        self.port = port
        self._rings = rings
        self._xenstored = rings.xenstored
        self._pages = pages
        memory = pages if isinstance(pages, mmap.mmap) else pages.memory
        self._view = memoryview(memory)
        self._ring = Ring(self._view)
        self._stream = Stream(domid, self._ring, self._xenstored.cursor(domid))
        self._due: asyncio.Handle | None = None
        self._working = False
        self._connection: Connection | None = None
        self._begin(resumed=resumed)

    def __repr__(self) -> str:
        """Say whose it is and how far."""
        return f"<RingClient of domain {self.domid}, port {self.port}, {self._ring!r}>"

    def _begin(self, *, resumed: bool) -> None:
        actor = Actor(self.domid) if self.domid else DOM0
        self._connection = self._xenstored.attach_ring(self, actor, resumed=resumed)

    def send(self, connection: Connection) -> None:
        """Queue what the store has for it; it goes out together with what else comes now."""
        self._stream.put(connection.take_each())
        connection.queued = self._stream.queued
        if not self._working:
            self.later()

    def drop(self) -> None:
        """The store has forgotten it: serve it no more."""
        self._connection = None
        if not self._xenstored.closed:
            self._refuse(COMMUNICATION, "its connection is closed")

    def later(self) -> None:
        """Work when others have had their turn."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self.work)

    def work(self) -> None:
        """Serve what has come, and send what there is room for.

        One round, then it is others' turn: beside a guest that never pauses, a boot waits for as
        much before each of its 25 requests.
        """
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._working = True
        try:
            if not self._round():
                return
            self._rings.channels.notify(self.port)
        except WireError as error:
            self._fail(INDICES, error)
        except ProtocolError as error:
            self._fail(PROTOCOL, error)
        except HostError as error:
            self._fail(COMMUNICATION, error)
        else:
            self.later()
        finally:
            self._working = False

    def _round(self) -> bool:
        """Do what can be done now; tell whether the ring has changed."""
        if self._xenstored.closed:
            return False
        if self._ring.wants_reset:
            return self._reset()
        connection = self._connection
        if connection is None:
            return False
        serving = not self._xenstored.is_held_up(self.domid)
        moved = self._stream.round(self._serve, self._xenstored.note, serving=serving)
        connection.queued = self._stream.queued
        return moved

    def _serve(self, request: bytes, mark: Cursor) -> bool:
        connection = self._connection
        assert connection is not None
        self._xenstored.receive(connection, request, mark)
        return not connection.closed

    def _reset(self) -> bool:
        """Begin anew, as the guest wishes."""
        if self._connection is None:
            self._begin(resumed=False)
        else:
            self._xenstored.reset(self._connection)
        if not self._xenstored.note(self._stream.blank()):
            return False
        self._stream.reset()
        return True

    def _fail(self, error: int, reason: Exception) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._xenstored.detach(connection)
            self._xenstored.settle()
        self._refuse(error, str(reason))

    def _refuse(self, error: int, reason: str) -> None:
        self._ring.fail(error)
        with suppress(HostError):  # it is gone
            self._rings.channels.notify(self.port)
        self._rings.complain(self.domid, reason)

    def begin_anew(self) -> None:
        """Empty the ring of a domain that is introduced again."""
        self._xenstored.note(self._stream.blank())
        self._stream.reset()

    def close(self) -> None:
        """Let go of the ring; the store keeps what it knows of the client."""
        self._connection = None
        if self._due is not None:
            self._due.cancel()
        with suppress(HostError):  # its domain is gone, and the channel with it
            self._rings.channels.unbind(self.port)
        self._ring.release()
        self._view.release()
        self._pages.close()

    def leave(self) -> None:
        """Let go of the ring; the store forgets the client."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._xenstored.detach(connection)
        self.close()


class XenRings:
    """All rings of a host; with it `Xenstored` is dom0's xenstored."""

    def __init__(self, xenstored: Xenstored, present: Present, log: FilteringBoundLogger) -> None:
        """Take the place of dom0's xenstored. Raises HostError: it is taken, or this is no dom0."""
        self.xenstored = xenstored
        self.channels = EventChannels()
        self._present = present
        self._log = log
        self._log_at = 0.0
        self.refused = 0
        """Rings that were served no more, since they made no sense."""
        self._rings: dict[int, RingClient] = {}
        self._ports: dict[int, RingClient] = {}
        try:
            self._virq = self.channels.bind_virq(VIRQ_DOM_EXC)
        except HostError as error:
            self.channels.close()
            hint = "another xenstored runs in this dom0; stop it first"
            raise HostError(f"{error}: {hint}") from error
        try:
            self._mapper = GrantMapper()
        except HostError:
            self.channels.close()
            raise

    def __repr__(self) -> str:
        """Say how many there are."""
        return f"<XenRings {sorted(self._rings)}>"

    def start(self) -> None:
        """Serve the kernel's ring, and the domains of an earlier daemon. Raises HostError."""
        self.xenstored.serve_rings(self)
        self.census()
        for domain in self.xenstored.introduced():
            if not self._attach(domain, resumed=True):
                self.xenstored.release(domain.domid)
        page, offered = kernel_ring()
        try:
            port = self.channels.bind_interdomain(0, offered)
        except HostError as error:
            page.close()
            hint = "another xenstored serves dom0's kernel, or has ended without a trace"
            raise HostError(f"{error}: {hint}") from error
        self._add(RingClient(self, 0, page, port, resumed=True))
        asyncio.get_running_loop().add_reader(self.channels.fileno(), self._fired)
        self.xenstored.settle()
        self.wake()
        self.channels.notify(port)  # the kernel begins when it hears of us

    def attach(self, domain: Introduced) -> bool:
        """Serve a new domain's ring, or an old one's anew; tell whether it can be."""
        known = domain.domid in self._rings
        if known:
            self.detach(domain.domid)
        if not self._attach(domain, resumed=False):
            return False
        ring = self._rings[domain.domid]
        if known:
            ring.begin_anew()
        ring.later()
        return True

    def _attach(self, domain: Introduced, *, resumed: bool) -> bool:
        pages = None
        try:
            pages = self._mapper.map(domain.domid, [STORE_REF])
            port = self.channels.bind_interdomain(domain.domid, domain.port)
        except HostError as error:
            if pages is not None:
                pages.close()
            self._log.warning("ring not served", domain=domain.domid, reason=str(error))
            return False
        self._add(RingClient(self, domain.domid, pages, port, resumed=resumed))
        return True

    def _add(self, ring: RingClient) -> None:
        self._rings[ring.domid] = self._ports[ring.port] = ring

    def detach(self, domid: int) -> None:
        """Serve a domain's ring no more."""
        ring = self._rings.pop(domid, None)
        if ring is not None:
            del self._ports[ring.port]
            ring.leave()

    def wake(self) -> None:
        """Look at all rings again."""
        for ring in self._rings.values():
            ring.later()

    def complain(self, domid: int, reason: str) -> None:
        """Note that a ring is not served any more."""
        self.refused += 1
        now = self.xenstored.clock()
        if now >= self._log_at:
            self._log_at = now + _LOG_PAUSE
            told = {"domain": domid, "reason": reason, "refused": self.refused}
            self._log.warning("ring refused", **told)

    def census(self) -> None:
        """Ask Xen which domains there are."""
        try:
            present = self._present()
        except HostError as error:
            self._log.warning("no census of domains", reason=str(error))
        else:
            self.xenstored.census(present)

    def _fired(self) -> None:
        for port in self.channels.fired():
            if port == self._virq:
                self.census()
            elif (ring := self._ports.get(port)) is not None:
                ring.work()

    def close(self) -> None:
        """Let go of all rings; who serves them next goes on with them."""
        if self.channels.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.channels.fileno())
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        self._ports.clear()
        self._mapper.close()
        self.channels.close()
