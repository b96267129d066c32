"""When to prepare instances ahead of the boots to come, and which of them go.

Theory of operation.

A service with `warm = N` is to have N instances prepared: everything is done that does not depend
on the moment. A boot takes one if there is one, and is a boot from cold if there is none: nothing
ever waits for a preparation, nor fails with it.

*A preparation is for a time at which nobody waits.* It takes the CPU and the hypervisor's locks for
as long as a boot does. So none begins while anything boots, or until a little later: a guest that
has just come up has its first requests to answer. One that is under way when a boot begins is
let finish, for a hypervisor cannot be stopped half-way; so there is one at a time, on the whole
host. The service that has least prepared comes first.

*Failure backs off.* An image that cannot be prepared, or an instance that dies before it is used,
costs its service nothing but the preparation, so it is tried again, after a time that doubles with
each failure in a row. An instance that was used clears the record.

*Memory is the gatekeeper's* (`core.admission`): an instance is prepared only in memory that is
free, and gives way to a boot of a service that has none. It is prepared again when there is memory
again; whatever frees some is an event here.

A prepared instance has no epoch. It is of no boot until one takes it.

This core does no I/O: give it events and the time, then perform the effects that it returns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from jitsu.core.admission import Gatekeeper
from jitsu.core.summon import Admit
from jitsu.model import Name, Service

LEISURE = 0.1
"""Seconds after the last boot until a preparation: by then a guest has answered its first."""
BACKOFF_FIRST = 1.0
"""Seconds after a first failure: nobody waits for the next try."""
BACKOFF_MAX = 60.0
"""A service that somebody mends is to be warm again within a coffee."""


@dataclass(frozen=True, slots=True)
class Started:
    """Boots may come from now on."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A boot may have begun or ended, or memory been claimed or given back."""


@dataclass(frozen=True, slots=True)
class Made:
    """An instance of the service is prepared."""

    name: Name


@dataclass(frozen=True, slots=True)
class Failed:
    """None could be prepared."""

    name: Name


@dataclass(frozen=True, slots=True)
class Taken:
    """A boot has begun with one."""

    name: Name


@dataclass(frozen=True, slots=True)
class Lost:
    """One has died, which nobody had asked to go."""

    name: Name


@dataclass(frozen=True, slots=True)
class Left:
    """One that was discarded has gone."""

    name: Name


@dataclass(frozen=True, slots=True)
class Closed:
    """No boots come any more."""


Event = Started | Moved | Made | Failed | Taken | Lost | Left | Closed


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have the backend prepare an instance; `Made` follows, or `Failed`."""

    service: Service


@dataclass(frozen=True, slots=True)
class Discard:
    """Have a prepared instance go: `Left` follows."""

    service: Service


Effect = Prepare | Discard | Admit


class Warmer:
    """Keeps the host's services warm."""

    def __init__(self, services: Sequence[Service], gatekeeper: Gatekeeper) -> None:
        self._services = {service.name: service for service in services if service.warm}
        self._gatekeeper = gatekeeper
        self._open = False
        self._preparing = False
        self._hurried = False  # something booted when it was last looked
        self._calm_at = 0.0
        self._failures = dict.fromkeys(self._services, 0)
        self._retry_at = dict.fromkeys(self._services, 0.0)
        self._deadline: float | None = None

    def __repr__(self) -> str:
        """Return how many are prepared of how many."""
        prepared = sum(map(self._gatekeeper.prepared, self._services.values()))
        return f"<Warmer {prepared} of {sum(s.warm for s in self._services.values())} prepared>"

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._deadline

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Return what `event` makes necessary."""
        admitted = self._learn(event, now)
        if not self._open:  # also what was promised to a boot that was called off after the end
            self._gatekeeper.empty()
        going = self._gatekeeper.evict()
        return [*map(Admit, admitted), *map(Discard, going), *self._look(now)]

    def tick(self, now: float) -> list[Effect]:
        """Return what the passing of time makes necessary."""
        return self._look(now)

    def _learn(self, event: Event, now: float) -> list[Name]:
        """Keep the books; return who may boot by what was given back."""
        match event:
            case Started():
                self._open = True
            case Moved():
                return []  # what there is to know, the gatekeeper knows
            case Made(name):
                self._preparing = False
                self._gatekeeper.made(self._services[name])
            case Failed(name):
                self._preparing = False
                self._back_off(name, now)
                return self._gatekeeper.failed(self._services[name])
            case Taken(name):
                self._failures[name] = 0
                return self._gatekeeper.taken(self._services[name])
            case Lost(name):
                self._back_off(name, now)
                return self._gatekeeper.lost(self._services[name])
            case Left(name):
                return self._gatekeeper.left(self._services[name])
            case Closed():
                self._open = False
            case _:
                assert_never(event)
        return []

    def _back_off(self, name: Name, now: float) -> None:
        self._retry_at[name] = now + min(BACKOFF_FIRST * 2 ** self._failures[name], BACKOFF_MAX)
        self._failures[name] += 1

    def _look(self, now: float) -> list[Effect]:
        """Prepare what is lacking, if this is the time for it; else say when to look again."""
        self._deadline = None
        hurried, self._hurried = self._hurried, self._gatekeeper.busy
        if hurried and not self._hurried:
            self._calm_at = now + LEISURE
        if self._hurried or self._preparing or not self._open:
            return []
        for service in self._lacking():
            due = max(self._calm_at, self._retry_at[service.name])
            if now < due:
                self._deadline = due if self._deadline is None else min(due, self._deadline)
            elif self._gatekeeper.reserve(service):
                self._deadline = None  # when it is made, it is looked again
                self._preparing = True
                return [Prepare(service)]
        return []

    def _lacking(self) -> list[Service]:
        """Return who has fewer than it should have, the barest first."""
        has = {s.name: self._gatekeeper.prepared(s) for s in self._services.values()}
        lacking = [s for s in self._services.values() if has[s.name] < s.warm]
        return sorted(lacking, key=lambda service: has[service.name])
