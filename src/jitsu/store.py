"""A client of a XenStore: any daemon's, over its Unix socket.

    async with store.connect(path) as client:
        await client.write(b"/a", b"1")
        async with client.watch(b"/a") as events:
            async for path in events: ...

Requests of several tasks may be under way at once; the store answers them in order.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

from jitsu.core.xenstore.errors import StoreError
from jitsu.errors import ControlError, ProtocolError, WireError
from jitsu.wire.xenstore import ERRORS, PAYLOAD_MAX, Message, Messages, Op, encode, join, strings

_REQUEST_MAX = (1 << 32) - 1

T = TypeVar("T")
Request = tuple[Op, bytes]
"""What is asked: a type and its payload."""


class Requests:
    """The requests of the tree, each a transaction's or for itself.

    All raise StoreError, with the errno's name, when the store refuses, and ControlError when it
    has gone away. Paths are absolute, or relative to the home of the client's domain.
    """

    def __init__(self, client: "Client", transaction: int = 0) -> None:
        self._client = client
        self._transaction = transaction

    async def read(self, path: bytes) -> bytes:
        """Return a node's value."""
        return await self._ask(Op.READ, join(path))

    async def write(self, path: bytes, value: bytes) -> None:
        """Set a node's value; make the node, and those above it, if need be."""
        await self._ask(Op.WRITE, join(path) + value)

    async def mkdir(self, path: bytes) -> None:
        """Make a node, if it is not there."""
        await self._ask(Op.MKDIR, join(path))

    async def remove(self, path: bytes) -> None:
        """Remove a node and all below it."""
        await self._ask(Op.RM, join(path))

    async def directory(self, path: bytes) -> list[bytes]:
        """Return the names of a node's children, however many they are."""
        try:
            listing = await self._ask(Op.DIRECTORY, join(path))
        except StoreError as error:
            if error.name != "E2BIG":
                raise
            listing = await self._parts(path)
        return strings(listing) if listing else []

    async def perms(self, path: bytes, *, extended: bool = False) -> list[bytes]:
        """Return a node's permissions, as `n0`, `r7`; `extended` ones may end with `c1`."""
        asked = join(path, b"c") if extended else join(path)
        return strings(await self._ask(Op.GET_PERMS, asked))

    async def set_perms(self, path: bytes, *perms: bytes) -> None:
        """Set a node's permissions; the first is the owner's, with the right of all others."""
        await self._ask(Op.SET_PERMS, join(path, *perms))

    async def pipeline(self, requests: Sequence[Request]) -> list[bytes | StoreError]:
        """Send requests all at once; return their replies when all have come.

        In the place of a reply is the error of a request that was refused.
        """
        return await self._client.send(requests, self._transaction)

    async def _parts(self, path: bytes) -> bytes:
        """Collect a listing in parts; begin anew when it changes between them."""
        while True:
            generation, listing = None, b""
            while True:
                part = await self._ask(Op.DIRECTORY_PART, join(path, b"%d" % len(listing)))
                now, _, names = part.partition(b"\0")
                if generation not in (None, now):
                    break
                generation = now
                if names.endswith(b"\0\0") or names == b"\0":
                    return listing + names[:-1]
                listing += names

    async def _ask(self, op: Op, payload: bytes) -> bytes:
        return await self._client.request(op, payload, self._transaction)


