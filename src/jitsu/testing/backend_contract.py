"""What every backend must pass: the contract of `jitsu.backends.base`, as stories.

Who has a backend to check says how to `make` a `Case` of each `Fate`: a backend, a network and a
service whose next guest will go that way. Each story gets a case of its own, and is told by it
what is left of its guests on the host: nothing, whenever no guest should be.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from jitsu.backends.base import (
    Backend,
    Exit,
    Instance,
    Pauses,
    Prepared,
    Prepares,
    Resumes,
    Suspends,
)
from jitsu.errors import BootError, HostError
from jitsu.host.network import FrameHandler, Network
from jitsu.model import Epoch, Service, StopMode

T = TypeVar("T")
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


async def check_pause(make: Make) -> None:
    """Pause and resume, again and again; it is the same guest, and stops in between all the same.

    For backends whose guests are `Pauses`.
    """
    async with make(Fate.LIVES) as case:
        instance = await _serving(case, 1)
        assert isinstance(instance, Pauses)
        for _ in range(3):
            await _soon(instance.pause())
            assert not instance.gone.done(), "a guest that is paused has not gone"
            assert case.left(), "a guest that is paused is somewhere"
            await _soon(instance.resume())
        await _soon(instance.pause())
        instance.stop(StopMode.DESTROY)
        await _gone(case, instance)
        for act in (instance.pause, instance.resume):
            try:
                await _soon(act())
            except HostError as error:
                assert str(error), "it says why"  # noqa: PT017  (this is no test of pytest's)
            else:
                raise AssertionError("a guest that has gone is asked in vain, and says so")
        instance = await _serving(case, 2)
        instance.stop(StopMode.DESTROY)
        await _gone(case, instance)


async def check_suspend(make: Make, file: Path) -> None:
    """Suspend to `file` and resume from it, twice; then from a file that is damaged, or not there.

    For backends that are `Resumes`.
    """
    async with make(Fate.LIVES) as case:
        backend = case.backend
        assert isinstance(backend, Resumes)
        instance = await _serving(case, 1)
        for epoch in (2, 3):
            assert isinstance(instance, Suspends)
            instance.suspend(file)
            gone = await _gone(case, instance)
            assert gone.saved, f"it is in its file: {gone}"
            assert _there(file)
            watch = Seen()
            instance = await _soon(
                backend.resume(case.service, Epoch(epoch), case.network, watch, file)
            )
            assert not instance.gone.done(), "it runs on"
            _check_stages(watch)
        assert isinstance(instance, Suspends)
        _fill(file, None)
        instance.suspend(file)
        instance.stop(StopMode.DESTROY)
        gone = await _gone(case, instance)
        assert gone.saved == _there(file), "there is a file only if it is saved"
        for content in (b"", b"no guest at all" * 1000, None):
            _fill(file, content)
            try:
                await _soon(backend.resume(case.service, Epoch(4), case.network, Seen(), file))
            except BootError as error:
                assert str(error), "it says why"  # noqa: PT017
            else:
                raise AssertionError("what is no guest has been resumed")
            assert not case.left(), f"left behind: {case.left()}"


async def check_prepare(make: Make) -> None:
    """Prepare, boot what is prepared, and prepare the next beside it; discard; boot what has gone.

    For backends that are `Prepares`.
    """
    async with make(Fate.LIVES) as case:
        prepared = await _prepared(case)
        for epoch in (1, 2):
            prepared = await _boot_and_prepare(case, prepared, epoch)
        prepared.discard()
        prepared.discard()
        gone = await _soon(asyncio.shield(prepared.gone))
        assert gone.reason, "what has gone says how"
        assert not case.left(), f"left behind: {case.left()}"
        await _refused(prepared.boot(Epoch(3), Seen()))
        assert not case.left(), f"left behind: {case.left()}"
        instance = await _serving(case, 4)
        instance.stop(StopMode.DESTROY)
        await _gone(case, instance)
    async with make(Fate.CANNOT_START) as case:
        await _refused(_prepared(case))
        assert not case.left(), f"left behind: {case.left()}"


async def _boot_and_prepare(case: Case, prepared: Prepared, epoch: int) -> Prepared:
    """Have a guest live that was prepared; return the next one, which is there when it has gone."""
    seen = Seen()
    instance = await _soon(prepared.boot(Epoch(epoch), seen))
    await _soon(seen.framed.wait())
    _check_stages(seen)
    following = await _prepared(case)
    assert not instance.gone.done(), "the guest runs on while the next one is prepared"
    instance.stop(StopMode.DESTROY)
    gone = await _soon(asyncio.shield(instance.gone))
    assert gone.reason, "a guest that has gone says how"
    assert not prepared.gone.done(), "what has booted did not go as a prepared one"
    assert not following.gone.done(), "the next is there although that guest has gone"
    return following


async def _refused(work: Awaitable[object]) -> None:
    try:
        await _soon(work)
    except BootError as error:
        assert str(error), "it says why"  # noqa: PT017  (this is no test of pytest's)
    else:
        raise AssertionError("what cannot be was done all the same")


async def _prepared(case: Case) -> Prepared:
    assert isinstance(case.backend, Prepares)
    prepared = await _soon(case.backend.prepare(case.service, case.network))
    assert not prepared.gone.done(), "what is prepared is there"
    assert case.left(), "what is prepared is somewhere"
    return prepared


def _there(file: Path) -> bool:
    return file.is_file()


def _fill(file: Path, content: bytes | None) -> None:
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)


async def _serving(case: Case, epoch: int) -> Instance:
    """Boot a guest and wait until it has sent a frame."""
    instance, seen = await _boot(case, epoch)
    await _soon(seen.framed.wait())
    return instance


async def _soon(work: Awaitable[T]) -> T:
    async with asyncio.timeout(PATIENCE):
        return await work


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
