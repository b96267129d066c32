"""QEMU's microvm machine: one process a guest, its tap inherited, QMP over an inherited socket.

What a summons pays is QEMU's own start, less its loading, which a fork server has done for all
(`host.forkserver`): nothing else is executed, and the tap joins the bridge meanwhile. QMP is spoken
only to a guest that must be asked something (`qemu_monitor`).

A prepared guest is a QEMU that has loaded its image and whose machine has not been started (`-S`).
Its boot has the tap join the bridge, and the machine go on. Its command line was fixed when QEMU
was executed, before anybody knew of which boot it would be; so one that imports finds there neither
its addresses nor `handoff=`, asks the store for them, and is told by it what is true at that
moment. To promise it the number of a boot instead would save it that question, and have two places
that count boots: one that dies unused, or a boot from cold in between, would leave them at odds.
All others are not told of their boot, and find all that there is on their command line.
"""

import asyncio
import re
import shutil
import signal
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path

from jitsu.backends.base import Exit, Watch
from jitsu.backends.plug import exit_unless_ended, plug
from jitsu.backends.qemu_monitor import Monitor
from jitsu.backends.qemu_tsc import Counter
from jitsu.config.image import ImageKind, image_kind
from jitsu.errors import BootError, HostError
from jitsu.host.forkserver import ForkServer
from jitsu.host.guests import address, address6
from jitsu.host.network import GuestLink, Network
from jitsu.host.process import Child, Console, Leftovers, spawn, unprivileged_user
from jitsu.model import Epoch, Handoff, NetworkConfig, Service, StopMode

BINARY = "qemu-system-x86_64"
_TAP_FD, _QMP_FD = 3, 4
# Found by measurement: a machine without its default devices starts 2 to 4 ms sooner.
_MACHINE = "microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off"
# Linux finds virtio-mmio devices through ACPI, and needs a timer and a clock to boot.
_MACHINE_LINUX = "microvm,isa-serial=off"
_SANDBOX = "on,obsolete=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Qemu:
    """How QEMU is run on this host."""

    binary: str
    accel: str = "tcg"
    user: str = ""
    """Whom QEMU becomes once it has opened what it needs; empty: it stays who it is."""
    tsc_khz: int = 0
    """How fast a guest's time-stamp counter counts, where that is known and Linux must be told."""


