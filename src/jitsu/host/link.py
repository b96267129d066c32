"""A `Network` made of the kernel's bridge, taps and cables.

System calls that take the rtnl lock, or wait for an RCU grace period as closing a packet socket
or a tap does (6 and 20 ms measured), run on a thread: the event loop also answers DNS queries for
services that are awake, and those wait for nobody.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from jitsu.core.readiness import OWN_MAC
from jitsu.core.segment import Ends
from jitsu.core.summon import Traffic
from jitsu.errors import HostError
from jitsu.host import bpf, netlink, orphans, splice, veth
from jitsu.host.ahead import Ahead, AheadOf
from jitsu.host.bridge import Bridge, port_settings
from jitsu.host.firewall import Firewall
from jitsu.host.network import FrameHandler, GuestLink
from jitsu.host.rtnetlink import Requests
from jitsu.host.splice import Spliceable, Splicer
from jitsu.host.storeport import StorePort, packet_socket
from jitsu.host.tap import open_tap, tap_name
from jitsu.model import Handoff, Mac, Name, Service
from jitsu.wire.ethernet import EtherType

T = TypeVar("T")
_ETH_P_ALL = 3
_STORE_LINK = EtherType.STORE_LINK.to_bytes(2, "big")
_FRAME_MAX = 9216 + 18
"""A jumbo frame; no larger one crosses a bridge."""
_GUEST_FRAME_MAX = 65535 + 18
"""What a guest may send at once: it leaves segmentation to the host."""
_TIDY_AFTER = 0.05
"""Seconds until what a boot has left is closed, and a tap made: its guest may need the CPU now."""
_CABLES_MAX = 8
"""Programs for each of which a cable lies ready, called as its service's is and with its addresses:
to rename an interface the kernel waits for all that may have seen it. Each takes 1.4 MB."""
_BATCH = 64
"""Frames taken from Synjitsu's port before the loop serves others: about half a millisecond."""


