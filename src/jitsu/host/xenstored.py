"""The XenStore daemon: the journal and the clients around `core.xenstore`.

A client is a `Channel`: a connection to the Unix socket here, a guest's link in `host.guests`, on
Xen a ring in `host.xen.rings`.
Who can open the socket is dom0 to the store, as with Xen's own daemons: the file's mode decides.
"""

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from structlog.typing import FilteringBoundLogger

from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.journal import Cursor, Introduced
from jitsu.core.xenstore.path import names
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.space import Space
from jitsu.core.xenstore.store import DOM0, Close, Effect, Persist, Released, Send
from jitsu.errors import HostError
from jitsu.host.journal import Journal
from jitsu.host.replies import Replies

WRITE_BUFFER = 64 << 10
"""Bytes that a client may leave unread before its requests are left unread, too."""
PIECE = 4 << 10
"""Bytes of requests that are served before the others have their turn: some 150 requests, or 3 ms,
and replies of 1 MB at most."""
BACKLOG = 1024
_SPARE_DESCRIPTORS = 64
"""For the journal, the event loop and whatever else the process has open."""
_LOG_PAUSE = 1.0
_SNAPSHOT_PAUSE = 0.002
"""Seconds between two records of a snapshot, each a third of a millisecond's work."""


class Channel(Protocol):
    """How one client is reached."""

    def send(self, connection: Connection) -> None:
        """Send what `connection.take()` returns, and keep `connection.queued` true."""

    def drop(self) -> None:
        """End it; the store has forgotten it."""


class Client(asyncio.Protocol):
    """One connection to the socket."""

    def __init__(self, daemon: "Xenstored") -> None:
        self._daemon = daemon
        self._replies = daemon.replies
        self.spoken = False
        self.paused = False
        self.unserved = b""
        """What has come, but waits for its turn, or until it has taken its replies."""
        self._turn: asyncio.Handle | None = None
        self._read_on = False
        """It is not read, and is to be when all that has come is served."""
        self.connection: Connection
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve it."""
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self.connection = self._daemon.accept(self)

    def data_received(self, data: bytes) -> None:
        """Serve what it asks."""
        self.spoken = True
        if len(data) <= PIECE and not self.unserved:  # as almost always
            self._daemon.receive(self.connection, data)
        else:
            self.unserved += data
            self._serve()

    def _serve(self) -> None:
        """Serve a piece of what has come, and the rest when the others have had their turn."""
        self._turn = None
        if self.paused or self.transport.is_closing():
            return
        piece, self.unserved = self.unserved[:PIECE], self.unserved[PIECE:]
        self._daemon.receive(self.connection, piece)
        if self.unserved:
            self._read_on = True
            self.transport.pause_reading()
            self._turn = asyncio.get_running_loop().call_soon(self._serve)
        elif self._read_on and not self.paused:
            self._read_on = False
            self.transport.resume_reading()

    def send(self, connection: Connection) -> None:
        """Send what the store has for it, together with what it has for others."""
        self._replies.send(self, len(connection.out))

    def flush(self) -> None:
        """Send what waits for it, unless it is gone or dropped meanwhile.

        What cannot be written down is not acknowledged: all are dropped then.
        """
        connection = self.connection
        if connection.pending and not self.transport.is_closing():
            self.transport.write(connection.take())
            if self.paused:  # events come all the same
                connection.queued = self.transport.get_write_buffer_size()

    def drop(self) -> None:
        """Hang up."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Take no more requests of a client that does not read the replies."""
        self.paused = self._read_on = True
        self.connection.queued = self.transport.get_write_buffer_size()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False
        self.connection.queued = 0
        if self._turn is None:
            self._serve()

    def connection_lost(self, _error: Exception | None) -> None:
        """Forget it."""
        self._daemon.detach(self.connection)


@dataclass(eq=False, slots=True)
class _Observer:
    """One who wants to know what a node holds."""

    path: bytes
    told: Callable[[bytes], None]
    before: bytes | None


class Rings(Protocol):
    """Who serves the rings of Xen's domains."""

    def attach(self, domain: Introduced) -> bool:
        """Begin to serve a domain's ring, in place of an earlier one; tell whether that can be."""

    def detach(self, domid: int) -> None:
        """Serve a domain's ring no more."""

    def wake(self) -> None:
        """Look at those again who were held up."""


