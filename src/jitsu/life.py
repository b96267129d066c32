"""What is done with guests: they are prepared, booted, given their addresses, fenced, stopped.

Here is what takes time; each of these is a task of the daemon's, and what comes of it is told to
the cores. Moves of one service's address happen one after the other, under its lock: a guest that
dies while it takes over, or a wish that comes while it is fenced, cannot leave the entry with the
wrong owner.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from structlog.typing import FilteringBoundLogger

from jitsu.backends.base import (
    Backend,
    Instance,
    Pauses,
    Prepared,
    Prepares,
    Resumes,
    Suspends,
    Watch,
)
from jitsu.core import events, warm
from jitsu.core import summon as summoning
from jitsu.core.segment import Ends
from jitsu.core.splice import Numbers
from jitsu.errors import HostError
from jitsu.host.guests import Guests
from jitsu.host.network import Network
from jitsu.host.saved import Saved
from jitsu.model import Epoch, Handoff, Name, Service, State, StopMode
from jitsu.run import BootWatch, Run, Spare

Start = Callable[[Watch], Awaitable[Instance]]
"""Starts a guest."""


class Cores(Protocol):
    """Who decides: the daemon, which knows the cores."""

    log: FilteringBoundLogger

    def tell_summoner(self, name: Name, event: summoning.Event) -> None:
        """Give an event to the summoner of a service."""

    def tell_synjitsu(self, event: events.Event) -> None:
        """Give an event to Synjitsu."""

    def tell_warmer(self, event: warm.Event) -> None:
        """Give an event to who decides what is prepared."""

    def mark(self, name: Name, mark: str, *, span: str = "", since: str = "") -> None:
        """Note the time in the waterfall of a service."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a task do it."""


@dataclass(frozen=True, slots=True)
class Told:
    """Hears what the guest of one boot says, by frames and in the store."""

    cores: Cores
    name: Name
    epoch: Epoch

    def sent(self, frame: bytes) -> None:
        """Take a frame."""
        self.cores.tell_synjitsu(events.GuestSent(self.name, frame))

    def wrote(self, word: bytes) -> None:
        """Take its word on the hand-over."""
        self.cores.tell_synjitsu(events.GuestWrote(self.name, self.epoch, word))

    def ready(self) -> None:
        """Take that the node is there by which it says that it can serve."""
        self.cores.tell_synjitsu(events.KeyAppeared(self.name, self.epoch))