class KernelLink(Spliceable):
    """One guest's interface. It is nobody's until it joins the bridge."""

    def __init__(self, name: str, fd: int, bridge: Bridge, network: "KernelNetwork") -> None:
        """Own interface `name`, whose other end is `fd`, or -1 where that is the hypervisor's."""
        self.requests = (b"", b"")
        self.peer_index = 0
        """Which link of its own namespace a process has at the other end."""
        self.name = name
        self.fd = fd
        try:
            self.index = socket.if_nametoindex(name)
        except OSError as error:
            self.release()
            raise HostError(f"{name}: {error}") from error
        self.entry = b""
        """The request that makes this link the owner: encoded while the guest boots."""
        self.service: Service | None = None
        self._network = network
        self._bridge = bridge
        self._socket: socket.socket | None = None
        self._store: StorePort | None = None
        """What the guest's store link says before anybody attends waits here."""
        self._on_frame: FrameHandler | None = None
        self.splicer: Splicer | None = None
        self._orphans: list[orphans.Orphan] = []
        self.remove = b""
        """The request that removes the interface, where that does not go with its guest."""

    def __repr__(self) -> str:
        """Return the interface's name."""
        return f"<KernelLink {self.name}>"

    def release(self) -> None:
        """Close the descriptor; quick, for the guest has its own by now."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def hear(self, on_frame: FrameHandler) -> None:
        """Listen to it."""
        self._on_frame = on_frame
        if self._socket is None:
            self.open()

    def open(self) -> None:
        """Have what is listened with. Raises HostError."""
        self._socket = packet_socket(self.name, _ETH_P_ALL)
        if self._is_process:  # which may speak to the store before anybody attends
            self._store = StorePort(self.name, self._network.closers)

    async def join(self, on_frame: FrameHandler) -> None:
        """Make the tap a port of the bridge and listen to it."""
        if self._on_frame is None:
            self.hear(on_frame)
        assert self._socket is not None
        assert self.service is not None
        self.name = self._network.name_of(self.service)
        if not self._is_process or (self.splices and self.splicer is None):
            self.splicer = await self._network.on_netlink(self._go_up)
        # Bound to a link that was down, the socket holds an error; frames since then wait in it.
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)
        self.entry = netlink.own(self.service.mac, self.index)

    @property
    def _is_process(self) -> bool:
        """Whether it is joined to the bridge by the guest itself."""
        return self.peer_index > 0

    @property
    def splices(self) -> bool:
        """Whether it translates for its guest."""
        return self.service is not None and self.service.handoff is Handoff.SPLICE

    def splice(self) -> None:
        """Be ready to; blocks. Raises HostError."""
        self.splicer = Splicer(self.index)

    def discard(self) -> None:
        """Remove it, which nobody has used; blocks."""
        if self.splicer is not None:
            self.splicer.close()
        self.release()
        if self._socket is not None:
            self._socket.close()
        if self._store is not None:
            self._store.discard()
        if self.remove:
            veth.remove(self.remove)

    def _go_up(self) -> Splicer | None:
        """Do all that waits for the kernel, in one go: each way to a thread and back takes time."""
        if not self._is_process:
            self._network.send_now(self.joining())
        return Splicer(self.index, self._network.programs()) if self.splices else None

    def joining(self) -> bytes:
        """Encode the request that makes it a port of the bridge, called as its service's is."""
        assert self.service is not None
        return netlink.join(self.index, self._bridge.index, self._network.name_of(self.service))

    async def sweep(self) -> None:
        """Forget what is over, on the thread that also closes the splicer."""
        await self._network.on_netlink(self.forget)

    def send(self, frame: bytes) -> None:
        """Send to the guest."""
        if self._socket is not None:
            try:
                self._socket.send(frame)
            except OSError:
                self._network.lost += 1

    def attend(self, on_payload: FrameHandler) -> StorePort:
        """Listen to the guest's store link."""
        port, self._store = self._store or StorePort(self.name, self._network.closers), None
        port.listen(on_payload)
        return port

    def deafen(self) -> None:
        """Stop listening."""
        listener, self._socket = self._socket, None
        if listener is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            self._network.listeners.add(listener)
            loop.call_later(_TIDY_AFTER, self._network.tidy, listener)

    async def close(self) -> None:
        """Stop listening and let the descriptor go; the guest's connections are no more."""
        self.deafen()
        store, self._store = self._store, None
        if store is not None:
            store.close()
        splicer, self.splicer = self.splicer, None
        if splicer is not None:
            await self._network.on_netlink(splicer.close)
        fd, self.fd = self.fd, -1
        if fd >= 0:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._network.closers, os.close, fd)
        remove, self.remove = self.remove, b""
        if remove:
            # Not on the thread that boots wait for: it takes the kernel tens of milliseconds.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._network.closers, veth.remove, remove)
        if self.service is not None and self._on_frame is not None:
            # What has never joined had no connections: those there are, are another guest's.
            self._orphans = await self._network.forget(self.service)
        if self.service is not None:
            self._network.prepare_for(self.service)

    def ask_orphans(self) -> None:
        """Ask them by the host's routes."""
        self._network.ask(self._orphans)
        self._orphans = []

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if self._socket is None or self._on_frame is None:
                return
            try:
                frame, origin = self._socket.recvfrom(_GUEST_FRAME_MAX)
            except OSError:  # nothing more, or the tap is down
                return
            # The store link is for its own port, and no sign that the guest has its addresses.
            if origin[2] != socket.PACKET_OUTGOING and frame[12:14] != _STORE_LINK:
                self._on_frame(frame)


