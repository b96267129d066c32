"""DNS on sockets: UDP and TCP on each endpoint of the directory, and queries to upstream resolvers.

No decision is made here. What comes in is handed to `deliver` as an event of `core.directory`, and
the daemon performs the directory's effects with `respond` and `forward`. One short cut: a datagram
is first shown to `prepared`, and if that knows the reply by heart it is sent at once.

UDP sockets are read directly, many datagrams a wake-up, instead of through asyncio's transports:
that is faster by a third, and a reply that the kernel has no room for is dropped, as UDP may,
instead of queued without limit. Each endpoint has a socket bound to its address, so a reply leaves
from the address that was asked.

TCP is RFC 7766: a client may send queries without waiting, and gets the answers in whatever order
they are ready. A client that does not read its answers is not read either.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Self

from jitsu.core.directory import Client, Forward, Forwarded, Query
from jitsu.core.question import HEADER_BYTES, QUERY_BYTES_MAX
from jitsu.errors import HostError, WireError
from jitsu.model import Endpoint

RECEIVE_BUFFER = 4 << 20
"""Bytes of queries that the kernel keeps while we are busy; it gives what it allows."""
TCP_BUFFER = 64 << 10
"""Bytes that the kernel keeps for a connection in each direction, so that a crowd stays small."""
DATAGRAMS_AT_ONCE = 64
"""Datagrams read before others of the event loop have their turn: about a millisecond's worth."""
TCP_CONNECTIONS_MAX = 256
"""Connections at once. At the limit, the one that has been silent longest makes room."""
TCP_IDLE = 10.0
"""Seconds without a whole query after which a connection is closed (RFC 7766 section 6.2.3)."""
UPSTREAM_PATIENCE = 2.0
"""Seconds that one upstream has, before the next is asked."""
FORWARD_PATIENCE = 4.5
"""Seconds for all upstreams together: the client gives up after 5."""
FORWARDS_MAX = 512
"""Forwarded queries at once, each one socket. Beyond it they fail at once."""
PORT_TRIES = 16
"""How often a free port is looked for that both UDP and TCP have, if any port will do."""

CLOSE_PATIENCE = 1.0
"""Seconds that a peer gets to take what is left when its connection is closed."""

_REPLY_BYTES_MAX = 65535
_TRUNCATED = 0x02
_RESPONSE = 0x80
_SocketAddress = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Datagram:
    """Where a datagram came in, and from whom: `sender` is as the kernel wrote it."""

    socket: socket.socket
    sender: _SocketAddress


