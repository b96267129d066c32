"""What every backend must pass: the contract of `jitsu.backends.base`, as stories.

Who has a backend to check says how to `make` a `Case` of each `Fate`: a backend, a network and a
service whose next guest will go that way. Each story gets a case of its own, and is told by it
what is left of its guests on the host: nothing, whenever no guest should be.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum

from jitsu.backends.base import Backend, Exit, Instance
from jitsu.errors import BootError
from jitsu.host.network import FrameHandler, Network
from jitsu.model import Epoch, Service, StopMode

PATIENCE = 10.0
"""Seconds for anything that a guest is to do; far more than any takes."""


class Fate(Enum):
    """What becomes of the next guests of a case."""

    LIVES = "it boots, sends frames, and goes when it is asked to"
    DIES = "it begins to run and ends by itself, with an error, soon"
    CANNOT_START = "it cannot be started at all: no image, no hypervisor"


@dataclass(frozen=True, slots=True)
class Case:
    """A backend, and a service to try it with."""

    backend: Backend
    network: Network
    service: Service
    left: Callable[[], object]
    """Return what guests have left on this host, processes or interfaces; empty when nothing."""


Make = Callable[[Fate], AbstractAsyncContextManager[Case]]


@dataclass(slots=True)
class Seen:
    """A watch that keeps what it is told."""

    stages: list[str] = field(default_factory=list)
    framed: asyncio.Event = field(default_factory=asyncio.Event)

    def stage(self, name: str) -> None:
        """Keep the name of a stage."""
        self.stages.append(name)

    @property
    def on_frame(self) -> FrameHandler:
        """Note that a frame has come."""
        return lambda _: self.framed.set()


async def check_backend(make: Make) -> None:
    """Check all of the contract."""
    await check_life(make, StopMode.DESTROY)
    await check_life(make, StopMode.SHUTDOWN)
    await check_stop_twice(make)
    await check_stop_while_booting(make)
    await check_death(make)
    await check_cannot_start(make)


async def check_life(make: Make, how: StopMode) -> None:
    """Boot, serve, stop; and the same again, for a service lives many times."""
    async with make(Fate.LIVES) as case:
        for epoch in (1, 2):
            instance, seen = await _boot(case, epoch)
            async with asyncio.timeout(PATIENCE):
                await seen.framed.wait()
            assert not instance.gone.done(), "a guest that serves has not gone"
            assert case.left(), "a guest that serves is somewhere"
            _check_stages(seen)
            instance.stop(how)
            gone = await _gone(case, instance)
            assert gone.clean or how is StopMode.DESTROY, f"it did as it was told: {gone}"
        assert isinstance(case.backend.console(case.service), str)


async def check_stop_twice(make: Make) -> None:
    """Ask again, with a harder way, while it goes and when it has gone."""
    async with make(Fate.LIVES) as case:
        instance, seen = await _boot(case)
        async with asyncio.timeout(PATIENCE):
            await seen.framed.wait()
        instance.stop(StopMode.SHUTDOWN)
        instance.stop(StopMode.DESTROY)
        instance.stop(StopMode.DESTROY)
        first = await _gone(case, instance)
        instance.stop(StopMode.DESTROY)
        instance.stop(StopMode.SHUTDOWN)
        await asyncio.sleep(0)
        assert instance.gone.result() is first, "a guest goes once"


async def check_stop_while_booting(make: Make) -> None:
    """Destroy it before its first frame; the next one boots."""
    async with make(Fate.LIVES) as case:
        instance, _ = await _boot(case, 1)
        instance.stop(StopMode.DESTROY)
        await _gone(case, instance)
        instance, seen = await _boot(case, 2)
        async with asyncio.timeout(PATIENCE):
            await seen.framed.wait()
        instance.stop(StopMode.DESTROY)
        await _gone(case, instance)


async def check_death(make: Make) -> None:
    """Nobody has asked it to go: it says why, and nothing is left."""
    async with make(Fate.DIES) as case:
        instance, _ = await _boot(case)
        gone = await _gone(case, instance)
        assert not gone.clean, "nobody asked it to go"


async def check_cannot_start(make: Make) -> None:
    """It raises BootError with a reason, every time, and leaves nothing."""
    async with make(Fate.CANNOT_START) as case:
        for epoch in (1, 2):
            try:
                await _boot(case, epoch)
            except BootError as error:
                assert str(error), "it says why"  # noqa: PT017  (this is no test of pytest's)
            else:
                raise AssertionError("what cannot be started has booted")
            assert not case.left(), f"left behind: {case.left()}"


async def _boot(case: Case, epoch: int = 1) -> tuple[Instance, Seen]:
    seen = Seen()
    async with asyncio.timeout(PATIENCE):
        instance = await case.backend.boot(case.service, Epoch(epoch), case.network, seen)
    return instance, seen


async def _gone(case: Case, instance: Instance) -> Exit:
    """Wait for the guest to be gone, and check that it left nothing."""
    async with asyncio.timeout(PATIENCE):
        gone = await asyncio.shield(instance.gone)
    assert gone.reason, "a guest that has gone says how"
    assert not case.left(), f"left behind: {case.left()}"
    return gone


def _check_stages(seen: Seen) -> None:
    assert seen.stages, "a boot has stages"
    assert len(set(seen.stages)) == len(seen.stages), f"each once: {seen.stages}"