class Client(Requests):
    """One connection."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Send requests by `write`; what the store answers comes to `take`."""
        super().__init__(self)
        self._write = write
        self._messages = Messages()
        self._serial = 0
        self._asked: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        self._watches: dict[bytes, Callable[[bytes | None], None]] = {}
        self._tokens = 0
        self._gone: ControlError | None = None
        self.heard = 0
        """Messages that the store has sent."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the store has gone: why."""

    async def request(self, op: Op, payload: bytes, transaction: int = 0) -> bytes:
        """Send one request; return the reply's payload. Raises StoreError and ControlError."""
        if len(payload) > PAYLOAD_MAX:
            raise StoreError("E2BIG")
        if self._gone is not None:
            raise self._gone
        return await self._send([(op, payload)], transaction)[0]

    async def send(
        self, requests: Sequence[Request], transaction: int = 0
    ) -> list[bytes | StoreError]:
        """Do as `pipeline`, in a transaction that is known by its number."""
        if any(len(payload) > PAYLOAD_MAX for _, payload in requests):
            raise StoreError("E2BIG")
        if self._gone is not None:
            raise self._gone
        replies = await asyncio.gather(*self._send(requests, transaction), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, StoreError):
                raise reply
        return cast(list[bytes | StoreError], replies)

    def _send(self, requests: Sequence[Request], transaction: int) -> list[asyncio.Future[bytes]]:
        loop = asyncio.get_running_loop()
        messages, replies = [], []
        for op, payload in requests:
            serial = self._serial = self._serial % _REQUEST_MAX + 1
            reply: asyncio.Future[bytes] = loop.create_future()
            self._asked[serial] = (op, reply)
            messages.append(encode(Message(op, serial, transaction, payload)))
            replies.append(reply)
        self._write(b"".join(messages))
        return replies

    def subscribe(self, path: bytes, told: Callable[[bytes | None], None]) -> Callable[[], None]:
        """Have `told` called with what changes at or below a path, and at once with the path.

        It is called with None when the store has gone. Return how to hear no more of it.
        """
        self._tokens += 1
        token = b"%d" % self._tokens
        self._watches[token] = told
        self._tell(Op.WATCH, join(path, token))

        def stop() -> None:
            if self._watches.pop(token, None) is not None:
                self._tell(Op.UNWATCH, join(path, token))

        return stop

    @asynccontextmanager
    async def watch(self, path: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Watch a path: have what changed at or below it, after a first event for itself."""
        self._tokens += 1
        token = b"%d" % self._tokens
        queue = asyncio.Queue[bytes | None]()
        self._watches[token] = queue.put_nowait
        try:
            await self.request(Op.WATCH, join(path, token))
            yield self._events(queue)
            if self._gone is None:
                await self.request(Op.UNWATCH, join(path, token))
        except BaseException:
            self._tell(Op.UNWATCH, join(path, token))
            raise
        finally:
            del self._watches[token]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Requests]:
        """Do several requests at once or not at all. Raises StoreError(EAGAIN) on conflict."""
        number = int((await self.request(Op.TRANSACTION_START, b"\0"))[:-1])
        try:
            yield Requests(self, number)
        except BaseException:
            with suppress(StoreError, ControlError):
                await self.request(Op.TRANSACTION_END, join(b"F"), number)
            raise
        await self.request(Op.TRANSACTION_END, join(b"T"), number)

    async def atomically(self, work: Callable[[Requests], Awaitable[T]]) -> T:
        """Do `work` in a transaction, again and again until none has come between."""
        while True:
            try:
                async with self.transaction() as requests:
                    done = await work(requests)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise
            else:
                return done

    def _tell(self, op: Op, payload: bytes, transaction: int = 0) -> None:
        """Send a request whose reply nobody waits for."""
        if self._gone is None:
            self._send([(op, payload)], transaction)[0].cancel()

    async def _events(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        while (path := await queue.get()) is not None:
            yield path
        if self._gone is not None:
            raise self._gone

    def take(self, data: bytes) -> None:
        """Take what the store has sent. Raises ProtocolError when it is not its protocol."""
        for message in self._messages.feed(data):
            self.heard += 1
            self._take(message)

    def lose(self, reason: str) -> None:
        """The store has gone: tell whoever waits for it."""
        self._gone = ControlError(reason)
        if not self.lost.done():
            self.lost.set_result(reason)
        for _, reply in self._asked.values():
            if not reply.done():
                reply.set_exception(self._gone)
        for told in list(self._watches.values()):
            told(None)

    def _take(self, message: Message) -> None:
        if message.op == Op.WATCH_EVENT:
            fields = strings(message.payload)
            if len(fields) < 2:
                raise WireError("a watch event without a token")
            if (told := self._watches.get(fields[1])) is not None:
                told(fields[0])
            return
        op, reply = self._asked.get(message.request, (None, None))
        if reply is None or message.op not in (op, Op.ERROR):
            raise WireError(f"a reply of type {message.op} to request {message.request}")
        del self._asked[message.request]
        if reply.done():  # whoever asked waits no more
            if message.op == Op.TRANSACTION_START:
                self._tell(Op.TRANSACTION_END, join(b"F"), int(message.payload[:-1]))
        elif message.op == Op.ERROR:
            name = message.payload.rstrip(b"\0").decode("ascii", "replace")
            reply.set_exception(StoreError(name if name in ERRORS else "EIO"))
        else:
            reply.set_result(message.payload)


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[Client]:
    """Connect to the daemon at a socket. Raises ControlError if none answers."""
    loop = asyncio.get_running_loop()
    try:
        transport, connection = await loop.create_unix_connection(_Connection, str(path))
    except OSError as error:
        raise ControlError(
            f"no XenStore answers at {path}: {error.strerror}; start one, or name its socket"
        ) from error
    try:
        yield connection.client
    finally:
        connection.lose("the client is closed")
        transport.abort()  # nobody waits for what has not been sent
        await connection.closed


class _Connection(asyncio.Protocol):
    """A client's socket. What comes is taken at once: no task has to wake up for it."""

    client: Client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be a client."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self.client = Client(self._transport.write)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take replies and events."""
        try:
            self.client.take(data)
        except ProtocolError as error:
            self.lose(f"the store does not speak its protocol: {error}")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Have it known."""
        self.lose("the store has closed the connection")
        if not self.closed.done():  # unless who waited for it was cancelled
            self.closed.set_result(None)

    def lose(self, reason: str) -> None:
        """Say why it is over, unless it has been said."""
        if not self.client.lost.done():
            self.client.lose(reason)