class DnsServer:
    """Serve DNS while the context is open.

    `deliver` is called with each query, and with the outcome of each forwarded one. It must neither
    block nor raise.
    """

    def __init__(
        self,
        listen: Sequence[Endpoint],
        *,
        prepared: Callable[[bytes], bytes | None],
        deliver: Callable[[Query | Forwarded], None],
    ) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        """Where it really listens: a port 0 has become a number."""
        self.prepared = prepared
        """May be replaced: a reload brings another directory."""
        self.unsent = 0
        """Replies that the kernel did not take."""
        self._listen = tuple(listen)
        self._deliver = deliver
        self._forwarding = 0
        self._closing = False
        self._running: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        # In the order of their last query.
        self._connections: dict[asyncio.StreamWriter, None] = {}

    def __repr__(self) -> str:
        """Show where it listens."""
        where = ", ".join(map(str, self.endpoints))
        return f"<DnsServer on {where}, {len(self._connections)} connections>"

    async def __aenter__(self) -> Self:
        """Listen on all endpoints. Raises HostError if one cannot be had; then none is kept."""
        async with AsyncExitStack() as stack:
            # All ports first: what goes wrong inside a TaskGroup comes out as an ExceptionGroup.
            listeners = [_listeners(stack, endpoint) for endpoint in self._listen]
            stack.push_async_callback(self._wait_closed)
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(self._cancel)
            for udp, tcp in listeners:
                await self._serve(stack, udp, tcp)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close all sockets and connections, and give up what is forwarded."""
        await self._stack.aclose()

    def respond(self, client: Client, data: bytes) -> None:
        """Send a reply to a client of ours, if it is still there."""
        match client.token:
            case _Datagram(udp, sender):
                self._send(udp, data, sender)
            case asyncio.StreamWriter() as writer:
                if writer.is_closing():
                    self.unsent += 1
                else:
                    writer.write(_framed(data))
            case _:
                raise AssertionError(f"not a client of this server: {client}")

    def forward(self, effect: Forward) -> None:
        """Ask the upstreams in turn; what comes of it is delivered as Forwarded, or we close."""
        if self._closing:
            return
        if self._forwarding < FORWARDS_MAX:
            self._forwarding += 1
            self._start(self._forward(effect))
        else:
            failed = Forwarded(effect.ident, None)
            asyncio.get_running_loop().call_soon(self._deliver, failed)

    async def _serve(self, stack: AsyncExitStack, udp: socket.socket, tcp: socket.socket) -> None:
        """Serve one endpoint, over UDP and TCP, until the stack unwinds."""
        loop = asyncio.get_running_loop()
        loop.add_reader(udp, self._receive, udp)
        stack.callback(loop.remove_reader, udp)
        server = await asyncio.start_server(self._accept, sock=tcp, limit=2 * QUERY_BYTES_MAX)
        self._servers.append(server)
        stack.callback(server.close)
        address, port = udp.getsockname()[:2]
        self.endpoints += (Endpoint(ip_address(address), port),)

    async def _wait_closed(self) -> None:
        """Wait for the listening sockets to be gone."""
        for server in self._servers:
            await server.wait_closed()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Run something until it ends or the server closes."""
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _cancel(self) -> None:
        """End all conversations and forwarded queries, and let none begin."""
        self._closing = True
        for task in self._running:
            task.cancel()

    def _receive(self, udp: socket.socket) -> None:
        """Read the datagrams that wait, and answer those whose reply is prepared."""
        prepared, receive, send = self.prepared, udp.recvfrom, udp.sendto
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                data, sender = receive(QUERY_BYTES_MAX + 1)
            except OSError:  # nothing is left
                return
            reply = prepared(data)
            if reply is None:
                token = _Datagram(udp, sender)
                self._deliver(Query(data, Client(ip_address(sender[0]), sender[1], "udp", token)))
                continue
            try:
                send(reply, sender)
            except OSError:
                self.unsent += 1

    def _send(self, udp: socket.socket, data: bytes, receiver: _SocketAddress) -> None:
        """Send a datagram now or never."""
        try:
            udp.sendto(data, receiver)
        except OSError:
            self.unsent += 1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection, at the cost of the one that has been silent longest."""
        if self._closing or writer.get_extra_info("peername") is None:  # too late, or gone already
            writer.transport.abort()
            return
        if len(self._connections) >= TCP_CONNECTIONS_MAX:
            silent = next(iter(self._connections))
            del self._connections[silent]
            silent.transport.abort()
        self._connections[writer] = None
        self._start(self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until its client is done, silent, or talks nonsense."""
        address, port = writer.get_extra_info("peername")[:2]
        client = Client(ip_address(address), port, "tcp", writer)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    data = await _read_frame(reader, QUERY_BYTES_MAX)
                    if writer not in self._connections:  # it has just made room
                        break
                    self._connections[writer] = self._connections.pop(writer)
                    self._deliver(Query(data, client))
                    await writer.drain()
                await asyncio.sleep(0)  # a pipeline must not hold up the others
        except (OSError, asyncio.IncompleteReadError, WireError):
            pass
        finally:
            await _close(writer)
            self._connections.pop(writer, None)

    async def _forward(self, effect: Forward) -> None:
        """Ask the upstreams one after the other."""
        reply = None
        try:
            async with asyncio.timeout(FORWARD_PATIENCE):
                for upstream in effect.upstreams:
                    reply = await _ask(upstream, effect.data)
                    if reply is not None:
                        break
        except TimeoutError:
            pass
        finally:
            self._forwarding -= 1
        self._deliver(Forwarded(effect.ident, reply))