def argv(
    qemu: Qemu,
    service: Service,
    epoch: Epoch | None,
    network: NetworkConfig,
    kind: ImageKind,
    name: str = "",
) -> list[str]:
    """Return the command line of a guest. The tap is descriptor 3, QMP is descriptor 4.

    Without an epoch it is for one that is prepared. `name` is what QEMU is called; it does nothing
    with it.
    """
    machine = _MACHINE_LINUX if kind is ImageKind.LINUX else _MACHINE
    return [
        *(qemu.binary, "-name", name or f"jitsu-{service.name}"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", _SANDBOX),
        *(("-S",) if epoch is None else ()),
        *(("-runas", qemu.user) if qemu.user else ()),
        *("-accel", qemu.accel, "-M", machine, "-m", f"{service.memory >> 10}k"),
        *("-kernel", service.image),
        *("-append", cmdline(service, epoch, network, kind, qemu.tsc_khz)),
        *(("-initrd", service.initrd) if service.initrd else ()),
        *("-chardev", "stdio,id=console,signal=off"),
        *("-device", "isa-debugcon,iobase=0xe9,chardev=console"),
        *("-chardev", f"socket,id=qmp,fd={_QMP_FD}", "-mon", "chardev=qmp,mode=control"),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-netdev", f"tap,id=net0,fd={_TAP_FD}"),
        *("-device", f"virtio-net-device,netdev=net0,mac={service.mac.hex(':')}"),
    ]


def cmdline(
    service: Service, epoch: Epoch | None, network: NetworkConfig, kind: ImageKind, tsc_khz: int = 0
) -> str:
    """Return the guest's command line: its address as Linux's nfsroot.rst has it, then its own.

    Guests that import are told where their connections are: of Linux its launcher reads it in
    /proc/cmdline. Unikernels are told that the store may be reached by the link; Linux would hand
    that word on to its first process. Linux is told how fast its counter counts: see `qemu_tsc`.

    Without an epoch it is for one that is prepared: who imports asks the store.
    """
    words: list[str] = []
    if epoch is not None or service.handoff is not Handoff.IMPORT:
        words.append(f"ip={address(service, network)}")
        ip6 = address6(service, network)
        words += [f"ip6={ip6}"] if ip6 else []
    if kind is ImageKind.PVH:
        words.append("store")
    elif tsc_khz:
        words.append(f"tsc_early_khz={tsc_khz}")
    if epoch is not None and service.handoff is Handoff.IMPORT:
        words.append(f"handoff={service.name}/{epoch}")
    return " ".join([*words, service.cmdline]).rstrip()


def find(accel: str = "tcg") -> Qemu:
    """Return how to run QEMU here. Raises HostError when it is not installed."""
    binary = shutil.which(BINARY)
    if binary is None:
        raise HostError(f"{BINARY} is not installed; install qemu-system-x86")
    return Qemu(binary, accel, unprivileged_user())


@dataclass(slots=True)
class QemuInstance:
    """A guest in a QEMU process."""

    service: Service
    link: GuestLink
    child: Child
    monitor: Monitor
    console: Console
    said: int
    """What the console had had written when its own words began."""
    gone: asyncio.Future[Exit]
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    fault: str = ""
    """Why it was ended before it had begun."""

    def stop(self, how: StopMode) -> None:
        """Press the power button, or end the process."""
        if how is StopMode.SHUTDOWN and not self.child.exited.done():
            _own_task(self, _press_power_button(self))
        else:
            self.child.signal(signal.SIGKILL)

    async def pause(self) -> None:
        """Stop the machine, clock and all: its timers do not run out, nor does it see time pass.

        SIGSTOP would let its clock run on. A Linux that finds that its CPU has stood still for an
        hour complains, and a TCP takes every timer to have expired.
        """
        await self.monitor.ask("stop")

    async def resume(self) -> None:
        """Let the machine go on from the instant at which it was stopped."""
        await self.monitor.ask("cont")


@dataclass(slots=True)
class QemuPrepared:
    """A guest whose machine has not been started."""

    instance: QemuInstance
    gone: asyncio.Future[Exit]

    async def boot(self, epoch: Epoch, watch: Watch) -> QemuInstance:
        """Have the tap join the bridge, and then the machine go on: its first frame is not lost."""
        instance = self.instance
        if instance.child.exited.done():
            raise BootError(f"what was prepared of {instance.service.name} has gone")
        instance.gone = asyncio.get_running_loop().create_future()
        instance.said = instance.console.written
        try:
            await instance.link.join(watch.on_frame)
            watch.stage("joined")
            await instance.resume()
        except BaseException as error:
            await _abandon(instance, error)
            raise
        watch.stage("continued")
        return instance

    def discard(self) -> None:
        """End the process."""
        self.instance.stop(StopMode.DESTROY)


class QemuBackend:
    """Starts and ends QEMU processes."""

    def __init__(
        self,
        qemu: Qemu,
        network: NetworkConfig,
        leftovers: Leftovers,
        forks: ForkServer | None = None,
    ) -> None:
        """Run `qemu`; `forks` starts it, else it is executed each time."""
        self._qemu = qemu
        self._forks = forks
        self._network = network
        self._leftovers = leftovers
        self._counter = Counter()
        self._consoles: dict[str, Console] = {}

    async def begin(self) -> None:
        """Have QEMU loaded for the boots to come."""
        if self._forks:
            await self._forks.begin()

    async def close(self) -> None:
        """Have it loaded no more; guests stay."""
        if self._forks:
            await self._forks.close()

    async def boot(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch
    ) -> QemuInstance:
        """Start QEMU; the tap joins the bridge meanwhile."""
        kind, link = await self._open(service, network, ahead=False)
        watch.stage("link")
        instance = await self._start(service, epoch, kind, link)
        watch.stage("exec")
        link.release()
        _own_task(instance, _bury(instance))
        await plug(instance, watch)
        return instance

    async def prepare(self, service: Service, network: Network) -> QemuPrepared:
        """Start QEMU without its machine; when it answers it has loaded the guest."""
        kind, link = await self._open(service, network, ahead=True)
        instance = await self._start(service, None, kind, link)
        link.release()
        _own_task(instance, _bury(instance))
        gone = instance.gone
        try:
            await instance.monitor.ask("query-status")
        except BaseException as error:
            await _abandon(instance, error)
            raise
        return QemuPrepared(instance, gone)

    async def _open(
        self, service: Service, network: Network, *, ahead: bool
    ) -> tuple[ImageKind, GuestLink]:
        try:
            kind = image_kind(Path(service.image))
            return kind, await network.open(service, ahead=ahead)
        except (ValueError, HostError) as error:
            raise BootError(f"{service.image}: {error}") from error

    def console(self, service: Service) -> str:
        """Return what guests of this service, and QEMU around them, have written."""
        console = self._consoles.get(service.name)
        return console.text() if console else ""

    async def _start(
        self, service: Service, epoch: Epoch | None, kind: ImageKind, link: GuestLink
    ) -> QemuInstance:
        """Execute QEMU. Raises BootError."""
        console = self._consoles.setdefault(service.name, Console())
        said = console.written
        try:
            child, end = await self._spawn(service, epoch, kind, link, console)
        except HostError as error:
            await link.close()
            raise BootError(str(error)) from error
        except asyncio.CancelledError:
            await link.close()
            raise
        gone = asyncio.get_running_loop().create_future()
        monitor = Monitor(service.name, end)
        return QemuInstance(service, link, child, monitor, console, said, gone)

    async def _spawn(
        self,
        service: Service,
        epoch: Epoch | None,
        kind: ImageKind,
        link: GuestLink,
        console: Console,
    ) -> tuple[Child, socket.socket]:
        """Start QEMU; return it, and our end of its QMP socket. Raises HostError."""
        name = self._leftovers.name_of(service.name)
        qemu = self._qemu
        if kind is ImageKind.LINUX and qemu.accel == "tcg":
            qemu = replace(qemu, tsc_khz=self._counter.khz())
        command = argv(qemu, service, epoch, self._network, kind, name)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise HostError(f"no socket for QMP: {error.strerror}") from error
        with theirs:
            fds = {_TAP_FD: link.fd, _QMP_FD: theirs.fileno()}
            try:
                if self._forks is None:
                    return spawn(command, fds, console), ours
                return await self._forks.spawn(command, fds, console), ours
            except BaseException:
                ours.close()
                raise


async def _bury(instance: QemuInstance) -> None:
    code = await instance.child.exited
    by_itself = exit_of(code, instance.console.last_line(instance.said))
    try:
        await instance.monitor.close()
        await instance.link.close()
    finally:
        # Whoever waits for it must not wait for ever, whatever could not be tidied up.
        instance.gone.set_result(exit_unless_ended(instance, code, by_itself))


async def _abandon(instance: QemuInstance, error: BaseException) -> None:
    """End a guest that could not be prepared, or booted. Raises BootError, if that is why."""
    instance.child.signal(signal.SIGKILL)
    gone = await asyncio.shield(instance.gone)
    if isinstance(error, HostError):
        raise BootError(f"{error}: {gone.reason}") from error


def exit_of(code: int, said: str) -> Exit:
    """Tell how a guest went from QEMU's exit code and the last line of the console.

    QEMU exits with 0 whenever a guest ends the machine, be it by a triple fault; our own guests
    say with which status as their last word. One that says nothing is taken to have meant it.
    """
    if code < 0:
        return Exit(f"QEMU was killed by signal {-code}", clean=False)
    if code > 0:
        return Exit(f"QEMU exited with {code}: {said}", clean=False)
    status = re.fullmatch(r"jitsu: exit (\d+)", said)
    if status and status[1] != "0":
        return Exit(f"the guest exited with {status[1]}, see its log", clean=False)
    return Exit("the guest has ended", clean=True)


async def _press_power_button(instance: QemuInstance) -> None:
    try:
        await instance.monitor.ask("system_powerdown")
    except HostError:
        # The summoner's grace ends with the harder way; what matters is that it ends.
        instance.child.signal(signal.SIGTERM)


def _own_task(instance: QemuInstance, work: "asyncio._CoroutineLike[None]") -> None:
    task = asyncio.get_running_loop().create_task(work)
    instance.tasks.add(task)
    task.add_done_callback(instance.tasks.discard)
