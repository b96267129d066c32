"""A Linux guest without a virtual machine, and a Synjitsu of few lines that splices clients to it.

The guest is a namespace, so its TCP is that of the kernel that we run on; its link is a cable.
"""

import asyncio
import hashlib
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Interface
from typing import Any

import pytest
from pyroute2 import IPRoute

from host import kernel
from host.kernel import BRIDGE, NETWORK, WWW, Lab, Station
from jitsu.core.segment import Ends, decode, encode
from jitsu.core.splice import Effect, Failed, Shift, Spliced, Splices, ToClient, ToGuest
from jitsu.errors import WireError
from jitsu.host import netlink
from jitsu.host.link import KernelNetwork, kernel_network
from jitsu.host.netns import CLIENT_PORT, two_hosts
from jitsu.host.rtnetlink import Requests
from jitsu.host.splice import Splicer
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import Flags, Options, Segment, seq_add, seq_diff

PORT = 80
WINDOW = 8192
PATIENCE = 30.0
GUEST_PORT, GUEST_END = f"{BRIDGE}-g0", "guest0"
CLIENT, CLIENT6 = "10.77.0.2", "fd77::2"


def body(path: str) -> bytes:
    """Return what the guest serves there: as much as many segments hold."""
    return random.Random(path).randbytes(100_000)


class _Handler(BaseHTTPRequestHandler):
    """Serves bodies, and says what the hash is of what it is sent."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        self._answer(body(self.path))

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(hashlib.sha256(sent).hexdigest().encode())

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 256


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def guest(lab: Lab) -> Iterator[None]:
    """Have a guest with a server on the port of service www."""
    with two_hosts(IPv4Interface("192.0.2.1/32")) as elsewhere, IPRoute() as ipr:
        there = elsewhere.host
        mac = WWW.mac.hex(":")
        peer = {"ifname": GUEST_END, "net_ns_fd": there, "address": mac}
        ipr.link("add", ifname=GUEST_PORT, kind="veth", peer=peer)
        ipr.link("set", ifname=GUEST_PORT, master=lab.bridge.index, state="up")
        theirs = introduce(lab)
        with lab.hosts.at(there):
            _ip("link", "set", GUEST_END, "up")
            _ip("address", "add", f"{WWW.address}/24", "dev", GUEST_END)
            _ip("address", "add", f"{WWW.address6}/64", "dev", GUEST_END, "nodad")
            _know(GUEST_END, theirs, CLIENT, CLIENT6)
            server = _Server(("::", PORT), _Handler)
        kernel.forwards(GUEST_PORT)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def introduce(lab: Lab) -> str:
    """Give the client an IPv6 address, and tell it where www is; return its MAC address."""
    with lab.hosts.at(lab.hosts.client), IPRoute() as here:
        _ip("address", "add", f"{CLIENT6}/64", "dev", CLIENT_PORT, "nodad")
        _know(CLIENT_PORT, WWW.mac.hex(":"), str(WWW.address), str(WWW.address6))
        return str(here.link("get", ifname=CLIENT_PORT)[0].get("IFLA_ADDRESS"))


def _know(interface: str, mac: str, *addresses: str) -> None:
    """Spare the neighbours their questions: they are not what is tested here."""
    for address in addresses:
        _ip("neigh", "add", address, "lladdr", mac, "dev", interface, "nud", "permanent")


@dataclass(slots=True)
class Conversation:
    """What Synjitsu knows of one client."""

    ends: Ends
    irs: int
    iss: int
    window: int
    state: TcbState = TcbState.SYN_RECEIVED
    received: bytearray = field(default_factory=bytearray)

    @property
    def rcv_nxt(self) -> int:
        closed = self.state is TcbState.CLOSE_WAIT
        return seq_add(self.irs, 1 + len(self.received) + closed)

    def take(self, segment: Segment) -> None:
        if self.state is TcbState.SYN_RECEIVED:
            self.state = TcbState.ESTABLISHED
        new = seq_diff(self.rcv_nxt, segment.seq)
        if new >= 0 and self.state is TcbState.ESTABLISHED:
            self.received += segment.payload[new : new + WINDOW - len(self.received)]
            if segment.flags & Flags.FIN:
                self.state = TcbState.CLOSE_WAIT

    def answer(self) -> Segment:
        half_open = self.state is TcbState.SYN_RECEIVED
        return Segment(
            self.ends.port,
            self.ends.peer_port,
            self.iss if half_open else seq_add(self.iss, 1),
            self.rcv_nxt,
            Flags.SYN | Flags.ACK if half_open else Flags.ACK,
            WINDOW - len(self.received),
            Options(mss=1460) if half_open else Options(),
        )

    def tcb(self) -> Tcb:
        half_open = self.state is TcbState.SYN_RECEIVED
        ends = self.ends
        return Tcb(
            *(self.state, ends.local, ends.port, ends.peer, ends.peer_port, ends.peer_mac),
            iss=self.iss,
            snd_una=self.iss if half_open else seq_add(self.iss, 1),
            snd_nxt=seq_add(self.iss, 1),
            snd_wnd=self.window,
            irs=self.irs,
            rcv_nxt=self.rcv_nxt,
            rcv_wnd=WINDOW - len(self.received),
            mss=1460,
            rx=len(self.received),
        )


Wanted = Callable[["Proxy"], bool]
"""Says when it is time to splice."""


class Proxy:
    """Completes handshakes at Synjitsu's port; splices all to the guest when it is time.

    `to_guest` sends a frame on the guest's link; what comes from there is given to `guest_sent`.
    """

    def __init__(
        self, network: KernelNetwork, to_guest: Callable[[bytes], None], time: Wanted
    ) -> None:
        self.conversations: dict[tuple[object, int], Conversation] = {}
        self.splicer = Splicer(socket.if_nametoindex(GUEST_PORT))
        self.outcomes: list[Spliced | Failed] = []
        self.held: list[bytes] = []
        self.handed_over = False
        self._network = network
        self._to_guest = to_guest
        self._time = time
        self._splices: Splices | None = None
        self._loop = asyncio.get_running_loop()
        self._numbers = random.Random(1)

    def frame(self, data: bytes) -> None:
        """Take a frame that has reached Synjitsu's port."""
        try:
            ends, segment = decode(data)
        except WireError:
            self._to_guest(data)  # an answer to what it has asked its neighbours
            return
        if self.handed_over:
            self._network.send(data)
        elif self._splices is not None:
            self.held.append(data)
        else:
            self._take(ends, segment)
            self.look()

    def look(self) -> None:
        """Splice if it is time."""
        if self._splices is None and self._time(self):
            self._splice()

    def guest_sent(self, frame: bytes) -> None:
        """Take a frame of the guest's."""
        if self._splices is not None:
            self._perform(self._splices.handle(frame, self._loop.time()))

    def _take(self, ends: Ends, segment: Segment) -> None:
        key = (ends.peer, ends.peer_port)
        if segment.flags & Flags.SYN and key in self.conversations:
            talk = self.conversations[key]  # it has been sent again
        elif segment.flags & Flags.SYN:
            iss = self._numbers.getrandbits(32)
            talk = Conversation(ends, segment.seq, iss, min(segment.window, 65535))
            self.conversations[key] = talk
        else:
            talk = self.conversations[key]
            talk.take(segment)
        if segment.length:
            self._network.send(encode(talk.ends, talk.answer()))

    def _splice(self) -> None:
        flows = [(talk.tcb(), bytes(talk.received)) for talk in self.conversations.values()]
        self._splices = Splices(WWW.mac, flows, PATIENCE)
        self._perform(self._splices.begin(self._loop.time()))
        self._arm()

    def _arm(self) -> None:
        assert self._splices is not None
        at = self._splices.deadline()
        if at is not None:
            self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        assert self._splices is not None
        if not self.handed_over:
            self._perform(self._splices.tick(self._loop.time()))
            self._arm()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case ToGuest(frame):
                    self._to_guest(frame)
                case ToClient(frame):
                    self._network.send(frame)
                case Shift(ends, numbers):
                    self.splicer.add(ends, numbers)
                case Spliced():
                    self.outcomes.append(effect)
                case Failed(ends):
                    self.outcomes.append(effect)
                    self.splicer.remove(ends)
        if not self._splices and not self.handed_over:
            self._hand_over()

    def _hand_over(self) -> None:
        with closing(Requests()) as requests:
            requests.send(netlink.own(WWW.mac, socket.if_nametoindex(GUEST_PORT)))
        for frame in self.held:
            self._to_guest(frame)
        self.handed_over = True


