"""Simulated ends of a connection: a client that behaves as Linux does, and a small server."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from jitsu.model import Mac, Service
from jitsu.wire import arp, ethernet, icmp, ipv4, ipv6, tcp, udp
from jitsu.wire.ethernet import BROADCAST, EtherType
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import Flags

PORT = 80
SYN_RETRIES = (1.0, 2.0, 4.0)
"""Seconds between SYNs, as Linux waits; then the client gives up."""
Transmit = Callable[[bytes], None]
Address = IPv4Address | IPv6Address
Station = tuple[Mac, Address]


def frame(source: Station, to: Station, protocol: int, payload: bytes) -> bytes:
    """Return the frame that carries `payload` of `protocol` from one station to another."""
    if isinstance(source[1], IPv6Address):
        assert isinstance(to[1], IPv6Address), "both are of one family"
        return framed6(source[0], to[0], ipv6.Packet(source[1], to[1], protocol, payload))
    assert isinstance(to[1], IPv4Address), "both are of one family"
    packet = ipv4.Packet(source[1], to[1], protocol, payload)
    return ethernet.encode(ethernet.Frame(to[0], source[0], EtherType.IPV4, ipv4.encode(packet)))


def framed6(source: Mac, to: Mac, packet: ipv6.Packet) -> bytes:
    """Return the frame of an IPv6 packet, which goes to a group if the packet does."""
    if packet.destination.is_multicast:
        to = ipv6.multicast_mac(packet.destination)
    return ethernet.encode(ethernet.Frame(to, source, EtherType.IPV6, ipv6.encode(packet)))


def segment(source: Station, to: Station, content: tcp.Segment) -> bytes:
    """Return the frame of a segment."""
    return frame(source, to, ipv4.Protocol.TCP, tcp.encode(content, source[1], to[1]))


@dataclass(slots=True)
class Outcome:
    """How it went for a client."""

    syns: int = 0
    arps: int = 0
    body: bytes = b""
    refused: bool = False
    gave_up: bool = False
    connected: bool = False
    closed: bool = False
    """The server has closed after us: the connection lived to its end."""
    reset: bool = False


class Client:
    """One TCP client: ARP, SYN, request, answer, FIN; or echo and datagram."""

    def __init__(self, mac: Mac, address: IPv4Address, transmit: Transmit) -> None:
        self.me = (mac, address)
        self._transmit = transmit
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._isn = int.from_bytes(mac[2:])
        self._neighbours: dict[IPv4Address, Mac] = {}

    def receive(self, data: bytes) -> None:
        """Take a frame."""
        self._inbox.put_nowait(data)

    async def get(self, service: Service, *, linger: float = 0.0) -> Outcome:
        """Fetch the service's page, and keep the connection open for `linger` seconds more."""
        outcome = Outcome()
        peer = await self._neighbour(service, outcome)
        if peer is None:
            return outcome
        answer = await self._connect(peer, outcome)
        if answer is None:
            return outcome
        outcome.connected = True
        seq, ack = tcp.seq_add(self._isn, 1), tcp.seq_add(answer.seq, 1)
        self._send(peer, Flags.ACK | Flags.PSH, seq, ack, b"GET / HTTP/1.1\r\n\r\n")
        while (reply := await self._segment(30.0)) is not None:
            if reply.flags & Flags.RST:
                outcome.reset = True
                return outcome
            outcome.body += reply.payload
            ack = tcp.seq_add(reply.seq, reply.length)
            if reply.payload:
                break
        if reply is None:
            outcome.gave_up = True
            return outcome
        seq = reply.ack
        last = await self._segment(linger) if linger else None
        if last is None:
            self._send(peer, Flags.ACK | Flags.FIN, seq, ack)
            last = await self._segment(1.0)
        if last is not None:
            outcome.reset = bool(last.flags & Flags.RST)
            outcome.closed = bool(last.flags & Flags.FIN)
        return outcome

    def knock(self, service: Service, number: int) -> None:
        """Send a SYN of connection `number`, from an address that is not ours, and forget it."""
        source = (self.me[0], IPv4Address(int(self.me[1]) & 0xFFFFFF00 | number & 0x7F))
        syn = tcp.Segment(1024 + number % 60000, PORT, number, 0, Flags.SYN, 65535)
        self._transmit(segment(source, (service.mac, service.address), syn))

    async def ping(self, service: Service) -> bool:
        """Send one echo request; say whether the reply comes within 3 s."""
        peer = await self._neighbour(service, Outcome())
        request = icmp.encode(icmp.EchoRequest(1, 1, b"are you there?"))
        if peer is None:
            return False
        self._transmit(frame(self.me, peer, ipv4.Protocol.ICMP, request))
        return await self._answered(ipv4.Protocol.ICMP)

    async def datagram(self, service: Service) -> bool:
        """Send one datagram to the echo port; say whether anything comes back within 3 s."""
        peer = await self._neighbour(service, Outcome())
        if peer is None:
            return False
        echo = udp.encode(udp.Datagram(4000, 7, b"echo"), self.me[1], peer[1])
        self._transmit(frame(self.me, peer, ipv4.Protocol.UDP, echo))
        return await self._answered(ipv4.Protocol.UDP, ipv4.Protocol.ICMP)

    async def _neighbour(
        self, service: Service, outcome: Outcome
    ) -> tuple[Mac, IPv4Address] | None:
        """Resolve the address, asking three times; once known, it is remembered."""
        if service.address in self._neighbours:
            return self._neighbours[service.address], service.address
        who = arp.Arp(arp.Operation.REQUEST, *self.me, ethernet.UNKNOWN, service.address)
        for _ in range(3):
            outcome.arps += 1
            question = ethernet.Frame(BROADCAST, self.me[0], EtherType.ARP, arp.encode(who))
            self._transmit(ethernet.encode(question))
            reply = await self._next(1.0, lambda f: f.ethertype == EtherType.ARP)
            if reply is not None:
                mac = arp.decode(reply.payload).sender_mac
                self._neighbours[service.address] = mac
                return mac, service.address
        outcome.gave_up = True
        return None

    async def _connect(self, peer: tuple[Mac, IPv4Address], outcome: Outcome) -> tcp.Segment | None:
        for patience in SYN_RETRIES:
            outcome.syns += 1
            self._send(peer, Flags.SYN, self._isn, 0)
            answer = await self._segment(patience)
            if answer is not None:
                outcome.refused = bool(answer.flags & Flags.RST)
                return None if outcome.refused else answer
        outcome.gave_up = True
        return None

    def _send(
        self, peer: tuple[Mac, IPv4Address], flags: Flags, seq: int, ack: int, data: bytes = b""
    ) -> None:
        content = tcp.Segment(5000, PORT, seq, ack, flags, 65535, payload=data)
        self._transmit(segment(self.me, peer, content))

    async def _segment(self, patience: float) -> tcp.Segment | None:
        got = await self._next(patience, lambda f: _protocol(f) == ipv4.Protocol.TCP)
        if got is None:
            return None
        packet = ipv4.decode(got.payload)
        return tcp.decode(packet.payload, packet.source, packet.destination)

    async def _answered(self, *protocols: ipv4.Protocol) -> bool:
        return await self._next(3.0, lambda f: _protocol(f) in protocols) is not None

    async def _next(
        self, patience: float, wanted: Callable[[ethernet.Frame], bool]
    ) -> ethernet.Frame | None:
        try:
            async with asyncio.timeout(patience):
                while True:
                    got = ethernet.decode(await self._inbox.get())
                    if got.destination == self.me[0] and wanted(got):
                        return got
        except TimeoutError:
            return None


