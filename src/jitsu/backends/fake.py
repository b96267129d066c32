"""A backend without a hypervisor: guests in memory, whose delays and failures are scripted.

It passes the same contract as the real ones. Who plays the guest on the link is its caller's.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from jitsu.backends.base import Exit, Watch
from jitsu.errors import BootError, HostError
from jitsu.host.network import GuestLink, Network
from jitsu.model import Epoch, Service, StopMode


@dataclass(frozen=True, slots=True)
class Script:
    """What becomes of one boot; times in seconds after it began."""

    boots_after: float = 0.02
    """The first frame; infinity for an image that never sends one."""
    listens_after: float = 0.0
    """After the first frame, when its server listens."""
    dies_after: float | None = None
    """When it dies by itself."""
    error: str = ""
    """Why it cannot be started at all."""
    stops_after: float = 0.001
    """How long it takes to go when it is asked to."""
    prepares_after: float = 0.002
    """How long it takes to be prepared."""
    rests_after: float = 0.0005
    """How long it takes to be paused, to run on, and to be saved."""
    cannot: frozenset[str] = frozenset()
    """What of these it fails at: pause, resume, suspend, prepare, and boot what is prepared."""


class Actor(Protocol):
    """Plays a guest on its link."""

    def boot(self, service: Service, link: GuestLink, listens_after: float) -> None:
        """Send the first frame now; serve `listens_after` seconds later."""

    def pause(self, link: GuestLink) -> None:
        """Neither take nor send frames; what comes meanwhile waits."""

    def resume(self, link: GuestLink) -> None:
        """Go on."""

    def save(self, link: GuestLink) -> str:
        """Return what the guest can be restored from."""

    def restore(self, service: Service, link: GuestLink, saved: str) -> bool:
        """Go on, on another link; or say that `saved` is no guest."""


@dataclass(slots=True)
class FakeInstance:
    """A guest in memory."""

    service: Service
    link: GuestLink
    gone: asyncio.Future[Exit]
    script: Script
    actor: Actor
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def stop(self, how: StopMode) -> None:
        """Go, after a while."""
        reason = f"stopped by {how}"
        loop = asyncio.get_running_loop()
        self.timers.append(loop.call_later(self.script.stops_after, self.die, reason, True))

    async def pause(self) -> None:
        """Run no more."""
        await self._rest("pause")
        self.actor.pause(self.link)

    async def resume(self) -> None:
        """Run on."""
        await self._rest("resume")
        self.actor.resume(self.link)

    async def _rest(self, what: str) -> None:
        await asyncio.sleep(self.script.rests_after)
        if self.tasks or self.gone.done():
            raise HostError("the guest has gone")
        if what in self.script.cannot:
            raise HostError(f"cannot {what}")

    def suspend(self, file: Path) -> None:
        """Be saved, after a while, and go."""
        loop = asyncio.get_running_loop()
        self.timers.append(loop.call_later(self.script.rests_after, self._save, file))

    def _save(self, file: Path) -> None:
        if self.tasks:
            return  # it goes already
        if "suspend" in self.script.cannot:
            self.die("cannot suspend", False)
            return
        file.write_text(self.actor.save(self.link))
        self.die("suspended", True, saved=True)

    def die(self, reason: str, clean: bool, *, saved: bool = False) -> None:
        """Be no more."""
        if not self.tasks and not self.gone.done():
            for timer in self.timers:
                timer.cancel()
            self.tasks.add(
                asyncio.get_running_loop().create_task(self._bury(Exit(reason, clean, saved=saved)))
            )

    async def _bury(self, exit_: Exit) -> None:
        await self.link.close()
        self.gone.set_result(exit_)


@dataclass(slots=True)
class FakePrepared:
    """A guest in memory that has not begun to run."""

    backend: "FakeBackend"
    instance: FakeInstance
    gone: asyncio.Future[Exit]
    taken: bool = False

    async def boot(self, epoch: Epoch, watch: Watch) -> FakeInstance:
        """Begin to run."""
        instance = self.instance
        if instance.tasks or instance.gone.done():
            raise BootError("what was prepared has gone")
        self.taken = True
        if "boot" in instance.script.cannot:
            instance.die("cannot boot what is prepared", False)
            await instance.gone
            raise BootError("cannot boot what is prepared")
        self.backend.boots += 1
        self.backend.warm_boots += 1
        return await self.backend.begin(instance, watch, "finished")

    def discard(self) -> None:
        """Go, after a while."""
        self.instance.stop(StopMode.DESTROY)

    def note(self, ended: asyncio.Future[Exit]) -> None:
        """The guest has gone."""
        if not self.taken:
            self.gone.set_result(ended.result())


class FakeBackend:
    """Starts guests in memory; `script` says how the next boot of a service goes."""

    def __init__(self, script: Callable[[Service], Script], actor: Actor) -> None:
        self.running: dict[str, FakeInstance] = {}
        self.there: list[FakeInstance] = []
        """All of them, those that are prepared as well."""
        self.memory = self.memory_most = 0
        """Bytes that guests have now, and the most that they ever had."""
        self.boots = 0
        self.warm_boots = 0
        """How many of them were of what was prepared."""
        self.resumed = 0
        self._script = script
        self._actor = actor

    async def boot(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch
    ) -> FakeInstance:
        """Start a guest; two of one service never run at once."""
        assert service.name not in self.running, f"{service.name} boots twice"
        script = self._script(service)
        if script.error:
            raise BootError(script.error)
        self.boots += 1
        instance = await self._make(service, network, script)
        watch.stage("link")
        return await self.begin(instance, watch, "exec")

    async def begin(self, instance: FakeInstance, watch: Watch, stage: str) -> FakeInstance:
        """Let a guest run that has been made."""
        service, script = instance.service, instance.script
        assert service.name not in self.running, f"{service.name} runs twice"
        self._run(instance, watch, stage)
        if await self._join(instance, watch) and script.boots_after != float("inf"):
            act = partial(self._actor.boot, service, instance.link, script.listens_after)
            instance.timers.append(asyncio.get_running_loop().call_later(script.boots_after, act))
        return instance

    async def prepare(self, service: Service, network: Network) -> FakePrepared:
        """Make a guest that does not run."""
        script = self._script(service)
        if script.error or "prepare" in script.cannot:
            raise BootError(script.error or "cannot prepare")
        instance = await self._make(service, network, script, ahead=True)
        await asyncio.sleep(script.prepares_after)
        prepared = FakePrepared(self, instance, asyncio.get_running_loop().create_future())
        if instance.gone.done():
            raise BootError(instance.gone.result().reason)
        instance.gone.add_done_callback(prepared.note)
        return prepared

    async def resume(
        self, service: Service, epoch: Epoch, network: Network, watch: Watch, file: Path
    ) -> FakeInstance:
        """Start a guest that was saved."""
        assert service.name not in self.running, f"{service.name} runs twice"
        script = self._script(service)
        if script.error:
            raise BootError(script.error)
        instance = await self._make(service, network, script)
        watch.stage("link")
        self._run(instance, watch, "exec")
        await asyncio.sleep(script.rests_after)
        saved = _read(file)
        if saved is None or not self._actor.restore(service, instance.link, saved):
            instance.die("the file is damaged", False)
            await instance.gone
            raise BootError(f"{file} is damaged")
        self.resumed += 1
        await self._join(instance, watch)
        return instance

    async def _make(
        self, service: Service, network: Network, script: Script, *, ahead: bool = False
    ) -> FakeInstance:
        loop = asyncio.get_running_loop()
        try:
            link = await network.open(service, ahead=ahead)
        except HostError as error:
            raise BootError(str(error)) from error
        instance = FakeInstance(service, link, loop.create_future(), script, self._actor)
        self.there.append(instance)
        self.memory += service.memory
        self.memory_most = max(self.memory, self.memory_most)
        instance.gone.add_done_callback(lambda _: self._forget(instance))
        if script.dies_after is not None:
            timer = loop.call_later(script.dies_after, instance.die, "died by itself", False)
            instance.timers.append(timer)
        return instance

    def _run(self, instance: FakeInstance, watch: Watch, stage: str) -> None:
        self.running[instance.service.name] = instance
        watch.stage(stage)

    def _forget(self, instance: FakeInstance) -> None:
        self.there.remove(instance)
        self.memory -= instance.service.memory
        if self.running.get(instance.service.name) is instance:
            del self.running[instance.service.name]

    async def _join(self, instance: FakeInstance, watch: Watch) -> bool:
        """Have the link join the bridge; say whether it is there."""
        try:
            await instance.link.join(watch.on_frame)
        except HostError:
            return False  # dead already; `gone` tells
        watch.stage("plugged")
        return True

    def console(self, service: Service) -> str:
        """Return what the guest has written: nothing."""
        return f"{service.name} is a fake and writes nothing\n"


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except OSError:
        return None
