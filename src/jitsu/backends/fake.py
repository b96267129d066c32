"""A backend without a hypervisor: guests in memory, whose delays and failures are scripted.

It passes the same contract as the real ones. Who plays the guest on the link is its caller's.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
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


class Actor(Protocol):
    """Plays a guest on its link."""

    def boot(self, service: Service, link: GuestLink, listens_after: float) -> None:
        """Send the first frame now; serve `listens_after` seconds later."""


@dataclass(slots=True)
class FakeInstance:
    """A guest in memory."""

    service: Service
    link: GuestLink
    gone: asyncio.Future[Exit]
    stops_after: float
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def stop(self, how: StopMode) -> None:
        """Go, after a while."""
        reason = f"stopped by {how}"
        loop = asyncio.get_running_loop()
        self.timers.append(loop.call_later(self.stops_after, self.die, reason, True))

    def die(self, reason: str, clean: bool) -> None:
        """Be no more."""
        if not self.tasks and not self.gone.done():
            for timer in self.timers:
                timer.cancel()
            self.tasks.add(asyncio.get_running_loop().create_task(self._bury(reason, clean)))

    async def _bury(self, reason: str, clean: bool) -> None:
        await self.link.close()
        self.gone.set_result(Exit(reason, clean))


class FakeBackend:
    """Starts guests in memory; `script` says how the next boot of a service goes."""

    def __init__(self, script: Callable[[Service], Script], actor: Actor) -> None:
        self.running: dict[str, FakeInstance] = {}
        self.boots = 0
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
        loop = asyncio.get_running_loop()
        try:
            link = await network.open(service)
        except HostError as error:
            raise BootError(str(error)) from error
        instance = FakeInstance(service, link, loop.create_future(), script.stops_after)
        self.running[service.name] = instance
        instance.gone.add_done_callback(lambda _: self.running.pop(service.name))
        watch.stage("link")
        watch.stage("exec")
        if script.dies_after is not None:
            timer = loop.call_later(script.dies_after, instance.die, "died by itself", False)
            instance.timers.append(timer)
        try:
            await link.join(watch.on_frame)
        except HostError:
            return instance  # dead already; `gone` tells
        watch.stage("plugged")
        if script.boots_after != float("inf"):
            timer = loop.call_later(
                script.boots_after, self._actor.boot, service, link, script.listens_after
            )
            instance.timers.append(timer)
        return instance

    def console(self, service: Service) -> str:
        """Return what the guest has written: nothing."""
        return f"{service.name} is a fake and writes nothing\n"