Story = Callable[[Lab, Proxy], Coroutine[Any, Any, None]]


def play(story: Story, time: Wanted) -> None:
    """Play `story` with a real client and guest; nothing of it is left."""

    async def main(lab: Lab, network: KernelNetwork) -> None:
        station, loop = Station(GUEST_PORT), asyncio.get_running_loop()
        proxy = Proxy(network, station.send, time)

        def readable() -> None:
            frame, origin = station.socket.recvfrom(1 << 17)
            if origin[2] != socket.PACKET_OUTGOING:
                proxy.guest_sent(frame)

        network.listen(proxy.frame, lambda error: pytest.fail(str(error)))
        loop.add_reader(station.socket, readable)
        try:
            await story(lab, proxy)
            await network.own(WWW, None)  # and what was begun before is done
        finally:
            network.deafen()
            loop.remove_reader(station.socket)
            station.socket.close()
            proxy.splicer.close()

    with kernel.lab() as lab, guest(lab):
        services = (WWW,)
        with kernel_network(lab.bridge, NETWORK.probe, services, pytest.fail) as network:
            asyncio.run(main(lab, network))


def run(lab: Lab, *command: str) -> subprocess.Popen[bytes]:
    """Start a command at the client."""
    with lab.hosts.at(lab.hosts.client):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


async def said(process: subprocess.Popen[bytes]) -> str:
    """Return what a command has printed when it has ended well."""
    text, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, text
    return text.decode()