class KernelNetwork:
    """A bridge of this network namespace with Synjitsu's port on it."""

    def __init__(
        self,
        bridge: Bridge,
        firewall: Firewall,
        numbers: dict[Name, int],
        register: orphans.Register,
    ) -> None:
        self.lost = 0
        """Frames that a full queue or a vanished guest has lost."""
        self.listeners: set[socket.socket] = set()
        """Sockets that have listened to boots, to be closed when there is time."""
        self.closers = ThreadPoolExecutor(4, thread_name_prefix="close")
        self._bridge = bridge
        self._firewall = firewall
        self._register = register
        self.remember = register.remember
        self._numbers = numbers
        self._netlink = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._nftables = ThreadPoolExecutor(1, thread_name_prefix="nftables")
        self._entries: dict[Mac, bytes] = {}
        self._taps = Ahead(partial(self._netlink.submit, self._tap, f"{bridge.name}-new"))
        # A namespace takes long to make: not on the thread that boots wait for.
        self._cables = Ahead(partial(self.closers.submit, self._veth, f"{bridge.name}-net"))
        self._has_programs = False
        self._own_cables = AheadOf(
            _CABLES_MAX, lambda service: self.closers.submit(self._cable, service)
        )
        self._programs = Ahead(partial(self.closers.submit, splice.load))
        self._splices = False
        name = f"{bridge.name}-syn"
        with ExitStack() as undo:
            self._requests = Requests()
            undo.callback(self._requests.close)
            self._port = open_tap(name)
            undo.callback(os.close, self._port)
            self._port_index = socket.if_nametoindex(name)
            self._requests.send(netlink.join(self._port_index, bridge.index, name))
            port_settings(self._port_index)
            # Guests answer probes to it; without an entry the bridge would flood the answers.
            self._requests.send(netlink.own(OWN_MAC, self._port_index))
            undo.pop_all()

    def listen(self, on_frame: FrameHandler, on_loss: Callable[[HostError], None]) -> None:
        """Call `on_frame` with each frame that reaches Synjitsu's port.

        When somebody has removed the port, `on_loss` is called, once.
        """
        asyncio.get_running_loop().add_reader(self._port, self._readable, on_frame, on_loss)
        self.ask(list(self._register.left), self._register.settle)
        self.prepare()
        self._own_cables.begin()

    def deafen(self) -> None:
        """Stop calling."""
        asyncio.get_running_loop().remove_reader(self._port)

    def close(self) -> None:
        """Remove Synjitsu's port; blocks."""
        for pool in (self._netlink, self._nftables, self.closers):
            pool.shutdown()
        while self.listeners:
            self.listeners.pop().close()
        for ahead in (self._taps, self._cables, *self._own_cables.all()):
            if (spare := ahead.take()) is not None:
                spare.discard()
        if (loaded := self._programs.take()) is not None:
            loaded.close()
        self._requests.close()
        os.close(self._port)

    def send(self, frame: bytes) -> None:
        """Send from Synjitsu's port."""
        try:
            os.write(self._port, frame)
        except OSError:
            self.lost += 1

    def ask(
        self, bereft: Sequence[orphans.Orphan], asked: Callable[[], object] = lambda: None
    ) -> None:
        """Ask clients whose connections are no more, several times; then call `asked`."""
        loop = asyncio.get_running_loop()
        for delay in orphans.ASKED_AT if bereft else ():
            loop.call_later(delay, orphans.ask, bereft)
        loop.call_later(orphans.ASKED_AT[-1], asked)

    def tidy(self, listener: socket.socket) -> None:
        """Close what has listened to a boot, and be ready for the next."""
        if listener in self.listeners:  # else `close` was sooner
            self.listeners.discard(listener)
            self.closers.submit(listener.close)
            self.prepare()

    def prepare(self) -> None:
        """Make the next guest's interface now, so that no summons waits for it."""
        self._taps.prepare()
        if self._has_programs:
            self._cables.prepare()
        if self._splices:
            self._programs.prepare()

    def prepare_for(self, service: Service) -> None:
        """Make the interface of a service anew, which has no guest any more, unless one boots."""
        self._own_cables.renew(service.name, _TIDY_AFTER)

    def programs(self) -> bpf.Loaded | None:
        """Return what splices on one more link, if that lies ready; it will again."""
        self._splices = True
        return self._programs.take()

    async def open(self, service: Service, made: str = "", *, ahead: bool = False) -> GuestLink:
        """Return an interface that lies ready, or make one; a process has a network with it.

        What lies ready is for a boot of now: what is made ahead leaves it there.
        """
        if made:
            link = KernelLink(made, -1, self._bridge, self)
        elif service.backend == "process":
            self._has_programs = True
            own = await self._own_cables.taken(service.name)
            link = own or await self._taken(self._cables, self._veth, service)
        elif ahead:
            link = await self.on_netlink(self._tap, f"{self._bridge.name}-w%d")
        else:
            link = await self._taken(self._taps, self._tap, service)
        link.service = service
        if service.backend == "process" and not any(link.requests):
            settings = veth.settings(link.peer_index, service, self._bridge.network)
            link.requests = link.joining(), settings
        return link

    async def _taken(
        self, ahead: Ahead[KernelLink], make: Callable[[str], KernelLink], service: Service
    ) -> KernelLink:
        if (spare := ahead.take()) is not None:
            return spare
        return await self.on_netlink(make, self.name_of(service))

    def _tap(self, name: str) -> KernelLink:
        fd = open_tap(name, vnet_hdr=True)
        return KernelLink(tap_name(fd), fd, self._bridge, self)

    def _veth(self, name: str) -> KernelLink:
        namespace, peer = veth.make_veth(name)
        link = KernelLink(name, namespace, self._bridge, self)
        link.remove = netlink.remove(link.index)
        link.peer_index = peer
        return link

    def _cable(self, service: Service) -> KernelLink:
        """Make a cable that lacks only a guest at its end."""
        link = self._veth(self.name_of(service))
        link.service = service
        try:
            veth.set_up(link.fd, link.peer_index, service, self._bridge.network)
            link.open()
            if link.splices:
                link.splice()
        except HostError:
            link.discard()
            raise
        link.requests = link.joining(), b""
        return link

    def name_of(self, service: Service) -> str:
        """Return the name of the interface of a service's guest."""
        return port_name(self._bridge.name, self._numbers[service.name])

    async def own(self, service: Service, link: GuestLink | None) -> None:
        """Replace the forwarding entry."""
        assert link is None or isinstance(link, KernelLink)
        if link is not None and not link.entry:
            raise HostError(f"{link.name} has not joined the bridge")
        await self.request(self._entries[service.mac] if link is None else link.entry)

    def own_now(self, service: Service) -> None:
        """Let Synjitsu own `service`; blocks, for set-up."""
        if service.backend == "process":
            self._remove_left(self.name_of(service))
            veth.settings(veth.USUAL_INDEX, service, self._bridge.network)  # now, not at a boot
            self._own_cables.add(service)
        entry = self._entries[service.mac] = netlink.own(service.mac, self._port_index)
        self._requests.send(entry)

    def _remove_left(self, name: str) -> None:
        """Remove the cable of a killed daemon's guest: it would go by itself, but later."""
        with suppress(OSError, HostError):  # there is none
            self._requests.send(netlink.remove(socket.if_nametoindex(name)))

    async def traffic(self, services: list[Service]) -> dict[str, Traffic]:
        """Ask nftables."""
        loop = asyncio.get_running_loop()
        usage = await loop.run_in_executor(self._nftables, self._firewall.usage, services)
        now = time.monotonic()
        return {
            s.name: Traffic(now - age if (age := usage[s.name].age) is not None else 0.0, flows)
            for s in services
            for flows in [usage[s.name].flows]
        }

    async def track(self, service: Service, opened: Sequence[Ends], ended: Sequence[Ends]) -> None:
        """Tell nftables."""
        loop = asyncio.get_running_loop()
        track = self._firewall.track
        await loop.run_in_executor(self._nftables, track, service, opened, ended)

    async def forget(self, service: Service) -> list[orphans.Orphan]:
        """Have nftables forget what a guest that is no more had open; return it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._nftables, self._firewall.forget, service)

    def send_now(self, message: bytes) -> None:
        """Have the kernel do `message`; blocks, on the netlink thread."""
        self._requests.send(message)

    async def request(self, message: bytes) -> None:
        """Have the kernel do `message`, on the netlink thread."""
        await self.on_netlink(self._requests.send, message)

    async def on_netlink(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something that waits for the kernel's network, on its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._netlink, work, *arguments)

    def _readable(self, on_frame: FrameHandler, on_loss: Callable[[HostError], None]) -> None:
        for _ in range(_BATCH):
            try:
                frame = os.read(self._port, _FRAME_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self.deafen()
                on_loss(HostError(f"{self._bridge.name}-syn: {error.strerror}"))
                return
            on_frame(frame)


def port_name(bridge: str, number: int) -> str:
    """Return the name of the interface of the guest of service `number`; at most 15 characters."""
    return f"{bridge}-g{number}"


@contextmanager
def kernel_network(
    bridge: Bridge,
    probe: IPv4Address,
    services: tuple[Service, ...],
    report: Callable[[str], None],
    record: Path | None = None,
) -> Iterator[KernelNetwork]:
    """Have a network on `bridge`, all `services` owned by Synjitsu. Raises HostError.

    Guests are probed from `probe`. `report` is told, on whatever thread, what the operator should
    know. Clients that a killed daemon has left by its `record` are told.
    """
    numbers = {service.name: i for i, service in enumerate(services)}
    with ExitStack() as undo:
        ports = [(port_name(bridge.name, numbers[s.name]), s) for s in services]
        register = orphans.Register(record)
        undo.callback(register.close)
        firewall = Firewall(bridge.name, probe, ports, report, register.inherit)
        undo.callback(firewall.close)
        network = KernelNetwork(bridge, firewall, numbers, register)
        undo.callback(network.close)
        for service in services:
            network.own_now(service)
        yield network
