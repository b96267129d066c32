"""READ FIRST: the daemon. An event goes to a core, the core returns effects, `_perform` does them.

    DNS query ---> Directory --Summon--+
    frame -------> Synjitsu ---Wake----+--> Summoner --Boot, Stop--> backend
    `jitsu summon` --------------------+       |  ^                    |
                                               |  +---- Ready, Gone ---+
                      Directory, Synjitsu <----+ Entered(state)
                                               +---> Warmer --Prepare, Discard--> backend

This is the only file that knows all parts. The cores decide and do not act; here nothing is
decided. What takes time (a boot, moving an address from one owner to the other, a look at the
traffic) is a task of the daemon's task group (`jitsu.life`), and comes back as an event.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, assert_never, cast

from structlog.typing import FilteringBoundLogger

from jitsu.backends.base import Backend
from jitsu.core import directory as dns
from jitsu.core import events, synjitsu, warm
from jitsu.core import summon as summoning
from jitsu.core.admission import Gatekeeper
from jitsu.core.deadlines import Deadlines
from jitsu.core.waterfall import Waterfall
from jitsu.errors import ControlError, HostError
from jitsu.host.guests import Guests
from jitsu.host.log import Late
from jitsu.host.network import Network
from jitsu.host.saved import Saved
from jitsu.life import Lives, running, started
from jitsu.model import Cause, Config, Epoch, Name, Service, State
from jitsu.run import Run

_DIRECTORY, _SYNJITSU, _WARMER = "the directory", "synjitsu", "the warmer"


class Resolver(Protocol):
    """Where the directory's answers go."""

    def respond(self, client: dns.Client, data: bytes) -> None:
        """Send `data` to `client`."""

    def forward(self, effect: dns.Forward) -> None:
        """Ask the upstream resolvers; the outcome comes to `Daemon.asked`."""


@dataclass(frozen=True, slots=True)
class Ambient:
    """What differs from run to run: time, chance and history.

    `clock` is in seconds and never goes back, `secret` keys what must not be guessed, `serial` is
    that of the zones (RFC 1035 section 3.3.13), `saved` is where guests are suspended to.
    """

    clock: Callable[[], float]
    secret: bytes
    serial: int
    saved: Saved


