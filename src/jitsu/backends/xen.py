"""Xen: a domain a guest, made by our own toolstack.

What a summons pays is the hypervisor's own calls. They run on a thread; meanwhile the loop has the
store told of the domain and its interface, so that netback makes that while the domain is built:

    thread   create | build ...................... |
    store           | home, vif | conduit |        | introduce | unpause
    netback                     | makes vifD.0 |
    netlink                                    | on the bridge | hotplug-status

The guest may run before its interface is on the bridge: netback connects it only when the
interface's `hotplug-status` says so, and no frame is lost.

A prepared domain is built, plugged and known to the store; it lacks what depends on the boot.
One that was suspended comes out of its file rather than an image, and is plugged like any other.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from jitsu.backends.base import Exit, Watch
from jitsu.core.handoff import conduit
from jitsu.core.xenstore.path import home_of
from jitsu.errors import BootError, HostError
from jitsu.host.links import Links
from jitsu.host.network import GuestLink, Network
from jitsu.host.process import Console
from jitsu.host.xen import domain, migration
from jitsu.host.xen.console import Consoles
from jitsu.host.xen.domain import Built, Domain, Kind, Plan, Rings
from jitsu.host.xen.guests import XenGuests, cmdline
from jitsu.host.xen.images import Image, Images
from jitsu.host.xen.libxc import Info, Xen
from jitsu.host.xen.plug import Plugged, Plugs, nodes_of
from jitsu.host.xen.store import Connect, HostStore, Write
from jitsu.model import Config, Epoch, Service, StopMode

T = TypeVar("T")
_END_FIRST, _END_MAX = 0.001, 5.0
"""Seconds between two looks whether a destroyed domain has gone, and for all of them: it stays as
long as somebody maps one of its pages."""
_GRANT_FRAMES = {Kind.PVH: 4, Kind.PV: 32}
"""512 grants each: an interface's rings take 512, and Linux shares with disks as well."""
_THREADS = 4
_POWEROFF, _REBOOT, _SUSPEND, _CRASH, _WATCHDOG = range(5)  # xen/sched.h, SHUTDOWN_*
_ENDS = {
    _POWEROFF: Exit("the guest has ended", clean=True),
    _REBOOT: Exit("the guest has ended, and wants to start again", clean=True),
    _CRASH: Exit("the domain has crashed, see its log", clean=False),
    _WATCHDOG: Exit("the domain's watchdog has ended it", clean=False),
}


def tag(run: str) -> bytes:
    """Return how the handles of a daemon's domains begin: an heir knows them by that."""
    return hashlib.sha256(b"jitsu domains of " + run.encode()).digest()[:10]


