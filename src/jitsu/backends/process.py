"""Linux programs as guests: a network namespace and a process tree of their own, no hypervisor.

A program is at first its launcher (`launcher/launcher.c`), which waits ahead of each boot, and is
told by a socket whom to become, and in which network. It joins that to the bridge itself: it has
nothing else to do then, and the daemon has.

What a program starts ends with it: it is the init of its process tree. It ends with the daemon,
too, however that ends.
"""

import asyncio
import os
import shlex
import signal
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from pathlib import Path

from jitsu.backends.base import Exit, Watch
from jitsu.backends.plug import exit_unless_ended, plug
from jitsu.errors import BootError, HostError
from jitsu.guest import LAUNCHER
from jitsu.guest.order import Order
from jitsu.host.cpu import USABLE, move_aside
from jitsu.host.heir import Heir
from jitsu.host.netns import children_apart
from jitsu.host.network import GuestLink, Network
from jitsu.host.process import Child, Console, spawn, unprivileged_user
from jitsu.host.veth import INTERFACE
from jitsu.model import Epoch, Handoff, Mac, ReadyOnTcp, Service, StopMode
from jitsu.wire import arp
from jitsu.wire.ethernet import BROADCAST, EtherType, Frame, encode

_ORDER_FD = 3
_SPARES = 2
_KEPT = 1024
"""Command lines that are kept as words, and announcements."""
_SPARE_AFTER = 0.05
"""Seconds after a boot until the next launcher is started: the program has requests to answer."""


def order(service: Service, epoch: Epoch, link: int, requests: tuple[bytes, bytes]) -> Order:
    """Return what a launcher is told for a boot of a service with `link`; see `GuestLink`."""
    ready, (join, settings) = service.ready, requests
    imports = service.handoff is Handoff.IMPORT
    return Order(
        program=(service.image, *_words(service.cmdline)),
        listen=service.listen,
        probed=ready.port if isinstance(ready, ReadyOnTcp) else 0,
        interface=INTERFACE,
        service=service.name,
        epoch=str(epoch) if imports else "",
        announcement=b"" if imports else _announcement(service.mac, service.address),
        cpus=USABLE,
        link=link,
        join=join,
        settings=settings,
    )


@lru_cache(_KEPT)
def _announcement(mac: Mac, address: IPv4Address) -> bytes:
    """Encode an ARP announcement (RFC 5227): else nobody would ask the guest for long."""
    packet = arp.encode(arp.announcement(mac, address))
    return encode(Frame(BROADCAST, mac, EtherType.ARP, packet))


@lru_cache(_KEPT)
def _words(cmdline: str) -> tuple[str, ...]:
    return tuple(shlex.split(cmdline))


@dataclass(frozen=True, slots=True)
class _Launcher:
    """A process that waits to be told which program it is."""

    child: Child
    orders: socket.socket


@dataclass(slots=True)
class ProcessInstance:
    """A program that runs."""

    link: GuestLink
    child: Child
    gone: asyncio.Future[Exit]
    task: asyncio.Task[None] | None = None
    fault: str = ""
    """Why we have ended it, if it could not be brought to the network."""
    asked: bool = False
    """Whether it was asked to end, and not only made to."""

    def stop(self, how: StopMode) -> None:
        """Ask it to end by SIGTERM, or end it.

        As the init of its process tree it would not have the signal's default action, which is to
        end (pid_namespaces(7)): who has not said what else to do has it from us. So has a launcher,
        for a signal that it catches is lost if it becomes the program meanwhile.
        """
        if how is StopMode.SHUTDOWN and self.child.heeds(signal.SIGTERM):
            self.child.signal(signal.SIGTERM)
        else:
            self.child.signal(signal.SIGKILL)
        self.asked = self.asked or how is StopMode.SHUTDOWN