class Daemon:
    """One host's Jitsu."""

    def __init__(
        self,
        config: Config,
        network: Network,
        backends: Mapping[str, Backend],
        guests: Mapping[str, Guests],
        log: FilteringBoundLogger,
        ambient: Ambient,
    ) -> None:
        """Prepare; nothing happens before `run`."""
        self.directory = dns.Directory(config.directory, config.services, ambient.serial)
        self.synjitsu = synjitsu.Synjitsu(
            config.services, config.network.probe, config.directory.summon_from, ambient.secret
        )
        self._network = network
        self._backends = backends
        self.log = log
        self._late = Late()
        self._clock = ambient.clock
        self._gatekeeper = Gatekeeper(config.host.memory)
        self._runs = {
            s.name: Run(s, summoning.Summoner(s, self._gatekeeper)) for s in config.services
        }
        self._warmer = warm.Warmer(config.services, self._gatekeeper)
        self._lives = Lives(self, self._runs, network, backends, guests, ambient.saved)
        self._deadlines = Deadlines()
        self._todo: deque[Any] = deque()
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed: float | None = None
        self._closing = asyncio.Event()

    async def run(self, resolver: Resolver, started: Callable[[], None]) -> None:
        """Serve until `close`; `started` is called when events may come. Then stop all guests.

        Raises HostError when the network goes away under the daemon.
        """
        self._resolver = resolver
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                started()
                self.tell_warmer(warm.Started())
                await self._closing.wait()
                await self._stop_all()
                if self._timer:
                    self._timer.cancel()
        # Not `except*`: until Python 3.11.4 what it raises comes out wrapped in a group.
        except ExceptionGroup as group:
            first = group.exceptions[0]
            if not isinstance(first, HostError):
                raise
            raise HostError(f"the network has gone: {first}; start the daemon again") from first
        finally:
            self._late.flush()

    def close(self) -> None:
        """Have `run` stop all guests and return."""
        self._closing.set()

    def fail(self, error: HostError) -> None:
        """Have `run` raise: the network has gone away under the daemon."""
        self.start(self._fail(error))

    # What may happen.

    def asked(self, event: dns.Query | dns.Forwarded) -> None:
        """Take a DNS query, or what became of a forwarded one."""
        self._emit(self.directory.handle(event, self._clock()))
        self._deadlines.set(_DIRECTORY, self.directory.deadline())
        self._arm()

    def frame(self, data: bytes) -> None:
        """Take a frame that has reached Synjitsu's port."""
        self.tell_synjitsu(events.Arrived(data))

    async def summon(self, name: Name) -> State:
        """Summon a service for the operator; return the state that it comes to. May raise."""
        run = self._find(name)
        self._wish(name, Cause.OPERATOR)
        settled = (State.AWAKE, State.FAILED, State.ASLEEP)
        while run.summoner.state not in settled and not self._closing.is_set():
            await self._change(run)
        if self._closing.is_set():
            raise ControlError("the daemon is stopping")
        if run.summoner.state is State.ASLEEP:
            raise ControlError(f"{name} was stopped while it booted; summon it again")
        return run.summoner.state

    async def dismiss(self, name: Name) -> State:
        """Stop a service for the operator, used or not; return when it is gone."""
        run = self._find(name)
        self.tell_summoner(name, summoning.Dismissed())
        while run.summoner.state is State.STOPPING:
            await self._change(run)
        return run.summoner.state

    # What may be asked.

    async def services(self) -> list[dict[str, object]]:
        """Describe every service: the rows of `jitsu ls`, times on the daemon's clock."""
        traffic = await self._network.traffic([run.service for run in self._runs.values()])
        return [run.describe(traffic.get(name)) for name, run in self._runs.items()]

    def waterfall(self, name: Name) -> dict[str, object]:
        """Report the last summons of a service. Raises ControlError when there was none."""
        waterfall = self._find(name).waterfall
        if waterfall is None:
            raise ControlError(f"{name} has not been summoned yet; try `jitsu summon {name}`")
        return waterfall.report() | {"started": waterfall.started}

    def ran(self, name: Name) -> bool:
        """Say whether the last summons of a service got as far as to start its guest."""
        return self._find(name).ran()

    def console(self, name: Name) -> str:
        """Return what the service's guests have last written."""
        service = self._find(name).service
        return self._backends[service.backend].console(service)

    def counters(self) -> dict[str, int]:
        """Return Synjitsu's counters: what was held, replayed, refused and dropped, and why."""
        return dict(self.synjitsu.counters)

    def state(self, name: Name) -> State:
        """Return where in its life a service is."""
        return self._find(name).summoner.state

    @property
    def memory_free(self) -> int:
        """Return how many bytes of the host's memory no service has claimed."""
        return self._gatekeeper.memory_free

    def _find(self, name: Name) -> Run:
        try:
            return self._runs[name]
        except KeyError:
            known = ", ".join(self._runs)
            raise ControlError(f"no service is called {name}; there are: {known}") from None

    async def _change(self, run: Run) -> None:
        """Wait until the service is in another state."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        run.waiters.append(waiter)
        await waiter

    # Events to cores, effects to the world.

    def _wish(self, name: Name, cause: Cause) -> None:
        if self._closing.is_set():
            return
        run = self._runs[name]
        now = self._clock()
        run.last_request = now
        if run.summoner.heeds(cause):
            is_new = run.summoner.state is not State.PAUSED
            epoch = Epoch(run.summoner.epoch + is_new)
            run.waterfall = Waterfall(name, epoch, cause, now)
        self.tell_summoner(name, summoning.Wanted(cause))

    def tell_summoner(self, name: Name, event: summoning.Event) -> None:
        """Give an event to the summoner of a service."""
        summoner = self._runs[name].summoner
        self._emit(summoner.handle(event, self._clock()))
        self._deadlines.set(name, summoner.deadline())
        self.tell_warmer(warm.Moved())

    def tell_warmer(self, event: warm.Event) -> None:
        """Give an event to who decides what is prepared."""
        self._emit(self._warmer.handle(event, self._clock()))
        self._deadlines.set(_WARMER, self._warmer.deadline())
        self._arm()

    def tell_synjitsu(self, event: events.Event) -> None:
        """Give an event to Synjitsu."""
        self._emit(self.synjitsu.handle(event, self._clock()))
        self._deadlines.set(_SYNJITSU, self.synjitsu.deadline())
        self._arm()

    def _tick(self) -> None:
        self._timer = self._armed = None
        now = self._clock()
        for key in self._deadlines.due(now):
            if key == _DIRECTORY:
                self._emit(self.directory.tick(now))
                self._deadlines.set(_DIRECTORY, self.directory.deadline())
            elif key == _SYNJITSU:
                self._emit(self.synjitsu.tick(now))
                self._deadlines.set(_SYNJITSU, self.synjitsu.deadline())
            elif key == _WARMER:
                self._emit(self._warmer.tick(now))
                self._deadlines.set(_WARMER, self._warmer.deadline())
            else:
                summoner = self._runs[cast(Name, key)].summoner
                self._emit(summoner.tick(now))
                self._deadlines.set(key, summoner.deadline())
                self.tell_warmer(warm.Moved())
        self._arm()

    def _arm(self) -> None:
        """Have `_tick` called at the next deadline."""
        at = self._deadlines.next()
        if at == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = at
        if at is not None:
            self._timer = self._loop.call_later(max(0.0, at - self._clock()), self._tick)

    def _emit(self, effects: list[Any]) -> None:
        """Perform effects in order; those that follow from them come after."""
        self._todo.extend(effects)
        if self._draining:
            return
        self._draining = True
        try:
            while self._todo:
                self._perform(self._todo.popleft())
        finally:
            self._draining = False

    def _perform(self, effect: dns.Effect | events.Effect | summoning.Effect | warm.Effect) -> None:
        match effect:
            case dns.Respond(client, data):
                # After what the query has set off has begun: nobody can use the answer sooner.
                self._loop.call_soon(self._resolver.respond, client, data)
            case dns.Summon(name):
                self._wish(name, Cause.DNS)
            case dns.Forward():
                self._resolver.forward(effect)
            case (
                summoning.Boot()
                | summoning.Resume()
                | summoning.Restore()
                | summoning.Discard()
                | summoning.Look()
                | summoning.Fence()
                | summoning.HandOver()
                | summoning.Stop()
                | summoning.Admit()
                | summoning.Entered()
            ):
                self._perform_summoners(effect)
            case warm.Prepare(service):
                self.start(self._lives.prepare(service))
            case warm.Discard(service):
                self._lives.give_up(service)
            case _:
                self._perform_synjitsus(effect)

    def _perform_synjitsus(self, effect: events.Effect) -> None:  # noqa: C901, PLR0912
        match effect:
            case events.Send(frame):
                self._network.send(frame)
            case events.SendToGuest(name, frame):
                if (instance := running(self._runs[name])) is not None:
                    instance.link.send(frame)
            case events.Wake(name, cause):
                self._wish(name, cause)
            case events.Remember(local, port, peer, peer_port):
                self._network.remember(local, port, peer, peer_port)
            case events.Track(name):
                self.start(self._lives.track(effect))
            case events.Commit():
                self._lives.commit(effect)
            case events.Clear(name):
                self._lives.clear(name)
            case events.Shift(name, ends, numbers):
                self._lives.shift(name, ends, numbers)
            case events.Unshift(name, ends):
                if (instance := running(self._runs[name])) is not None:
                    instance.link.unshift(ends)
            case events.Heard(name):
                self.mark(name, "first frame", span="boot", since="exec")
            case events.CanServe(name):
                self.mark(name, "can serve", span="get ready", since="first frame")
                self.tell_summoner(name, summoning.Ready(self._runs[name].summoner.epoch))
            case _:
                assert_never(effect)

    def _perform_summoners(self, effect: summoning.Effect) -> None:  # noqa: C901
        match effect:
            case summoning.Boot(service, epoch):
                self._lives.boot(service, epoch)
            case summoning.Resume(service, epoch):
                self.start(self._lives.resume(service, epoch))
            case summoning.Restore(service, epoch):
                self._lives.restore(service, epoch)
            case summoning.Discard(service):
                self._lives.discard(service)
            case summoning.Look(service):
                self.start(self._lives.look(service))
            case summoning.Fence(service):
                self.start(self._lives.fence(service))
            case summoning.HandOver(service):
                self.start(self._lives.hand_over(service))
            case summoning.Stop(service, epoch, how):
                self.start(self._lives.stop(service, epoch, how))
            case summoning.Admit(name):
                self.tell_summoner(name, summoning.Admitted())
            case summoning.Entered(service, state, reason):
                self._entered(service, state, reason)
            case _:
                assert_never(effect)

    def _entered(self, service: Service, state: State, reason: str) -> None:
        run = self._runs[service.name]
        run.follow()
        level = self.log.warning if reason else self.log.info
        told = {"service": service.name, "epoch": run.summoner.epoch, "reason": reason or None}
        self._late.write(partial(level, str(state), **told))
        self.tell_synjitsu(events.StateEntered(service.name, state, run.summoner.epoch))
        if state is State.BOOTING:
            # Two turns later: in the next the guest begins, and nobody can use the answer sooner.
            self._loop.call_soon(self._loop.call_soon, self._tell_directory, service.name)
        else:
            self._tell_directory(service.name)
        run.wake()

    def _tell_directory(self, name: Name) -> None:
        """Tell what a service is doing now; held queries may be waiting for just that."""
        state = self.state(name)
        effects = self.directory.handle(dns.StateChanged(name, state), self._clock())
        if any(isinstance(effect, dns.Respond) for effect in effects):
            self.mark(name, "answered", span="answer", since="")
        self._emit(effects)
        self._deadlines.set(_DIRECTORY, self.directory.deadline())

    async def _fail(self, error: HostError) -> None:
        raise error

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a task of the daemon's do it."""
        self._tasks.create_task(work)

    def mark(self, name: Name, mark: str, *, span: str = "", since: str = "") -> None:
        """Note the time in the waterfall of a service."""
        waterfall = self._runs[name].waterfall
        if waterfall is not None:
            waterfall.mark(mark, self._clock(), span=span, since=since)

    async def _stop_all(self) -> None:
        """Stop every guest in its own way; return when all are gone."""
        for run in self._runs.values():
            run.wake()
        await asyncio.sleep(0)  # who waits for a summons is told before the end begins
        self.tell_warmer(warm.Closed())
        for name in self._runs:
            self.tell_summoner(name, summoning.Dismissed(for_good=True))
        for run in self._runs.values():
            instance = await started(run)
            if instance is not None:
                await instance.gone