@dataclass(slots=True)
class XenInstance:
    """A guest in a domain."""

    service: Service
    plan: Plan
    domain: Domain
    backend: "XenBackend"
    gone: asyncio.Future[Exit]
    ended: asyncio.Future[Exit]
    """Done when it runs no more, or is to run no more."""
    plugged: Plugged
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing is being done to it: until then it is not buried, be it dead."""
    epoch: Epoch | None = None
    """Of its boot, once it has one."""
    console: Console = field(default_factory=Console)
    since: int = 0
    """Where on the console its own words begin."""
    file: Path | None = None
    """Where it is to be saved when it suspends."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def link(self) -> GuestLink:
        """Its network interface."""
        assert self.plugged.link is not None, "it was plugged before anybody could ask"
        return self.plugged.link

    def stop(self, how: StopMode) -> None:
        """Ask it to shut down, or destroy it."""
        if how is not StopMode.SHUTDOWN:
            self.end(Exit("the domain was destroyed", clean=False))
        elif not self.ended.done():
            self.own(self.backend.ask(self, b"poweroff"))

    def suspend(self, file: Path) -> None:
        """Ask it to suspend; then it is saved."""
        self.file = file
        self.own(self.backend.ask(self, b"suspend"))

    def save(self, file: Path) -> None:
        """Have it saved, now that it has suspended, if nothing else is being done to it."""
        if self.settled.is_set() and not self.ended.done():
            self.settled.clear()
            self.own(self.backend.save(self, file))

    def end(self, exit_: Exit) -> None:
        """Have it buried."""
        if not self.ended.done():
            self.ended.set_result(exit_)

    def judge(self, exit_: Exit) -> Exit:
        """Tell how it went, its last word considered: Jitsu's own guests say their status."""
        status = re.fullmatch(r"jitsu: exit (\d+)", self.console.last_line(self.since))
        if exit_.clean and status and status[1] != "0":
            return Exit(f"the guest exited with {status[1]}, see its log", clean=False)
        return exit_

    def own(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def pause(self) -> None:
        """Let it run no more. Raises HostError."""
        await self.backend.call(domain.pause, self.domain.domid)

    async def resume(self) -> None:
        """Let it run on. Raises HostError."""
        await self.backend.call(domain.unpause, self.domain.domid)


@dataclass(slots=True)
class XenPrepared:
    """A domain that has not begun to run."""

    instance: XenInstance
    gone: asyncio.Future[Exit]

    async def boot(self, epoch: Epoch, watch: Watch) -> XenInstance:
        """Tell it of this boot, and let it run."""
        return await self.instance.backend.start(self.instance, epoch, watch)

    def discard(self) -> None:
        """Destroy it."""
        self.instance.end(Exit("the prepared domain was discarded", clean=False))


class XenBackend:
    """Makes, starts and ends domains."""

    def __init__(
        self,
        xen: Xen,
        config: Config,
        log: FilteringBoundLogger,
    ) -> None:
        self._xen = xen
        self._network = config.network
        self._tag = tag(config.host.run)
        self._log = log
        self._images = Images()
        self._consoles: dict[str, Console] = {}
        self._living: dict[int, XenInstance] = {}
        self._owed: dict[int, list[bytes]] = {}
        """Nodes that a store which had gone still has of domains that are no more."""
        self._paying: asyncio.Task[None] | None = None
        self._calls = ThreadPoolExecutor(_THREADS, thread_name_prefix="xen")
        self._links: Links
        self._plugs: Plugs
        self._readers: Consoles
        self._store: HostStore
        self._guests: XenGuests
        self._opened: AsyncExitStack

    async def open(self, connect: Connect) -> XenGuests:
        """Be ready to boot, with the store to which `connect` leads; return who is there.

        What an earlier daemon has left is ended. Raises HostError.
        """
        async with AsyncExitStack() as undo:
            undo.callback(self._calls.shutdown)
            self._store = HostStore(connect)
            self._guests = XenGuests(self._store)
            await self._store.open()
            undo.push_async_callback(self._store.close)
            self._links = Links()
            undo.callback(self._links.close)
            self._plugs = Plugs(self._store, self._links, self._network)
            self._readers = Consoles()
            undo.callback(self._readers.close)
            await self._end_leftovers()
            undo.callback(self._store.watch(b"@releaseDomain", self._look))
            self._opened = undo.pop_all()
        return self._guests

    async def close(self) -> None:
        """Watch no more; whatever still runs is ended."""
        async with self._opened:
            for instance in list(self._living.values()):
                instance.end(Exit("the daemon has ended", clean=False))
                await instance.gone
            try:
                await self._end_leftovers()
            except HostError as error:  # the heir ends them
                self._log.warning("left behind", reason=str(error))

    def console(self, service: Service) -> str:
        """Return what guests of this service have written."""
        console = self._consoles.get(service.name)
        return console.text() if console else ""

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Have the hypervisor do something, on a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._calls, work, self._xen, *arguments)

    async def boot(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch
    ) -> XenInstance:
        """Make a domain and let it run; its interface is plugged meanwhile."""
        return await self._begin(service, epoch, network, watch, None)

    async def resume(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch, file: Path
    ) -> XenInstance:
        """Make a domain of the guest in `file`, and let it run on."""
        return await self._begin(service, epoch, network, watch, file)

    async def _begin(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch, file: Path | None
    ) -> XenInstance:
        image, instance = await self._create(service, epoch)
        instance.epoch = epoch
        watch.stage("created")
        plugs, plugged = self._plugs, instance.plugged
        told = asyncio.ensure_future(plugs.publish(plugged, instance.plan))

        async def tell() -> None:
            await told
            await self._guests.begin(service, epoch, plugged.domid)

        async def run() -> None:
            filled = (
                self._build(instance, image, watch)
                if file is None
                else self._restore(instance, file, watch)
            )
            rings, *_ = await _all(filled, tell())
            await self._introduce(instance, rings)
            domain.unpause(self._xen, plugged.domid)
            watch.stage("unpaused")
            if file is not None:
                await plugs.connected(plugged)  # or what it is sent at once would be lost

        async def plug() -> None:
            await told
            await plugs.adopt(plugged, network)
            await plugs.connect(plugged, watch.on_frame)
            watch.stage("connected")

        async def more() -> None:
            await told
            await plugs.further(plugged)

        await self._settle(instance, run(), plug(), more())
        asyncio.get_running_loop().call_soon(self._listen, instance)
        return instance

    async def prepare(self, service: Service, network: Network) -> XenPrepared:
        """Make a domain that lacks its boot's number, and a place on the bridge."""
        image, instance = await self._create(service, None)
        plugs, plugged = self._plugs, instance.plugged

        async def plug() -> None:
            await plugs.publish(plugged, instance.plan)
            await plugs.adopt(plugged, network)
            await plugs.further(plugged)

        async def make() -> None:
            rings, *_ = await _all(self._build(instance, image, None), plug())
            await self._introduce(instance, rings)

        await self._settle(instance, make())
        return XenPrepared(instance, instance.gone)

    async def start(self, instance: XenInstance, epoch: Epoch, watch: Watch) -> XenInstance:
        """Let a prepared domain run. Raises BootError."""
        if instance.ended.done():
            raise BootError(f"the prepared domain has gone: {instance.ended.result().reason}")
        instance.epoch = epoch
        instance.gone = asyncio.get_running_loop().create_future()

        async def run() -> None:
            await self._guests.begin(instance.service, epoch, instance.domain.domid)
            domain.unpause(self._xen, instance.domain.domid)
            watch.stage("finished")

        async def plug() -> None:
            await self._plugs.connect(instance.plugged, watch.on_frame)
            watch.stage("connected")

        await self._settle(instance, run(), plug())
        asyncio.get_running_loop().call_soon(self._listen, instance)
        return instance

    async def ask(self, instance: XenInstance, what: bytes) -> None:
        """Ask by the store (xen-command-line's xenstore-paths: control/shutdown)."""
        path = home_of(instance.domain.domid) + b"/control/shutdown"
        with suppress(HostError):  # the summoner's grace ends with the harder way
            await self._store.write([Write(path, what)])

    # The steps of a boot.

    async def _create(self, service: Service, epoch: Epoch | None) -> tuple[Image, XenInstance]:
        """Make an empty domain. Raises BootError."""
        handle = self._tag + service.mac
        network = self._network

        def work(xen: Xen) -> tuple[Image, Plan, Domain]:
            image = self._images.load(service.image)
            words = cmdline(service, epoch, network, image.kind).encode()
            frames = _GRANT_FRAMES[image.kind]
            plan = Plan(handle, image.kind, service.memory, words, frames)
            if (free := xen.free()) < service.memory:
                what = f"not enough memory: Xen has {free >> 20} MiB free"
                raise HostError(f"{what}, and it wants {plan.mib} MiB")
            return image, plan, domain.create(xen, plan)

        try:
            image, plan, made = await self.call(lambda xen: work(xen))
        except HostError as error:
            raise BootError(str(error)) from error
        loop = asyncio.get_running_loop()
        futures = loop.create_future(), loop.create_future()
        plugged = Plugged(made.domid, service)
        instance = XenInstance(service, plan, made, self, *futures, plugged)
        self._living[made.domid] = instance
        instance.own(self._bury(instance))
        return image, instance

    async def _build(self, instance: XenInstance, image: Image, watch: Watch | None) -> Rings:
        initrd = instance.service.initrd

        def work(xen: Xen) -> Built:
            try:
                extra = Path(initrd).read_bytes() if initrd else b""
            except OSError as error:
                raise HostError(f"{initrd} cannot be read: {error.strerror}") from error
            try:
                return domain.build(xen, instance.domain, instance.plan, image.data, extra)
            except HostError as error:
                raise HostError(f"{instance.service.image} cannot be built: {error}") from error

        built = await self.call(lambda xen: work(xen))
        image.data = built.kernel
        if watch is not None:
            watch.stage("built")
        return built.rings

    async def _restore(self, instance: XenInstance, file: Path, watch: Watch) -> Rings:
        rings = await self.call(migration.restore, instance.domain, file)
        watch.stage("built")
        return rings

    async def _introduce(self, instance: XenInstance, rings: Rings) -> None:
        made = instance.domain
        await self._store.introduce(made.domid, rings.store, made.store_port)

    async def _settle(self, instance: XenInstance, *works: Coroutine[Any, Any, None]) -> None:
        """Do all of `works`; where one fails there is no domain. Raises BootError."""
        instance.settled.clear()
        try:
            await _all(*works)
            instance.settled.set()
        except BaseException as error:
            instance.settled.set()
            instance.end(Exit(str(error), clean=False, began=False))
            await asyncio.shield(instance.gone)
            if isinstance(error, (HostError, OSError)):
                raise BootError(str(error)) from error
            raise

    def _listen(self, instance: XenInstance) -> None:
        """Read the console of a guest that runs; what it has said already is in its ring.

        Not before whoever has booted it can hear it in the store: nobody waits for the console.
        """
        console = self._consoles.setdefault(instance.service.name, Console())
        instance.console, instance.since = console, console.written
        try:
            self._readers.attach(instance.domain.domid, instance.domain.console_port, console.write)
        except HostError as error:  # it is no worse a guest for that, or has gone already
            self._log.warning("no console", service=instance.service.name, reason=str(error))

    # The end of a domain.

    def _look(self) -> None:
        """Some domain has come to its end: see which."""
        there = {info.domid: info for info in self._xen.domains()}
        for domid, instance in self._living.items():
            info = there.get(domid)
            if info is None or info.dying:
                instance.end(Exit("somebody has destroyed the domain", clean=False))
            elif info.shutdown and instance.file is not None and info.reason == _SUSPEND:
                instance.save(instance.file)
            elif info.shutdown:
                instance.end(_end_of(info))
        if self._owed:
            self._paying = asyncio.get_running_loop().create_task(self._pay())

    async def save(self, instance: XenInstance, file: Path) -> None:
        """Write a guest that has suspended to its file; then its domain is ended."""
        try:
            await self.call(migration.save, instance.domain.domid, file)
            if instance.ended.done():  # it was stopped meanwhile, and is not to be there
                await asyncio.to_thread(file.unlink)
            instance.end(Exit("the guest was suspended", clean=True, saved=True))
        except (HostError, OSError) as error:
            instance.end(Exit(f"the guest cannot be saved: {error}", clean=False))
        finally:
            instance.settled.set()

    async def _bury(self, instance: XenInstance) -> None:
        exit_ = await instance.ended
        await instance.settled.wait()
        domid = instance.domain.domid
        try:
            with suppress(HostError):  # somebody has done it
                await self.call(domain.destroy, domid)
            self._readers.detach(domid)
            await self._plugs.pull(instance.plugged, began=instance.epoch is not None)
            await self._vanished(domid)
        except HostError as error:
            self._owed[domid] = nodes_of(domid, instance.service.name if instance.epoch else "")
            self._log.warning("left behind", domain=domid, reason=str(error))
        finally:
            # Whoever waits for it must not wait for ever, whatever could not be tidied up.
            del self._living[domid]
            instance.gone.set_result(instance.judge(exit_))

    async def _pay(self) -> None:
        """Remove what could not be removed, from a store that may be back."""
        for domid, paths in list(self._owed.items()):
            # What is told of a service is not the dead domain's once another guest is in it.
            booted = (instance for instance in self._living.values() if instance.epoch)
            now = {conduit(instance.service.name) for instance in booted}
            with suppress(HostError):
                await self._store.remove([path for path in paths if path not in now])
                await self._store.release(domid)
                self._owed.pop(domid, None)

    async def _vanished(self, domid: int) -> None:
        """Wait until nobody maps a page of a domain that was destroyed."""
        wait = _END_FIRST
        while self._xen.domain(domid) is not None:
            if wait > _END_MAX:
                raise HostError(f"domain {domid} does not go: somebody still maps its pages")
            await asyncio.sleep(wait)
            wait *= 2

    async def _end_leftovers(self) -> None:
        """End the domains that a daemon of this place has left."""
        for info in [*self._xen.domains()]:
            if info.handle.startswith(self._tag) and info.domid not in self._living:
                self._log.warning("ended a domain of an earlier daemon", domain=info.domid)
                name = await self._store.read(home_of(info.domid) + b"/name")
                with suppress(HostError):
                    await self.call(domain.destroy, info.domid)
                await self._store.remove(nodes_of(info.domid, name.decode() if name else ""))
                await self._store.release(info.domid)
                await self._vanished(info.domid)


def _end_of(info: Info) -> Exit:
    unknown = Exit(f"the domain has shut down for reason {info.reason}", clean=False)
    return _ENDS.get(info.reason, unknown)


async def _all(*works: Awaitable[Any]) -> list[Any]:
    """Wait for all of `works`; raise what the first of them has raised when all have ended.

    A thread cannot be called back: until it has ended its domain must stay.
    """
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
