"""What the daemon holds of one service, and how it tells of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from jitsu.backends.base import Instance, Prepared
from jitsu.core.summon import Summoner, Traffic
from jitsu.core.waterfall import Waterfall
from jitsu.host.network import GuestLink
from jitsu.model import Service, State


@dataclass(slots=True, eq=False)
class Spare:
    """A prepared instance that is there for a boot; `taken` when one has it."""

    prepared: Prepared
    taken: asyncio.Future[None]


@dataclass(slots=True)
class Run:
    """What the daemon holds of one service."""

    service: Service
    summoner: Summoner
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tracking: asyncio.Lock = field(default_factory=asyncio.Lock)
    started: asyncio.Future[Instance | None] | None = None
    """The guest of the current epoch, once it runs; None if it never did."""
    spares: list[Spare] = field(default_factory=list)
    """What is prepared for its boots to come, the oldest first."""
    link: GuestLink | None = None
    """The owner of the address; None is Synjitsu."""
    waterfall: Waterfall | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    last_request: float | None = None
    flows: int = 0

    def wake(self) -> None:
        """Have those look again who wait for a change."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def follow(self) -> None:
        """Note in the waterfall what state the service is in now."""
        summoner, waterfall = self.summoner, self.waterfall
        if summoner.state is State.BOOTING and (not waterfall or waterfall.epoch != summoner.epoch):
            # For a wish that was kept while the guest before was stopping.
            name, epoch = self.service.name, summoner.epoch
            self.waterfall = Waterfall(name, epoch, summoner.cause, summoner.since)
        elif summoner.state is State.FAILED and waterfall:
            waterfall.failed = (summoner.since, summoner.reason)

    def ran(self) -> bool:
        """Say whether the last summons got as far as to start its guest."""
        return self.waterfall is not None and "exec" in self.waterfall.marks

    def describe(self, traffic: Traffic | None) -> dict[str, object]:
        """Return the row of `jitsu ls`, times on the daemon's clock."""
        service, summoner = self.service, self.summoner
        addresses = [service.address, *([service.address6] if service.address6 else [])]
        last = max(self.last_request or 0.0, traffic.last if traffic else 0.0)
        return {
            "name": service.name,
            "state": str(summoner.state),
            "backend": service.backend,
            "dns": list(service.dns),
            "addresses": [str(address) for address in addresses],
            "memory": service.memory,
            "since": summoner.since or None,
            "summons": summoner.summons,
            "last_request": last or None,
            "flows": traffic.flows if traffic else 0,
            "prepared": len(self.spares),
            "reason": summoner.reason or None,
        }


_SPANS = {
    "link": ("link", "make link", "boot"),
    "exec": ("exec", "exec", "link"),
    "plugged": ("plugged", "plug", "exec"),
    "created": ("created", "create domain", "boot"),
    "built": ("built", "build domain", "created"),
    "unpaused": ("exec", "introduce, unpause", "built"),
    "finished": ("exec", "finish domain", "boot"),
    "joined": ("plugged", "plug", "boot"),
    "continued": ("exec", "let it run", "plugged"),
    "connected": ("plugged", "plug", "created"),
}
"""What each stage of a boot is in the waterfall: its mark, the span that it ends, and since when.

A guest runs from "exec" on, whatever the hypervisor calls that.
"""
_EARLY_MAX = 64
"""Frames that a guest may send within the microseconds of its start."""


class Mark(Protocol):
    """Notes the time in a waterfall."""

    def __call__(self, mark: str, *, span: str = "", since: str = "") -> None:
        """Note that `mark` is now; it ends `span`, which began with `since`."""


class BootWatch:
    """Follows one boot for the daemon; frames that come before `boot` has returned wait for it."""

    def __init__(
        self,
        mark: Mark,
        sent: Callable[[bytes], None],
        started: asyncio.Future[Instance | None],
    ) -> None:
        self._mark = mark
        self._sent = sent
        self._started = started
        self._early: list[bytes] = []

    def stage(self, name: str) -> None:
        """Note a stage of the boot."""
        mark, span, since = _SPANS[name]
        self._mark(mark, span=span, since=since)

    def begin(self, instance: Instance) -> None:
        """The guest runs: let its frames be seen."""
        self._started.set_result(instance)
        for frame in self._early:
            self._sent(frame)

    def on_frame(self, frame: bytes) -> None:
        """Take a frame of the guest's."""
        if self._started.done():
            self._sent(frame)
        elif len(self._early) < _EARLY_MAX:
            self._early.append(frame)