class ProcessBackend:
    """Starts and ends programs."""

    def __init__(self) -> None:
        self._user = unprivileged_user()
        self._consoles: dict[str, Console] = {}
        self._spares: deque[_Launcher] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._heirs: set[Heir] = set()
        """Of launchers that leave, or may leave, something to see through."""

    def begin(self, count: int = 1) -> None:
        """Have launchers wait for the next boots."""
        with suppress(HostError):  # the next boot will say why
            while len(self._spares) < count:
                self._spares.append(_launch(self._user))

    def close(self) -> None:
        """Let the launchers go that wait."""
        if self._timer is not None:
            self._timer.cancel()
        while self._spares:
            self._spares.popleft().orders.close()
        for heir in tuple(self._heirs):
            heir.end()

    def _take_spare(self) -> _Launcher | None:
        """Return who waits longest, and still does."""
        while self._spares:
            spare = self._spares.popleft()
            if not spare.child.exited.done():
                return spare
            spare.orders.close()
        return None

    async def boot(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch
    ) -> ProcessInstance:
        """Tell a launcher what to become, and how to join its network to the bridge."""
        console = self._consoles.setdefault(service.name, Console())
        if not os.access(service.image, os.X_OK):
            raise BootError(f"{service.image} cannot be executed")
        try:
            link = await network.open(service)
        except HostError as error:
            raise BootError(str(error)) from error
        watch.stage("link")
        since = console.written
        try:
            link.hear(watch.on_frame)
            child = self._start(service, epoch, link, console)
        except HostError as error:
            await link.close()
            raise BootError(str(error)) from error
        watch.stage("exec")
        link.release()
        loop = asyncio.get_running_loop()
        instance = ProcessInstance(link, child, loop.create_future())
        instance.task = loop.create_task(_bury(instance, console, since))
        await plug(instance, watch)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(_SPARE_AFTER, self.begin, _SPARES)
        return instance

    def console(self, service: Service) -> str:
        """Return what programs of this service have written."""
        console = self._consoles.get(service.name)
        return console.text() if console else ""

    def _start(self, service: Service, epoch: Epoch, link: GuestLink, console: Console) -> Child:
        """Return the process that does as it is told. Raises HostError."""
        what = order(service, epoch, link.index, link.requests)
        launcher = self._take_spare() or _launch(self._user)
        try:
            launcher.child.write_to(console)
            move_aside(launcher.child.pid)
            socket.send_fds(launcher.orders, [what.encode()], [link.fd])
        except OSError as error:
            launcher.orders.close()
            launcher.child.signal(signal.SIGKILL)
            raise HostError(f"the launcher does not listen: {error.strerror}") from error
        heir = Heir(launcher.orders, INTERFACE, self._heirs.discard, soon=bool(what.epoch))
        self._heirs.add(heir)
        return launcher.child


def _launch(user: str) -> _Launcher:
    """Start a launcher that is to become `user` in the end. Raises HostError."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise HostError(f"no socket for a launcher: {error.strerror}") from error
    with theirs:
        try:
            us = str(Path("/proc/self").readlink())  # as the child will find it there
            argv = (LAUNCHER, "--order", str(_ORDER_FD), "--daemon", us, "--user", user)
            with children_apart():
                child = spawn(argv, {_ORDER_FD: theirs.fileno()}, Console())
        except (HostError, OSError) as error:
            ours.close()
            raise HostError(f"no launcher: {error}") from error
    return _Launcher(child, ours)


async def _bury(instance: ProcessInstance, console: Console, since: int) -> None:
    code = await instance.child.exited
    by_itself = exit_of(code, console.last_line(since), asked=instance.asked)
    try:
        await instance.link.close()
    finally:
        instance.gone.set_result(exit_unless_ended(instance, code, by_itself))


def exit_of(code: int, said: str, *, asked: bool) -> Exit:
    """Tell how a program went from its exit code and its last line."""
    if code == 0 or (asked and code in (-signal.SIGTERM, -signal.SIGKILL)):
        return Exit("the program has ended", clean=True)
    if code < 0:
        return Exit(f"the program was killed by signal {-code}", clean=False)
    return Exit(f"the program exited with {code}: {said}", clean=False)