class Xenstored:
    """A store and its clients."""

    def __init__(
        self,
        server: Server,
        journal: Journal | None,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with HostError when a commit cannot be written down."""
        self.clock = clock
        self.closed = False
        """It serves nobody any more."""
        self.replies = Replies()
        self._server = server
        self._rings: Rings | None = None
        self._mark: Cursor | None = None
        """Is written down with the next commit."""
        self._journal = journal
        self._log = log
        self._channels: dict[int, Channel] = {}
        self._observers: list[_Observer] = []
        self._max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS
        self._timer: asyncio.TimerHandle | None = None
        self._compaction: Iterator[None] | None = None
        self._compacting = False
        self._dropped = 0
        self._log_at = -_LOG_PAUSE

    def attach(self, channel: Channel, actor: Actor = DOM0) -> Connection:
        """Serve a new client, who acts as `actor`."""
        connection = self._server.connect(actor)
        self._channels[connection.number] = channel
        return connection

    def attach_ring(self, channel: Channel, actor: Actor, *, resumed: bool) -> Connection:
        """Serve a ring, which an earlier daemon may have served."""
        if resumed:
            connection = self._server.resume_ring(actor, self.clock())
        else:
            connection = self._server.connect_ring(actor)
        self._channels[connection.number] = channel
        return connection

    def settle(self) -> None:
        """Do what has come of clients that began or ended."""
        self._perform(self._server.store.take())

    def accept(self, client: Client) -> Connection:
        """Serve a client of the socket; when there is no room, in the place of a silent one."""
        if len(self._channels) >= self._max:
            silent = (c for c in self._channels.values() if isinstance(c, Client) and not c.spoken)
            next(silent, client).drop()
        return self.attach(client)

    def detach(self, connection: Connection) -> None:
        """Forget a client that is gone."""
        if self._channels.pop(connection.number, None) is not None:
            self._server.disconnect(connection)

    def receive(self, connection: Connection, data: bytes, mark: Cursor | None = None) -> None:
        """Serve what a client has sent; when commits cannot be kept any more, hang up.

        `mark` is written down together with its commit, if it makes one.
        """
        self._mark = mark
        if self.failed.done():
            self._refuse(connection)
        elif self._observers:
            # Who observes may change what the client's next request is about.
            for effects in self._server.receive_apart(connection, data, self.clock()):
                self._perform(effects)
                self._mark = None
                self._look()
        else:
            self._perform(self._server.receive(connection, data, self.clock()))
        self._mark = None

    def _refuse(self, connection: Connection) -> None:
        if (channel := self._channels.get(connection.number)) is not None:
            channel.drop()
        self.detach(connection)

    def observe(self, path: bytes, told: Callable[[bytes], None]) -> Callable[[], None]:
        """Call `told` with the value of a node when a client has changed it, if it is there.

        Return what ends that.
        """
        watch = _Observer(path, told, self._value(path))
        self._observers.append(watch)
        return partial(self._ignore, watch)

    def _ignore(self, observer: "_Observer") -> None:
        with suppress(ValueError):  # it has ended already
            self._observers.remove(observer)

    def _look(self) -> None:
        for observer in self._observers.copy():
            value = self._value(observer.path)
            if value == observer.before or observer not in self._observers:
                continue
            observer.before = value
            if value is not None:
                observer.told(value)

    def has(self, path: bytes) -> bool:
        """Say whether there is such a node."""
        return self._value(path) is not None

    def _value(self, path: bytes) -> bytes | None:
        node = tree.find(self._server.store.root, names(path))
        return node.value if node else None

    def edit(self, work: Callable[[Space], None]) -> None:
        """Change the tree as dom0, in one commit."""
        self._perform(self._server.edit(work))

    def introduce(self, domid: int, frame: int = 0, port: int = 0) -> None:
        """Note a guest; one without an event channel has no ring, and comes by its link.

        Raises StoreError when its ring cannot be served.
        """
        self._perform(self._server.introduce(Introduced(domid, frame, port)))

    def release(self, domid: int) -> None:
        """Forget a guest and all that it owns."""
        self._perform(self._server.release(domid))

    def serve_rings(self, rings: Rings) -> None:
        """Have `rings` serve the rings of domains that are introduced."""
        self._rings = rings
        self._server.store.attach = rings.attach

    def census(self, present: Mapping[int, bool]) -> None:
        """Compare with the domains that Xen has, and whether each has shut down."""
        self._perform(self._server.census(present))

    def note(self, cursor: Cursor) -> bool:
        """Write down how far a ring has come; tell whether that is done."""
        return self._persist(self._server.note(cursor))

    def cursor(self, domid: int) -> Cursor | None:
        """Return how far a ring had come, as far as it was written down."""
        return self._server.store.cursors.get(domid)

    def reset(self, connection: Connection) -> None:
        """End what a client has open, which begins anew."""
        self._perform(self._server.reset(connection))

    def is_held_up(self, domid: int) -> bool:
        """Tell whether a domain's requests are to wait."""
        return domid in self._server.store.credit.held_up

    def introduced(self) -> list[Introduced]:
        """Return the domains that have a ring."""
        return [domain for domain in self._server.store.domains.values() if domain.port]

    def domains(self) -> list[int]:
        """Return the guests that are introduced."""
        return list(self._server.store.domains)

    def close(self) -> None:
        """Drop all clients."""
        self.closed = True
        for channel in list(self._channels.values()):
            channel.drop()
        if self._timer is not None:
            self._timer.cancel()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is Send:
                channel = self._channels.get(effect.connection.number)
                if channel is not None:
                    channel.send(effect.connection)
            elif type(effect) is Persist:
                if not self._persist(effect.record + self._marked()):
                    return
            elif type(effect) is Close:
                self._close(effect)
            elif type(effect) is Released and self._rings is not None:
                self._rings.detach(effect.domid)
        if self._timer is None and (at := self._server.deadline()) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, at - self.clock()), self._tick)

    def _marked(self) -> bytes:
        mark, self._mark = self._mark, None
        return self._server.note(mark) if mark is not None else b""

    def _close(self, effect: Close) -> None:
        channel = self._channels.pop(effect.connection.number, None)
        if channel is not None:
            channel.drop()
            self._dropped += 1
            # Who is dropped can come back at once: the log is not to be filled by it.
            if self.clock() >= self._log_at:
                self._log_at = self.clock() + _LOG_PAUSE
                told = {"reason": effect.reason, "dropped": self._dropped}
                self._log.warning("client of the store dropped", **told)

    def _persist(self, record: bytes) -> bool:
        if self.failed.done():
            return False
        if self._journal is None:
            return True
        try:
            self._journal.append(record)
        except HostError as error:
            # What cannot be kept must not be acknowledged: nobody hears from us again.
            self.failed.set_exception(error)
            self.close()
            return False
        if self._journal.overgrown and not self._compacting:
            self._compacting = True
            # Not now: what the store has in memory may be ahead of what is performed by now.
            asyncio.get_running_loop().call_soon(self._compact)
        return True

    def _compact(self) -> None:
        assert self._journal is not None
        if self._compaction is None:
            self._compaction = self._journal.compact(self._server.snapshot())
        try:
            next(self._compaction)
        except StopIteration:
            self._compaction, self._compacting = None, False
        except HostError as error:
            self._compaction, self._compacting = None, False
            self._log.warning("no snapshot", reason=str(error))
        else:
            asyncio.get_running_loop().call_later(_SNAPSHOT_PAUSE, self._compact)

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._server.tick(self.clock()))
        if self._rings is not None:
            self._rings.wake()


@asynccontextmanager
async def listen(xenstored: Xenstored, path: Path) -> AsyncIterator[None]:
    """Serve the store on a socket at `path`, for its owner alone. Raises HostError."""
    loop = asyncio.get_running_loop()
    listener = _bind(path)
    server = await loop.create_unix_server(
        lambda: Client(xenstored), sock=listener, backlog=BACKLOG
    )
    try:
        yield
    finally:
        server.close()
        xenstored.close()
        _unlink(path)


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        listener.close()
        raise HostError(f"{path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens to any more. Raises HostError if somebody does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise HostError(f"{path}: another store is served here; stop it or name another socket")


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
