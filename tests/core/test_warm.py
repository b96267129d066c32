"""Conversations with who keeps services warm."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.core.admission import Admission, Gatekeeper
from jitsu.core.summon import Admit
from jitsu.core.warm import (
    BACKOFF_FIRST,
    BACKOFF_MAX,
    LEISURE,
    Closed,
    Discard,
    Effect,
    Event,
    Failed,
    Left,
    Lost,
    Made,
    Moved,
    Prepare,
    Started,
    Taken,
    Warmer,
)
from jitsu.model import Service
from jitsu.testing.world import MEMORY, service

Act = Callable[[], None]
A, B, COLD = service(0, warm=1), service(1, warm=2), service(2)


def warmer(*services: Service, memory: int = 16 * MEMORY) -> tuple[Warmer, Gatekeeper]:
    gate = Gatekeeper(memory)
    return Warmer(services, gate), gate


def settle(warm: Warmer, effects: Sequence[Effect], now: float = 0.0) -> list[Service]:
    """Have all preparations succeed; return whose they were."""
    made: list[Service] = []
    while effects:
        (prepare,) = effects
        assert isinstance(prepare, Prepare)
        made.append(prepare.service)
        effects = warm.handle(Made(prepare.service.name), now)
    return made


def test_all_are_prepared_at_the_start_the_barest_first() -> None:
    warm, gate = warmer(COLD, B, A)
    assert warm.handle(Moved(), 0.0) == [], "not before"
    assert settle(warm, warm.handle(Started(), 0.0)) == [B, A, B]
    assert [gate.prepared(s) for s in (A, B, COLD)] == [1, 2, 0]
    assert warm.deadline() is None
    assert repr(warm) == "<Warmer 3 of 3 prepared>"


def test_one_is_prepared_at_a_time() -> None:
    warm, _ = warmer(A, B)
    assert warm.handle(Started(), 0.0) == [Prepare(A)]
    assert warm.handle(Moved(), 0.0) == []
    assert warm.tick(0.0) == []
    assert warm.handle(Made(A.name), 0.0) == [Prepare(B)]


def test_nothing_is_prepared_while_something_boots_or_soon_after() -> None:
    warm, gate = warmer(A)
    settle(warm, warm.handle(Started(), 0.0))
    gate.ask(A)
    assert warm.handle(Moved(), 1.0) == []
    assert warm.handle(Taken(A.name), 1.0) == []
    assert warm.deadline() is None, "it is not known when the boot ends"
    gate.booted(A.name)
    assert warm.handle(Moved(), 2.0) == []
    assert warm.deadline() == 2.0 + LEISURE
    assert warm.tick(2.0) == []
    assert warm.tick(2.0 + LEISURE) == [Prepare(A)]
    assert warm.deadline() is None


def test_failure_backs_off_and_what_was_used_is_forgiven() -> None:
    warm, gate = warmer(A)
    effects, now, waits = warm.handle(Started(), 0.0), 0.0, []
    for number in range(9):
        assert effects == [Prepare(A)]
        if number % 2:
            assert warm.handle(Made(A.name), now) == []
            assert warm.handle(Lost(A.name), now) == []
        else:
            assert warm.handle(Failed(A.name), now) == []
        assert gate.memory_free == 16 * MEMORY
        due = warm.deadline()
        assert due is not None
        assert warm.tick(due - 0.001) == []
        waits.append(due - now)
        effects, now = warm.tick(due), due
    assert waits == pytest.approx([min(BACKOFF_FIRST * 2**n, BACKOFF_MAX) for n in range(9)])
    settle(warm, effects, now)
    gate.ask(A)
    warm.handle(Taken(A.name), now)
    gate.gone(A.name)
    warm.handle(Moved(), now)
    now += LEISURE
    assert warm.tick(now) == [Prepare(A)]
    warm.handle(Failed(A.name), now)
    assert warm.deadline() == now + BACKOFF_FIRST


def test_a_service_that_cannot_be_prepared_does_not_hold_up_another() -> None:
    warm, _ = warmer(A, B)
    assert warm.handle(Started(), 0.0) == [Prepare(A)]
    assert settle(warm, warm.handle(Failed(A.name), 0.0)) == [B, B]
    assert warm.deadline() == BACKOFF_FIRST
    third = service(3, warm=1)
    warm, _ = warmer(A, third)
    warm.handle(Started(), 0.0)
    warm.handle(Failed(A.name), 0.5)
    warm.handle(Failed(third.name), 0.7)
    assert warm.deadline() == 0.5 + BACKOFF_FIRST, "the earlier of the two"


def test_what_does_not_fit_is_prepared_when_there_is_memory() -> None:
    large = service(4, warm=1, memory=2 * MEMORY)
    warm, gate = warmer(large, A, memory=2 * MEMORY)
    gate.ask(COLD)
    gate.booted(COLD.name)
    assert settle(warm, warm.handle(Started(), 0.0)) == [A], "the lesser one fits"
    assert warm.deadline() is None
    gate.gone(COLD.name)
    assert warm.handle(Moved(), 1.0) == [], "and nothing goes for the sake of the other"
    assert warm.handle(Lost(A.name), 2.0) == [Prepare(large)]


def test_a_boot_of_another_service_gets_the_memory() -> None:
    warm, gate = warmer(A, memory=MEMORY)
    settle(warm, warm.handle(Started(), 0.0))
    assert gate.ask(COLD) is Admission.QUEUED
    assert warm.handle(Moved(), 1.0) == [Discard(A)]
    assert warm.handle(Moved(), 1.0) == []
    assert warm.handle(Left(A.name), 1.1) == [Admit(COLD.name)]
    gate.booted(COLD.name)
    gate.gone(COLD.name)
    warm.handle(Moved(), 2.0)
    assert warm.tick(2.0 + LEISURE) == [Prepare(A)]


def test_what_is_being_prepared_goes_when_it_is_there() -> None:
    warm, gate = warmer(A, memory=MEMORY)
    assert warm.handle(Started(), 0.0) == [Prepare(A)]
    assert gate.ask(COLD) is Admission.QUEUED
    assert warm.handle(Moved(), 0.1) == []
    assert warm.handle(Made(A.name), 0.2) == [Discard(A)]
    assert warm.handle(Left(A.name), 0.3) == [Admit(COLD.name)]


def test_all_goes_at_the_end_and_nothing_comes() -> None:
    warm, gate = warmer(A, B)
    assert warm.handle(Started(), 0.0) == [Prepare(A)]
    assert warm.handle(Made(A.name), 0.0) == [Prepare(B)]
    assert warm.handle(Closed(), 1.0) == [Discard(A)]
    assert warm.handle(Made(B.name), 1.0) == [Discard(B)]
    assert warm.handle(Left(A.name), 1.0) == []
    assert warm.handle(Left(B.name), 1.0) == []
    assert gate.memory_free == 16 * MEMORY
    assert warm.deadline() is None


def test_what_was_promised_to_a_boot_that_the_end_calls_off_goes_too() -> None:
    gate = Gatekeeper(2 * MEMORY, boots_max=1)
    warm = Warmer((A,), gate)
    settle(warm, warm.handle(Started(), 0.0))
    gate.ask(COLD)
    assert gate.ask(A) is Admission.QUEUED
    assert warm.handle(Closed(), 1.0) == []
    gate.gone(A.name)
    assert warm.handle(Moved(), 1.0) == [Discard(A)]


@given(st.data())
def test_whatever_happens_no_more_memory_is_used_than_there_is(data: st.DataObject) -> None:
    services = (A, B, COLD, service(3, memory=2 * MEMORY, warm=1))
    total = data.draw(st.integers(1, 5)) * MEMORY
    gate = Gatekeeper(total, boots_max=data.draw(st.integers(1, 3)))
    warm = Warmer(services, gate)
    world = World(warm, gate, {s.name: s for s in services})
    world.emit(warm.handle(Started(), 0.0))
    for _ in range(data.draw(st.integers(0, 60))):
        world.now += 0.06
        choices = world.choices()
        data.draw(st.sampled_from(choices))()
        assert world.used() <= total
        assert len(world.making) <= 1
    world.close()
    assert gate.memory_free == total


class World:
    """Backends and summoners, at their shortest: what really exists, whatever was counted."""

    def __init__(self, warm: Warmer, gate: Gatekeeper, services: dict[str, Service]) -> None:
        self.warm, self.gate, self.services = warm, gate, services
        self.now = 0.0
        self.making: list[Service] = []
        self.spares: list[Service] = []
        self.leaving: list[Service] = []
        self.asked: list[Service] = []
        self.guests: list[Service] = []
        self.booting: set[str] = set()

    def used(self) -> int:
        return sum(s.memory for s in (*self.making, *self.spares, *self.leaving, *self.guests))

    def tell(self, event: Event) -> None:
        self.emit(self.warm.handle(event, self.now))

    def emit(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Prepare(which):
                    assert not self.gate.busy, "somebody waits for the CPU"
                    self.making.append(which)
                case Discard(which):
                    self.spares.remove(which)
                    self.leaving.append(which)
                case Admit(name):
                    self.begin(self.services[name])

    def begin(self, which: Service) -> None:
        self.asked.remove(which)
        self.booting.add(which.name)
        if which in self.spares:
            self.spares.remove(which)
            self.guests.append(which)
            self.tell(Taken(which.name))
        else:
            self.guests.append(which)

    def ask(self, which: Service) -> None:
        answer = self.gate.ask(which)
        if answer is not Admission.REFUSED:
            self.asked.append(which)
        if answer is Admission.ADMITTED:
            self.begin(which)
        self.tell(Moved())

    def booted(self, which: Service) -> None:
        self.booting.discard(which.name)
        self.emit([Admit(name) for name in self.gate.booted(which.name)])
        self.tell(Moved())

    def gone(self, which: Service) -> None:
        for place in (self.guests, self.asked):
            if which in place:
                place.remove(which)
        self.booting.discard(which.name)
        self.emit([Admit(name) for name in self.gate.gone(which.name)])
        self.tell(Moved())

    def made(self, which: Service) -> None:
        self.making.remove(which)
        self.spares.append(which)
        self.tell(Made(which.name))

    def failed(self, which: Service) -> None:
        self.making.remove(which)
        self.tell(Failed(which.name))

    def lost(self, which: Service) -> None:
        self.spares.remove(which)
        self.tell(Lost(which.name))

    def left(self, which: Service) -> None:
        self.leaving.remove(which)
        self.tell(Left(which.name))

    def tick(self) -> None:
        self.emit(self.warm.tick(self.now))

    def choices(self) -> list[Act]:
        there = [*self.asked, *self.guests]
        acts: list[Act] = [self.tick]
        acts += [partial(self.ask, s) for s in self.services.values() if s not in there]
        acts += [partial(self.booted, s) for s in self.guests if s.name in self.booting]
        acts += [partial(self.gone, s) for s in there]
        acts += [partial(act, s) for s in self.making for act in (self.made, self.failed)]
        acts += [partial(self.lost, s) for s in self.spares]
        return acts + [partial(self.left, s) for s in self.leaving]

    def close(self) -> None:
        self.tell(Closed())
        for which in [*self.asked, *self.guests]:
            self.gone(which)
        for which in [*self.making]:
            self.made(which)
        for which in [*self.leaving]:
            self.left(which)
        assert not self.used(), "all has gone"