def _listeners(stack: AsyncExitStack, endpoint: Endpoint) -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket on one endpoint. Raises HostError if it cannot be had."""
    tries = PORT_TRIES if endpoint.port == 0 else 1
    while True:
        udp = _listener(endpoint, socket.SOCK_DGRAM)
        try:
            same = Endpoint(endpoint.address, udp.getsockname()[1])
            tcp = _listener(same, socket.SOCK_STREAM)
        except HostError:
            udp.close()
            tries -= 1
            if tries == 0:
                raise
        else:
            stack.callback(udp.close)
            stack.callback(tcp.close)
            return udp, tcp


def _listener(endpoint: Endpoint, kind: socket.SocketKind) -> socket.socket:
    """Return a socket that listens. Raises HostError."""
    is_udp = kind is socket.SOCK_DGRAM
    is_v6 = endpoint.address.version == 6
    listener = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, kind)
    try:
        listener.setblocking(False)
        if is_v6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if is_udp:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        else:
            # A restart need not wait until the last one's connections are forgotten.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # connections inherit them
                listener.setsockopt(socket.SOL_SOCKET, buffer, TCP_BUFFER)
        listener.bind((str(endpoint.address), endpoint.port))
        if not is_udp:
            listener.listen()
    except OSError as error:
        listener.close()
        what = f"{endpoint}/{'udp' if is_udp else 'tcp'}"
        raise HostError(
            f"cannot listen on {what}: {error.strerror}; {_advice(error, endpoint)}"
        ) from error
    return listener


def _advice(error: OSError, endpoint: Endpoint) -> str:
    """Say what an operator can do about it."""
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"stop the program that has this port (`ss -lntup 'sport = :{endpoint.port}'` "
                "names it) or choose another in [directory] listen"
            )
        case errno.EADDRNOTAVAIL:
            return "give this address to an interface (`ip addr`) or change [directory] listen"
        case errno.EACCES:
            return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case _:
            return "change [directory] listen"


async def _ask(upstream: Endpoint, query: bytes) -> bytes | None:
    """Ask one upstream, over TCP too if the reply is truncated; return None if it has none.

    The identifier is our own, and unpredictable, as the source port is that the kernel chooses: who
    forges replies has to guess both (RFC 5452). The caller gets its own identifier back.
    """
    ident = os.urandom(2)
    ours = ident + query[2:]
    try:
        async with asyncio.timeout(UPSTREAM_PATIENCE):
            reply = await _ask_udp(upstream, ours)
            if reply[2] & _TRUNCATED:
                reply = await _ask_tcp(upstream, ours)
    except (OSError, asyncio.IncompleteReadError, WireError):
        return None
    return query[:2] + reply[2:]


async def _ask_udp(upstream: Endpoint, query: bytes) -> bytes:
    """Send a datagram, and wait for the reply from just that address."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if upstream.address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect((str(upstream.address), upstream.port))
        await loop.sock_sendall(udp, query)
        while True:
            reply = await loop.sock_recv(udp, _REPLY_BYTES_MAX)
            if _replies(query, reply):
                return reply


async def _ask_tcp(upstream: Endpoint, query: bytes) -> bytes:
    """Ask over a connection of its own. Raises WireError if something else is replied."""
    reader, writer = await asyncio.open_connection(str(upstream.address), upstream.port)
    try:
        writer.write(_framed(query))
        reply = await _read_frame(reader, _REPLY_BYTES_MAX)
    finally:
        await _close(writer)
    if not _replies(query, reply):
        raise WireError("the upstream answered something else")
    return reply


def _replies(query: bytes, reply: bytes) -> bool:
    """Say whether this can be the reply; the directory looks at the question in it."""
    return len(reply) >= HEADER_BYTES and reply[:2] == query[:2] and bool(reply[2] & _RESPONSE)


def _framed(data: bytes) -> bytes:
    """Put a message in the form that it has on a connection: its length comes first."""
    return len(data).to_bytes(2) + data


async def _read_frame(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Read one message. Raises WireError if it is too long."""
    length = int.from_bytes(await reader.readexactly(2))
    if length > bytes_max:
        raise WireError(f"a message of {length} bytes")
    return await reader.readexactly(length)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and let a peer that does not read what is left go without it."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_PATIENCE):
            await writer.wait_closed()
    except OSError:
        writer.transport.abort()