class Lives:
    """The lives of all guests."""

    def __init__(
        self,
        cores: Cores,
        runs: Mapping[Name, Run],
        network: Network,
        backends: Mapping[str, Backend],
        guests: Mapping[str, Guests],
        saved: Saved,
    ) -> None:
        self._cores = cores
        self._runs = runs
        self._network = network
        self._backends = backends
        self._guests = guests
        self._saved = saved

    def boot(self, service: Service, epoch: Epoch) -> None:
        """Boot a guest, and be with it until it is gone."""
        run = self._runs[service.name]
        run.started = asyncio.get_running_loop().create_future()
        self._cores.start(self._live(run, epoch, self._start(run, epoch)))

    def _start(self, run: Run, epoch: Epoch) -> Start:
        """Return how a boot is done: with what is prepared, if anything is."""
        service = run.service
        cold = partial(self._backends[service.backend].boot, service, epoch, self._network)
        spare = next((spare for spare in run.spares if not spare.prepared.gone.done()), None)
        if spare is None:
            return cold
        run.spares.remove(spare)
        spare.taken.set_result(None)
        self._cores.tell_warmer(warm.Taken(service.name))
        return partial(self._finish, service, epoch, spare.prepared, cold)

    async def _finish(
        self, service: Service, epoch: Epoch, prepared: Prepared, cold: Start, watch: Watch
    ) -> Instance:
        """Boot what is prepared; where that fails nothing is left of it, and the boot is cold."""
        try:
            return await prepared.boot(epoch, watch)
        except (HostError, OSError) as error:
            reason = str(error)
            self._cores.log.warning("booted cold", service=service.name, reason=reason)
        return await cold(watch)

    async def prepare(self, service: Service) -> None:
        """Prepare an instance, and be with it until a boot has it or it is gone."""
        run, backend = self._runs[service.name], self._backends[service.backend]
        assert isinstance(backend, Prepares), "the configuration was checked"
        try:
            prepared = await backend.prepare(service, self._network)
        except (HostError, OSError) as error:
            self._cores.log.warning("not prepared", service=service.name, reason=str(error))
            self._cores.tell_warmer(warm.Failed(service.name))
            return
        spare = Spare(prepared, asyncio.get_running_loop().create_future())
        run.spares.append(spare)
        self._cores.tell_warmer(warm.Made(service.name))
        either: list[asyncio.Future[Any]] = [prepared.gone, spare.taken]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if spare.taken.done():
            return
        if spare in run.spares:
            run.spares.remove(spare)
            reason = prepared.gone.result().reason
            self._cores.log.warning("prepared, and gone", service=service.name, reason=reason)
            self._cores.tell_warmer(warm.Lost(service.name))
        else:
            self._cores.tell_warmer(warm.Left(service.name))

    def give_up(self, service: Service) -> None:
        """Have a prepared instance go; the oldest is."""
        self._runs[service.name].spares.pop(0).prepared.discard()

    def restore(self, service: Service, epoch: Epoch) -> None:
        """Start a guest that is in its file, and be with it until it is gone."""
        run = self._runs[service.name]
        run.started = asyncio.get_running_loop().create_future()
        self._cores.start(self._live(run, epoch, partial(self._restored, service, epoch)))

    def discard(self, service: Service) -> None:
        """Remove the file of a suspended guest."""
        self._saved.discard(service.name)

    async def _restored(self, service: Service, epoch: Epoch, watch: Watch) -> Instance:
        """Return the guest that is in the file, which is there no more."""
        backend = self._backends[service.backend]
        assert isinstance(backend, Resumes), "the configuration was checked"
        file = self._saved.file(service.name)
        try:
            return await backend.resume(service, epoch, self._network, watch, file)
        finally:
            self._saved.discard(service.name)

    async def _live(self, run: Run, epoch: Epoch, start: Start) -> None:
        """Start a guest and be with it until it is gone."""
        service, future = run.service, run.started
        assert future is not None
        self._cores.mark(service.name, "boot")
        told = Told(self._cores, service.name, epoch)
        watch = BootWatch(partial(self._cores.mark, service.name), told.sent, future)
        try:
            instance = await start(watch)
        except (HostError, OSError) as error:
            # Whatever a backend meets on its way costs this boot, not the guests that run.
            future.set_result(None)
            gone = summoning.Gone(epoch, str(error), began=False)
            self._cores.tell_summoner(service.name, gone)
            return
        watch.begin(instance)
        presence = self._guests[service.backend].enter(service, epoch, instance.link, told)
        if run.summoner.state is State.SUSPENDED:
            self._cores.mark(service.name, "can serve", span="resume", since="boot")
            self._cores.tell_summoner(service.name, summoning.Resumed(epoch))
        exit_ = await instance.gone
        presence.leave()
        await self._take_over(run)
        run.started = None
        gone = summoning.Gone(epoch, exit_.reason, exit_.clean, exit_.began, exit_.saved)
        self._cores.tell_summoner(service.name, gone)
        if not exit_.saved:  # else its clients are still its own
            instance.link.ask_orphans()

    async def track(self, effect: events.Track) -> None:
        """Have connections counted, or no more."""
        run = self._runs[effect.name]
        async with run.tracking:  # in their order
            await self._network.track(run.service, effect.opened, effect.ended)
        self._cores.tell_synjitsu(events.Tracked(effect.name))

    def commit(self, effect: events.Commit) -> None:
        """Give a guest its connections by the store."""
        guests = self._guests[self._runs[effect.name].service.backend]
        doing = guests.commit(effect.name, effect.epoch, effect.flows)
        if doing is None:
            self._cores.tell_synjitsu(events.Committed(effect.name, effect.epoch))
        else:
            self._cores.start(self._committed(effect, doing))

    async def _committed(self, effect: events.Commit, doing: Coroutine[Any, Any, None]) -> None:
        """Wait until the store has it; a guest that cannot be told is ended."""
        run = self._runs[effect.name]
        try:
            await doing
        except HostError as error:
            self._cores.log.warning("not handed over", service=effect.name, reason=str(error))
            if (instance := running(run)) is not None and run.summoner.epoch == effect.epoch:
                instance.stop(StopMode.DESTROY)
            return
        self._cores.tell_synjitsu(events.Committed(effect.name, effect.epoch))

    def clear(self, name: Name) -> None:
        """Forget the connections that a guest has imported."""
        doing = self._guests[self._runs[name].service.backend].clear(name)
        if doing is not None:
            self._cores.start(_quietly(doing))

    def shift(self, name: Name, ends: Ends, numbers: Numbers | None) -> None:
        """Have the guest's link translate between the ends of a connection."""
        instance = running(self._runs[name])
        try:
            if instance is not None:
                instance.link.shift(ends, numbers)
        except HostError as error:
            self._cores.log.warning("not spliced", service=name, reason=str(error))
            self._cores.tell_synjitsu(events.Unshiftable(name, ends, str(error)))

    async def hand_over(self, service: Service) -> None:
        """Let the guest own its address, and send it what was held."""
        run = self._runs[service.name]
        instance = await started(run)
        async with run.lock:
            serves = run.summoner.state is State.AWAKE and run.link is None
            if instance is None or instance.gone.done() or not serves:
                return
            self._cores.tell_synjitsu(events.Moving(service.name))
            try:
                await self._network.own(service, instance.link)
            except HostError as error:
                # The guest has died under us; `gone` follows.
                self._cores.log.warning("hand-over failed", service=service.name, reason=str(error))
                await self._network.own(service, None)
                self._cores.tell_synjitsu(events.Moved(service.name, to_guest=False))
                return
            run.link = instance.link
            self._cores.tell_synjitsu(events.Moved(service.name, to_guest=True))
            self._cores.mark(service.name, "handed over", span="hand over", since="can serve")
            instance.link.deafen()

    async def _take_over(self, run: Run) -> None:
        """Let Synjitsu own the address."""
        async with run.lock:
            if run.link is None:
                return
            self._cores.tell_synjitsu(events.Moving(run.service.name))
            await self._network.own(run.service, None)
            run.link = None
            self._cores.tell_synjitsu(events.Moved(run.service.name, to_guest=False))

    async def look(self, service: Service) -> None:
        """Look at the traffic; let the guest's link forget connections that have ended."""
        traffic = await self._network.traffic([service])
        self._runs[service.name].flows = traffic[service.name].flows
        self._cores.tell_summoner(service.name, traffic[service.name])
        instance = running(self._runs[service.name])
        if instance is not None and service.handoff is Handoff.SPLICE:
            await instance.link.sweep()

    async def fence(self, service: Service) -> None:
        """Let Synjitsu own the address, then look at the traffic."""
        await self._take_over(self._runs[service.name])
        await self.look(service)

    async def stop(self, service: Service, epoch: Epoch, how: StopMode) -> None:
        """End a guest, or let it rest; its address is Synjitsu's from now on."""
        run = self._runs[service.name]
        instance = await started(run)
        await self._take_over(run)
        if instance is None or run.summoner.epoch != epoch:
            return
        match how:
            case StopMode.PAUSE:
                await self._pause(service, epoch, instance)
            case StopMode.SUSPEND:
                assert isinstance(instance, Suspends), "the configuration was checked"
                instance.suspend(self._saved.file(service.name))
            case _:
                self._cores.tell_synjitsu(events.Ending(service.name))
                instance.stop(how)

    async def _pause(self, service: Service, epoch: Epoch, instance: Instance) -> None:
        assert isinstance(instance, Pauses), "the configuration was checked"
        try:
            await instance.pause()
        except HostError as error:
            self._end(service, instance, f"not paused: {error}")
            return
        self._cores.tell_summoner(service.name, summoning.Paused(epoch))

    async def resume(self, service: Service, epoch: Epoch) -> None:
        """Let a guest that is paused run on."""
        run = self._runs[service.name]
        instance = running(run)
        if instance is None or run.summoner.epoch != epoch:
            return  # it has just gone
        assert isinstance(instance, Pauses), "the configuration was checked"
        try:
            await instance.resume()
        except HostError as error:
            self._end(service, instance, f"not resumed: {error}")
            return
        self._cores.mark(service.name, "can serve", span="resume")
        self._cores.tell_summoner(service.name, summoning.Resumed(epoch))

    def _end(self, service: Service, instance: Instance, why: str) -> None:
        """End a guest that does not do as it is told; `gone` follows, if it has not."""
        self._cores.log.warning(why, service=service.name)
        instance.stop(StopMode.DESTROY)


async def started(run: Run) -> Instance | None:
    """Wait for the boot that is under way, if one is; return the guest."""
    return await asyncio.shield(run.started) if run.started is not None else None


def running(run: Run) -> Instance | None:
    """Return the guest, if it runs."""
    return run.started.result() if run.started is not None and run.started.done() else None


async def _quietly(doing: Coroutine[Any, Any, None]) -> None:
    """Do what need not be done where the store has gone."""
    with suppress(HostError):
        await doing
