"""Real sockets on 127.0.0.1: the server, its clients, and upstreams that do not always behave."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import cast

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop
from dns.message import Message

from jitsu.core.directory import (
    Client,
    Directory,
    Forward,
    Forwarded,
    Query,
    Respond,
    StateChanged,
    Summon,
)
from jitsu.core.question import QUERY_BYTES_MAX
from jitsu.errors import HostError
from jitsu.host import dns as host
from jitsu.host.dns import DnsServer
from jitsu.model import DirectoryConfig, Endpoint, Mac, Name, Service, State

LOCAL, LOCAL6 = IPv4Address("127.0.0.1"), IPv6Address("::1")
ANY_PORT = Endpoint(LOCAL, 0)
LONG = ".".join(["o" * 60] * 4)
WWW = Service(
    name=Name("www"),
    dns=("www.jitsu.test", f"www.{LONG}"),
    image="hello.elf",
    address=IPv4Address("10.77.0.10"),
    mac=Mac(bytes(6)),
)
PATIENCE = 5.0


class World:
    """A directory behind real sockets. What it summons is awake as soon as `wake` is called."""

    def __init__(self, *listen: Endpoint, forward: tuple[Endpoint, ...] = ()) -> None:
        config = DirectoryConfig(
            listen=listen, summon_from=(IPv4Network("127.0.0.0/8"),), forward=forward
        )
        self.directory = Directory(config, [WWW], serial=1)
        self.server = DnsServer(
            listen, prepared=self.directory.answer_prepared, deliver=self.deliver
        )
        self.summoned: asyncio.Queue[Name] = asyncio.Queue()

    def deliver(self, event: Query | Forwarded | StateChanged) -> None:
        for effect in self.directory.handle(event, 0.0):
            match effect:
                case Respond():
                    self.server.respond(effect.client, effect.data)
                case Summon():
                    self.summoned.put_nowait(effect.name)
                case Forward():
                    self.server.forward(effect)

    def wake(self) -> None:
        self.deliver(StateChanged(WWW.name, State.AWAKE))

    @property
    def port(self) -> int:
        return self.server.endpoints[0].port


@asynccontextmanager
async def world(
    *listen: Endpoint, forward: tuple[Endpoint, ...] = (), awake: bool = True
) -> AsyncIterator[World]:
    made = World(*(listen or (ANY_PORT,)), forward=forward)
    if awake:
        made.wake()
    async with made.server:
        yield made


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    """Tell a story on both event loops."""
    for runner in (asyncio.Runner(), asyncio.Runner(loop_factory=uvloop.new_event_loop)):
        with runner:
            runner.run(asyncio.wait_for(story(), 30))


def query(name: str = "www.jitsu.test", rdtype: str = "A") -> dns.message.QueryMessage:
    return dns.message.make_query(name, rdtype)


async def udp(port: int, message: Message, where: str = "127.0.0.1") -> Message:
    return await dns.asyncquery.udp(message, where, port=port, timeout=PATIENCE)


async def tcp(port: int, message: Message, where: str = "127.0.0.1") -> Message:
    return await dns.asyncquery.tcp(message, where, port=port, timeout=PATIENCE)


def texts(message: Message) -> list[str]:
    return [str(record) for rrset in message.answer for record in rrset]


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


async def read_message(reader: asyncio.StreamReader) -> Message:
    length = int.from_bytes(await reader.readexactly(2))
    return dns.message.from_wire(await reader.readexactly(length))


# --- serving -------------------------------------------------------------------------------------


def test_answers_over_udp_and_tcp_of_both_families() -> None:
    async def story() -> None:
        async with world(ANY_PORT, Endpoint(LOCAL6, 0)) as here:
            for endpoint in here.server.endpoints:
                for ask in (udp, tcp):
                    # The second answer over UDP is a prepared one.
                    for _ in range(2):
                        reply = await ask(endpoint.port, query(), str(endpoint.address))
                        assert texts(reply) == ["10.77.0.10"]
            assert here.directory.asked() == {WWW.name: 8}
            assert repr(here.server).startswith("<DnsServer on 127.0.0.1:")

    run(story)


def test_a_query_waits_for_the_boot() -> None:
    async def story() -> None:
        async with world(awake=False) as here, asyncio.TaskGroup() as clients:
            asked = [clients.create_task(ask(here.port, query())) for ask in (udp, tcp)]
            for _ in asked:
                assert await here.summoned.get() == "www"
            here.wake()
            for each in asked:
                assert texts(await each) == ["10.77.0.10"]

    run(story)


def test_dig_understands_us() -> None:
    async def story() -> None:
        async with world() as here:
            for more in ("+notcp", "+tcp", "+noedns"):
                dig = await asyncio.create_subprocess_exec(
                    *f"dig @127.0.0.1 -p {here.port} www.jitsu.test A +short {more}".split(),
                    stdout=subprocess.PIPE,
                )
                assert (await dig.communicate())[0] == b"10.77.0.10\n"

    run(story)


def test_malformed_packets_and_then_a_good_one() -> None:
    async def story() -> None:
        async with world() as here:
            good = query().to_wire()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(("127.0.0.1", here.port))
                for length in range(len(good)):
                    client.send(good[:length])
                client.send(good + bytes(4000))
                client.send(b"\xff" * 100)
            assert texts(await udp(here.port, query())) == ["10.77.0.10"]
            counts = here.directory.counts
            assert (counts.dropped_short, counts.malformed) == (12, len(good) - 12 + 1)

    run(story)


def test_a_burst_of_datagrams_is_answered_in_full() -> None:
    async def story() -> None:
        async with world() as here:
            await udp(here.port, query())
            data = query().to_wire()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(("127.0.0.1", here.port))
                loop = asyncio.get_running_loop()
                idents = [number.to_bytes(2) for number in range(3 * host.DATAGRAMS_AT_ONCE)]
                for ident in idents:
                    client.send(ident + data[2:])
                replies = [await loop.sock_recv(client, 512) for _ in idents]
                assert [reply[:2] for reply in replies] == idents

    run(story)


def test_a_reply_that_cannot_be_sent_is_counted() -> None:
    async def story() -> None:
        async with world() as here:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
                pass
            gone = Client(LOCAL, 1, "udp", host._Datagram(closed, ("127.0.0.1", 1)))
            here.server.respond(gone, b"reply")
            assert here.server.unsent == 1
            with pytest.raises(AssertionError, match="not a client"):
                here.server.respond(Client(LOCAL, 1, "udp", None), b"reply")

    run(story)


# --- connections ---------------------------------------------------------------------------------


def test_a_pipeline_is_answered_out_of_order() -> None:
    async def story() -> None:
        async with world(awake=False) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            slow, quick = query(), query("jitsu.test", "SOA")
            data = framed(slow.to_wire()) + framed(quick.to_wire())
            for cut in range(0, len(data), 7):
                writer.write(data[cut : cut + 7])
                await writer.drain()
            assert (await read_message(reader)).id == quick.id
            here.wake()
            assert (await read_message(reader)).id == slow.id
            writer.close()
            await writer.wait_closed()

    run(story)


def test_a_long_pipeline_is_answered_in_full() -> None:
    async def story() -> None:
        async with world() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            idents = list(range(500))
            data = query().to_wire()[2:]
            writer.write(b"".join(framed(ident.to_bytes(2) + data) for ident in idents))
            assert [(await read_message(reader)).id for _ in idents] == idents
            writer.close()
            await writer.wait_closed()

    run(story)


@pytest.mark.parametrize(
    "nonsense", [b"", b"\0", framed(b"x" * (QUERY_BYTES_MAX + 1)), b"GET / HTTP"]
)
def test_a_client_that_talks_nonsense_loses_its_connection(nonsense: bytes) -> None:
    async def story() -> None:
        async with world() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(nonsense)
            writer.write_eof()
            # A reset, if it left something unread.
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            assert texts(await tcp(here.port, query())) == ["10.77.0.10"]

    run(story)


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "TCP_IDLE", 0.01)

    async def story() -> None:
        async with world() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(b"\0")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(story)


def test_the_most_silent_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "TCP_CONNECTIONS_MAX", 2)

    async def story() -> None:
        async with world() as here:
            first, second = [
                await asyncio.open_connection("127.0.0.1", here.port) for _ in range(2)
            ]
            for reader, writer in (first, second, first):
                writer.write(framed(query().to_wire()))
                await read_message(reader)
            assert texts(await tcp(here.port, query())) == ["10.77.0.10"]
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await read_message(second[0])
            first[1].write(framed(query().to_wire()))
            assert texts(await read_message(first[0])) == ["10.77.0.10"]
            for _, writer in (first, second):
                writer.close()

    run(story)


def test_an_answer_for_a_client_that_left_is_dropped() -> None:
    async def story() -> None:
        async with world(awake=False) as here:
            _, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(framed(query().to_wire()))
            await here.summoned.get()
            writer.transport.abort()
            await asyncio.gather(*here.server._running)
            here.wake()
            assert here.server.unsent == 1

    run(story)


def test_a_client_that_reads_nothing_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "TCP_IDLE", 0.2)
    monkeypatch.setattr(host, "CLOSE_PATIENCE", 0.01)

    async def story() -> None:
        async with world() as here:
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", here.port))
                pipeline = framed(query(LONG, "SOA").to_wire()) * 100_000
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await loop.sock_sendall(client, pipeline)
            assert texts(await tcp(here.port, query())) == ["10.77.0.10"]

    run(story)


def test_closing_ends_open_connections() -> None:
    async def story() -> None:
        async with world() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(framed(query().to_wire()))
            await read_message(reader)
            port = here.port
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        async with world(Endpoint(LOCAL, port)) as here:
            assert texts(await udp(port, query())) == ["10.77.0.10"]

    run(story)


# --- what can be wrong with a port ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "protocol"), [(socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")]
)
def test_a_port_that_is_taken(kind: socket.SocketKind, protocol: str) -> None:
    async def story() -> None:
        with socket.socket(socket.AF_INET, kind) as holder:
            holder.bind(("127.0.0.1", 0))
            if kind is socket.SOCK_STREAM:
                holder.listen()
            port = holder.getsockname()[1]
            wanted = f"cannot listen on 127.0.0.1:{port}/{protocol}: Address already in use; stop"
            with pytest.raises(HostError, match=wanted):
                async with world(ANY_PORT, Endpoint(LOCAL, port)):
                    raise AssertionError("it listens")

    run(story)


def test_an_address_that_nobody_has() -> None:
    async def story() -> None:
        with pytest.raises(HostError, match=r"cannot listen on 192\.0\.2\.1:53/udp: .*; give"):
            async with world(Endpoint(IPv4Address("192.0.2.1"), 53)):
                raise AssertionError("it listens")

    run(story)


def test_advice_for_other_errors() -> None:
    endpoint = Endpoint(LOCAL, 53)
    assert "root" in host._advice(PermissionError(13, "Permission denied"), endpoint)
    assert "listen" in host._advice(OSError(22, "Invalid argument"), endpoint)


# --- forwarding ----------------------------------------------------------------------------------

Answer = Callable[[Message], list[bytes]]


class Upstream(asyncio.DatagramProtocol):
    """A resolver that answers over UDP, and over TCP on the same port, as it is told."""

    def __init__(self, over_udp: Answer, over_tcp: Answer) -> None:
        self.over_udp, self.over_tcp = over_udp, over_tcp
        self.asked: list[tuple[str, Message]] = []
        self.reached = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        asked = dns.message.from_wire(data)
        self.asked.append(("udp", asked))
        self.reached.set()
        for reply in self.over_udp(asked):
            self.transport.sendto(reply, addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_message(reader)
        self.asked.append(("tcp", asked))
        for reply in self.over_tcp(asked):
            writer.write(framed(reply))
        writer.close()


def silence(asked: Message) -> list[bytes]:
    return []


def found(asked: Message, *addresses: str) -> Message:
    reply = dns.message.make_response(asked, recursion_available=True)
    if addresses:
        name = asked.question[0].name
        reply.answer.append(dns.rrset.from_text(name, 30, "IN", "A", *addresses))
    return reply


def good(asked: Message) -> list[bytes]:
    return [found(asked, "198.51.100.1").to_wire()]


def truncated(asked: Message) -> list[bytes]:
    reply = found(asked)
    reply.flags |= dns.flags.TC
    return [reply.to_wire()]


def long(asked: Message) -> list[bytes]:
    return [found(asked, *(f"198.51.100.{number}" for number in range(100))).to_wire()]


def forged_first(asked: Message) -> list[bytes]:
    forged = found(asked, "203.0.113.66")
    forged.id ^= 1
    return [b"short", forged.to_wire(), asked.to_wire(), *good(asked)]


def other_ident(asked: Message) -> list[bytes]:
    reply = found(asked, "203.0.113.66")
    reply.id ^= 1
    return [reply.to_wire()]


@asynccontextmanager
async def upstream(
    over_udp: Answer, over_tcp: Answer = silence
) -> AsyncIterator[tuple[Upstream, Endpoint]]:
    fake = Upstream(over_udp, over_tcp)
    udp_socket, tcp_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    tcp_socket.bind(("127.0.0.1", 0))
    port = tcp_socket.getsockname()[1]
    udp_socket.bind(("127.0.0.1", port))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: fake, sock=udp_socket)
    server = await asyncio.start_server(fake.serve, sock=tcp_socket)
    try:
        yield fake, Endpoint(LOCAL, port)
    finally:
        transport.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)


def test_forwards_what_is_not_ours() -> None:
    async def story() -> None:
        async with upstream(good) as (fake, where), world(forward=(where,)) as here:
            asked = query("example.com")
            reply = await udp(here.port, asked)
            assert texts(reply) == ["198.51.100.1"]
            assert texts(await tcp(here.port, query("example.com"))) == ["198.51.100.1"]
            assert texts(await udp(here.port, query())) == ["10.77.0.10"]
            assert [each.question for _, each in fake.asked] == [asked.question] * 2

    run(story)


def test_each_forwarded_query_has_an_identifier_and_a_port_of_its_own() -> None:
    async def story() -> None:
        async with upstream(good) as (fake, where), world(forward=(where,)) as here:
            asked = query("example.com")
            for _ in range(8):
                await udp(here.port, asked)
            assert len({each.id for _, each in fake.asked} | {asked.id}) > 2

    run(story)


def test_a_truncated_reply_is_fetched_over_tcp() -> None:
    async def story() -> None:
        async with upstream(truncated, long) as (fake, where), world(forward=(where,)) as here:
            assert len(texts(await tcp(here.port, query("example.com")))) == 100
            assert [how for how, _ in fake.asked] == ["udp", "tcp"]
            assert (await udp(here.port, query("example.com"))).flags & dns.flags.TC

    run(story)


def test_forged_replies_are_ignored() -> None:
    async def story() -> None:
        async with upstream(forged_first) as (_, where), world(forward=(where,)) as here:
            assert texts(await udp(here.port, query("example.com"))) == ["198.51.100.1"]

    run(story)


@pytest.mark.parametrize("over_udp", [silence, truncated])
@pytest.mark.parametrize("over_tcp", [silence, other_ident])
def test_the_next_upstream_is_asked(
    over_udp: Answer, over_tcp: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "UPSTREAM_PATIENCE", 0.5)

    async def story() -> None:
        async with (
            upstream(over_udp, over_tcp) as (bad_one, bad),
            upstream(good) as (_, fine),
            world(forward=(bad, fine)) as here,
        ):
            assert texts(await udp(here.port, query("example.com"))) == ["198.51.100.1"]
            assert bad_one.asked

    run(story)


def test_no_upstream_at_all_is_servfail() -> None:
    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            where = Endpoint(LOCAL, nobody.getsockname()[1])
        async with world(forward=(where, where)) as here:
            reply = await udp(here.port, query("example.com"))
            assert reply.rcode() == dns.rcode.SERVFAIL

    run(story)


def test_upstreams_together_have_the_patience_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "FORWARD_PATIENCE", 0.01)

    async def story() -> None:
        async with upstream(silence) as (_, where), world(forward=(where,)) as here:
            reply = await udp(here.port, query("example.com"))
            assert reply.rcode() == dns.rcode.SERVFAIL
            assert here.directory.counts.forward_failed == 1

    run(story)


def test_too_many_forwarded_queries_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "FORWARDS_MAX", 0)

    async def story() -> None:
        async with upstream(good) as (fake, where), world(forward=(where,)) as here:
            reply = await udp(here.port, query("example.com"))
            assert (reply.rcode(), fake.asked) == (dns.rcode.SERVFAIL, [])

    run(story)


def test_who_connects_while_it_closes_is_turned_away() -> None:
    async def story() -> None:
        async with world() as here:
            with socket.socket() as client:
                client.connect(("127.0.0.1", here.port))
        nobody = Forward(1, b"", ())
        here.server.forward(nobody)

    run(story)


def test_closing_gives_up_what_is_forwarded() -> None:
    async def story() -> None:
        async with upstream(silence) as (fake, where):
            async with world(forward=(where,)) as here:
                nobody = Client(LOCAL, 1, "udp", None)
                here.deliver(Query(query("example.com").to_wire(), nobody))
                await fake.reached.wait()
            assert here.directory.counts.forward_failed == 0

    run(story)