@dataclass(slots=True)
class Server:
    """A guest's network: answers ARP, echo and datagrams, and serves one page.

    It keeps the sequence numbers that a connection needs on links that lose nothing.
    """

    mac: Mac
    address: IPv4Address
    transmit: Transmit
    page: bytes
    listens: bool = True
    flows: set[tuple[IPv4Address, int]] = field(default_factory=set)

    def announce(self) -> None:
        """Send what guests send first."""
        packet = arp.encode(arp.announcement(self.mac, self.address))
        self.transmit(ethernet.encode(ethernet.Frame(BROADCAST, self.mac, EtherType.ARP, packet)))

    def adopt(self, flow: Tcb, received: bytes) -> None:
        """Go on with a connection that was opened for this server."""
        assert isinstance(flow.peer, IPv4Address)
        me, peer = (self.mac, self.address), (flow.peer_mac, flow.peer)
        self.flows.add((flow.peer, flow.peer_port))
        ended = flow.state is TcbState.CLOSE_WAIT
        if received or ended:
            flags = Flags.ACK | (Flags.FIN if ended else Flags.PSH)
            seq = tcp.seq_add(flow.irs, 1)
            came = tcp.Segment(
                flow.peer_port, flow.port, seq, flow.snd_nxt, flags, 65535, payload=received
            )
            for answer in self._segment(flow.peer, came):
                self.transmit(segment(me, peer, answer))

    def receive(self, data: bytes) -> None:
        """Take a frame."""
        got = ethernet.decode(data)
        if got.ethertype == EtherType.ARP:
            self._arp(got)
        elif got.ethertype == EtherType.IPV4 and got.destination == self.mac:
            self._packet(got, ipv4.decode(got.payload))

    def _arp(self, got: ethernet.Frame) -> None:
        asked = arp.decode(got.payload)
        if asked.operation is arp.Operation.REQUEST and asked.target_ip == self.address:
            answer = arp.encode(arp.reply_to(asked, self.mac))
            self.transmit(
                ethernet.encode(ethernet.Frame(got.source, self.mac, EtherType.ARP, answer))
            )

    def _packet(self, got: ethernet.Frame, packet: ipv4.Packet) -> None:
        me, peer = (self.mac, self.address), (got.source, packet.source)
        match packet.protocol:
            case ipv4.Protocol.TCP:
                content = tcp.decode(packet.payload, packet.source, packet.destination)
                for answer in self._segment(packet.source, content):
                    self.transmit(segment(me, peer, answer))
            case ipv4.Protocol.UDP:
                asked = udp.decode(packet.payload, packet.source, packet.destination)
                echo = udp.Datagram(asked.destination_port, asked.source_port, asked.payload)
                payload = udp.encode(echo, self.address, packet.source)
                self.transmit(frame(me, peer, ipv4.Protocol.UDP, payload))
            case _:
                asked_echo = icmp.decode(packet.payload)
                if isinstance(asked_echo, icmp.EchoRequest):
                    payload = icmp.encode(asked_echo.reply())
                    self.transmit(frame(me, peer, ipv4.Protocol.ICMP, payload))

    def _segment(self, source: IPv4Address, got: tcp.Segment) -> list[tcp.Segment]:
        flow = (source, got.source_port)
        isn = 7777

        def answer(flags: Flags, seq: int, payload: bytes = b"") -> tcp.Segment:
            ack = tcp.seq_add(got.seq, got.length)
            return tcp.Segment(
                got.destination_port, got.source_port, seq, ack, flags, 65535, payload=payload
            )

        if got.flags & Flags.RST:
            self.flows.discard(flow)
            return []
        if not self.listens or (flow not in self.flows and not got.flags & Flags.SYN):
            reset = tcp.reset_for(got)
            return [reset] if reset else []
        if got.flags & Flags.SYN:
            self.flows.add(flow)
            return [answer(Flags.SYN | Flags.ACK, isn)]
        if got.flags & Flags.FIN:
            self.flows.discard(flow)
            return [answer(Flags.FIN | Flags.ACK, got.ack)]
        return [answer(Flags.ACK | Flags.PSH, got.ack, self.page)] if got.payload else []


def _protocol(got: ethernet.Frame) -> int:
    return got.payload[9] if got.ethertype == EtherType.IPV4 else -1
