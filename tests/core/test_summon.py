"""Conversations with a summoner: one service's life, and the lives of several."""

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jitsu.core.admission import Gatekeeper
from jitsu.core.summon import (
    BACKOFF_FIRST,
    BACKOFF_MAX,
    REFUSED_RETRY,
    SHUTDOWN_GRACE,
    STABLE_AFTER,
    SUSPEND_GRACE,
    Admit,
    Admitted,
    Boot,
    Discard,
    Dismissed,
    Effect,
    Entered,
    Fence,
    Gone,
    HandOver,
    Look,
    Paused,
    Ready,
    Restore,
    Resume,
    Resumed,
    Stop,
    Summoner,
    Traffic,
    Wanted,
)
from jitsu.model import Cause, Epoch, Name, ReadyOnDelay, State, StopMode
from jitsu.testing.world import service

WISH = Wanted(Cause.SYN)
MEMORY = 16 << 20


def summoner(memory: int = MEMORY, boots_max: int = 8, **changes: Any) -> Summoner:
    values = {"idle_after": 30.0, "boot_timeout": 10.0} | changes
    return Summoner(service(0, **values), Gatekeeper(memory, boots_max))


def awake(now: float = 0.0, **changes: Any) -> Summoner:
    s = summoner(**changes)
    s.handle(WISH, now)
    s.handle(Ready(s.epoch), now)
    assert s.state is State.AWAKE
    return s


def fenced(now: float = 30.0, **changes: Any) -> Summoner:
    s = awake(**changes)
    s.tick(now)
    s.handle(Traffic(0.0, 0), now)
    assert s.state is State.STOPPING
    return s


def acts(effects: list[Effect]) -> list[str]:
    """Name the effects, leaving out what only tells of a state."""
    return [type(e).__name__ for e in effects if not isinstance(e, Entered)]


def test_a_whole_life() -> None:
    s = summoner()
    assert s.handle(WISH, 0.0) == [
        Entered(s.service, State.BOOTING),
        Boot(s.service, Epoch(1), Cause.SYN),
    ]
    assert s.deadline() == 10.0
    assert s.handle(Ready(Epoch(1)), 0.02) == [
        Entered(s.service, State.AWAKE),
        HandOver(s.service),
    ]
    assert s.tick(30.0) == []
    assert s.tick(30.02) == [Look(s.service)]
    assert s.handle(Traffic(5.0, 0), 30.1) == []
    assert s.deadline() == 35.0
    assert s.tick(35.0) == [Look(s.service)]
    assert s.handle(Traffic(5.0, 0), 35.0) == [
        Entered(s.service, State.STOPPING),
        Fence(s.service),
    ]
    assert s.handle(Traffic(5.0, 0), 35.1) == [Stop(s.service, Epoch(1), StopMode.DESTROY)]
    assert s.handle(Gone(Epoch(1), "stopped"), 35.2) == [Entered(s.service, State.ASLEEP)]
    assert s.deadline() is None
    assert "s0 asleep epoch 1" in repr(s)


def test_two_wishes_boot_once() -> None:
    s = summoner()
    assert acts(s.handle(WISH, 0.0)) == ["Boot"]
    assert s.handle(WISH, 0.1) == []
    s.handle(Ready(s.epoch), 0.2)
    assert s.handle(WISH, 0.3) == []
    assert s.summons == 1


def test_a_packet_before_the_fence_lifts_it() -> None:
    s = fenced()
    assert acts(s.handle(Traffic(29.99, 0), 30.1)) == ["HandOver"]
    assert s.state is State.AWAKE


def test_a_wish_lifts_the_fence() -> None:
    s = fenced()
    assert acts(s.handle(WISH, 30.05)) == ["HandOver"]
    assert s.state is State.AWAKE
    # What the fence's own look finds comes too late to matter.
    assert s.handle(Traffic(0.0, 0), 30.06) == []
    assert s.deadline() == pytest.approx(60.05)


def test_an_open_connection_is_never_cut() -> None:
    s = awake()
    for number in range(1, 5):
        now = 30.0 * number
        assert s.tick(now) == [Look(s.service)]
        assert s.handle(Traffic(0.0, 1), now) == []
        assert s.deadline() == now + 30.0


def test_a_connection_that_opens_before_the_fence_lifts_it() -> None:
    s = fenced()
    assert acts(s.handle(Traffic(0.0, 1), 30.1)) == ["HandOver"]


def test_a_wish_while_stopping_is_kept() -> None:
    s = fenced()
    s.handle(Traffic(0.0, 0), 30.1)
    assert s.handle(WISH, 30.2) == []
    assert acts(s.handle(Gone(s.epoch, ""), 30.3)) == ["Boot"]
    assert s.epoch == 2


def test_an_operator_who_stops_it_means_it() -> None:
    s = fenced()
    s.handle(Traffic(0.0, 0), 30.1)
    s.handle(WISH, 30.2)
    assert s.handle(Dismissed(), 30.25) == []
    assert acts(s.handle(Gone(s.epoch, ""), 30.3)) == []
    assert s.state is State.ASLEEP


def test_a_boot_that_takes_too_long_is_killed_and_waited_for() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    effects = s.tick(10.0)
    assert effects[0] == Stop(s.service, Epoch(1), StopMode.DESTROY)
    assert s.state is State.FAILED
    assert s.reason == "not ready within 10 s"
    assert s.handle(WISH, 10.1) == []
    # The back-off is over, but the guest is not gone: it must not boot beside it.
    assert s.tick(10.0 + BACKOFF_FIRST) == []
    assert s.handle(WISH, 11.0) == []
    assert s.handle(Gone(Epoch(1), "killed"), 12.0) == [Entered(s.service, State.ASLEEP)]
    assert acts(s.handle(WISH, 12.1)) == ["Boot"]


def test_gone_before_the_back_off_is_over() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    s.tick(10.0)
    assert s.handle(Gone(Epoch(1), "killed"), 10.1) == []
    assert s.tick(10.0 + BACKOFF_FIRST) == [Entered(s.service, State.ASLEEP)]


def test_failures_double_the_back_off_up_to_a_limit() -> None:
    s = summoner()
    now, waits = 0.0, []
    for _ in range(12):
        s.handle(WISH, now)
        s.handle(Gone(s.epoch, "no such image", began=False), now)
        deadline = s.deadline()
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        s.tick(now)
    expected = [min(BACKOFF_FIRST * 2**n, BACKOFF_MAX) for n in range(12)]
    assert waits == pytest.approx(expected)
    # A good life clears the record.
    s.handle(WISH, now)
    s.handle(Ready(s.epoch), now)
    s.handle(Gone(s.epoch, "died", clean=False), now + STABLE_AFTER)
    assert s.state is State.ASLEEP
    s.handle(WISH, now + 20)
    s.handle(Gone(s.epoch, "no such image", began=False), now + 20)
    assert s.deadline() == pytest.approx(now + 20 + BACKOFF_FIRST)


@pytest.mark.parametrize(
    ("lived", "clean", "state"),
    [(1.0, False, State.FAILED), (1.0, True, State.ASLEEP), (STABLE_AFTER, False, State.ASLEEP)],
)
def test_a_guest_that_dies_awake(lived: float, clean: bool, state: State) -> None:
    s = awake(100.0)
    s.handle(Gone(s.epoch, "died", clean), 100.0 + lived)
    assert (s.state, s.reason) == (state, "died")
    assert s.since == 100.0 + lived


def test_a_guest_dies_of_a_crash_unless_told_otherwise() -> None:
    s = awake()
    s.handle(Gone(s.epoch, "died"), 1.0)
    assert s.state is State.FAILED
    assert "failed epoch 1, died" in repr(s)


def test_news_of_an_earlier_guest_is_old() -> None:
    s = fenced()
    s.handle(Dismissed(), 30.1)
    s.handle(Gone(s.epoch, ""), 30.2)
    s.handle(WISH, 30.3)
    assert s.handle(Gone(Epoch(1), "late"), 30.4) == []
    assert s.handle(Ready(Epoch(1)), 30.4) == []
    assert s.state is State.BOOTING


def test_news_that_does_not_fit() -> None:
    s = summoner()
    assert s.handle(Ready(Epoch(0)), 0.0) == []
    assert s.handle(Gone(Epoch(0), "?"), 0.0) == []
    assert s.handle(Admitted(), 0.0) == []
    assert s.handle(Dismissed(), 0.0) == []
    assert s.handle(Traffic(0.0, 0), 0.0) == []
    assert s.tick(100.0) == []


def test_ready_by_delay() -> None:
    s = summoner(ready=ReadyOnDelay(2.0))
    s.handle(WISH, 0.0)
    assert s.tick(1.9) == []
    assert acts(s.tick(2.0)) == ["HandOver"]


def test_dismissed_in_each_state() -> None:
    s = awake(stop=StopMode.SHUTDOWN)
    assert s.handle(Dismissed(), 1.0) == [
        Entered(s.service, State.STOPPING),
        Stop(s.service, s.epoch, StopMode.SHUTDOWN),
    ]
    # It has its grace, and is destroyed when it does not use it.
    assert s.deadline() == 1.0 + SHUTDOWN_GRACE
    assert s.tick(1.0 + SHUTDOWN_GRACE) == [Stop(s.service, s.epoch, StopMode.DESTROY)]
    s = fenced()
    assert s.handle(Dismissed(), 31.0) == [Stop(s.service, s.epoch, StopMode.DESTROY)]
    # The fence stays: neither traffic nor a wish brings a guest back that is being stopped.
    assert s.handle(Traffic(31.0, 1), 31.1) == []
    assert s.handle(WISH, 31.2) == []
    assert s.state is State.STOPPING
    s = summoner()
    s.handle(WISH, 0.0)
    assert s.handle(Dismissed(), 0.1)[-1] == Stop(s.service, s.epoch, StopMode.DESTROY)
    assert s.handle(Gone(s.epoch, ""), 0.2) == [Entered(s.service, State.ASLEEP)]


def test_an_operator_overrides_the_back_off() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    s.handle(Gone(s.epoch, "no such image", began=False), 0.0)
    assert s.handle(WISH, 0.1) == []
    assert acts(s.handle(Wanted(Cause.OPERATOR), 0.1)) == ["Boot"]


def test_no_memory_is_refused_for_a_moment() -> None:
    s = summoner(memory=MEMORY - 1)
    assert s.handle(WISH, 0.0) == [
        Entered(s.service, State.FAILED, "no memory: 15 MiB of [host] memory free")
    ]
    assert s.deadline() == REFUSED_RETRY
    assert s.tick(REFUSED_RETRY) == [Entered(s.service, State.ASLEEP)]


def test_boots_wait_their_turn() -> None:
    gate = Gatekeeper(4 * MEMORY, boots_max=1)
    first, second, third = (Summoner(service(i), gate) for i in range(3))
    assert acts(first.handle(WISH, 0.0)) == ["Boot"]
    assert acts(second.handle(WISH, 0.0)) == []
    assert acts(third.handle(WISH, 0.0)) == []
    assert second.state is State.BOOTING
    assert second.handle(Ready(second.epoch), 0.0) == []
    # The operator takes the second out of the queue.
    assert second.handle(Dismissed(), 0.1) == [Entered(second.service, State.ASLEEP)]
    assert Admit(third.service.name) in first.handle(Ready(first.epoch), 0.2)
    assert acts(third.handle(Admitted(), 0.2)) == ["Boot"]
    assert acts(second.handle(WISH, 0.3)) == []
    assert Admit(second.service.name) in third.handle(Gone(third.epoch, "died", began=False), 0.4)
    assert gate.memory_free == 2 * MEMORY


def test_a_guest_that_dies_while_it_boots_is_booted_again_once() -> None:
    s = summoner()
    s.handle(Wanted(Cause.SYN), 0.0)
    entered, boot = s.handle(Gone(Epoch(1), "died"), 0.2)
    assert entered == Entered(s.service, State.BOOTING, "booted again: died")
    assert boot == Boot(s.service, Epoch(2), Cause.SYN)
    assert [e.state for e in s.handle(Gone(Epoch(2), "died"), 0.4) if isinstance(e, Entered)] == [
        State.FAILED
    ]
    s.tick(s.deadline() or 0.0)
    s.handle(Wanted(Cause.DNS), 2.0)
    s.handle(Gone(Epoch(3), "died"), 2.1)
    s.handle(Ready(Epoch(4)), 2.2)
    assert (s.state, s.reason) == (State.AWAKE, "")


def test_a_boot_that_failed_of_itself_is_not_killed() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    assert s.handle(Gone(Epoch(1), "no such image", began=False), 0.5) == [
        Entered(s.service, State.FAILED, "no such image")
    ]
    assert s.deadline() == 0.5 + BACKOFF_FIRST
    assert s.tick(0.5 + BACKOFF_FIRST) == [Entered(s.service, State.ASLEEP)]


def test_a_guest_that_is_let_go_in_its_own_way_has_a_grace() -> None:
    s = fenced(stop=StopMode.SHUTDOWN)
    assert s.handle(Traffic(0.0, 0), 30.1) == [Stop(s.service, Epoch(1), StopMode.SHUTDOWN)]
    assert s.deadline() == pytest.approx(30.1 + SHUTDOWN_GRACE)
    assert s.tick(40.1) == [Stop(s.service, Epoch(1), StopMode.DESTROY)]
    assert s.tick(99.0) == []
    assert s.handle(Gone(Epoch(1), "killed"), 99.0) == [Entered(s.service, State.ASLEEP)]


def test_a_guest_that_goes_in_its_grace_is_not_destroyed() -> None:
    s = fenced(stop=StopMode.SHUTDOWN)
    s.handle(Traffic(0.0, 0), 30.1)
    s.handle(Gone(Epoch(1), "", clean=True), 30.2)
    assert s.deadline() is None
    assert s.tick(40.1) == []


def test_a_guest_that_dies_behind_the_fence_is_gone() -> None:
    s = fenced()
    assert s.handle(Gone(Epoch(1), "died"), 30.05) == [Entered(s.service, State.ASLEEP)]
    assert s.handle(Traffic(0.0, 0), 30.1) == []
    assert acts(s.handle(WISH, 30.2)) == ["Boot"]
    # The fence went with the guest that was behind it.
    assert s.handle(Dismissed(), 30.3)[-1] == Stop(s.service, Epoch(2), StopMode.DESTROY)
    assert s.handle(WISH, 30.4) == []
    assert s.state is State.STOPPING


def test_a_fence_is_judged_by_its_look_alone() -> None:
    s = fenced()
    s.handle(WISH, 30.0)
    assert s.deadline() == 60.0
    # The look of the first fence took so long that the service is idle again.
    assert acts(s.handle(Traffic(0.0, 0), 60.0)) == ["Fence"]
    assert s.tick(60.0) == []
    assert acts(s.handle(Traffic(60.0, 0), 60.1)) == ["HandOver"]


def test_silence_counts_from_ready_on() -> None:
    s = awake(5.0)
    assert s.deadline() == 35.0
    s.tick(35.0)
    assert s.handle(Traffic(0.0, 0), 34.9) == []
    assert s.deadline() == 35.0
    assert s.handle(Traffic(20.0, 3), 35.0) == []
    assert s.deadline() == 50.0


def test_what_an_operator_dismissed_is_not_a_failure() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    assert s.handle(Dismissed(), 0.1) == [
        Entered(s.service, State.STOPPING),
        Stop(s.service, Epoch(1), StopMode.DESTROY),
    ]
    assert s.deadline() is None
    assert s.handle(Ready(Epoch(1)), 0.15) == []
    assert s.handle(WISH, 0.2) == []
    assert acts(s.handle(Gone(Epoch(1), "killed"), 0.3)) == ["Boot"]


def test_dismissed_when_there_is_nothing_to_stop() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    s.handle(Gone(s.epoch, "no such image", began=False), 0.0)
    assert s.handle(Dismissed(), 0.1) == []
    assert (s.state, s.deadline()) == (State.FAILED, BACKOFF_FIRST)
    # Nor is it when the guest of a boot that took too long is about to be gone.
    s = summoner()
    s.handle(WISH, 0.0)
    s.tick(10.0)
    assert s.handle(Dismissed(), 10.1) == []


def test_not_even_an_operator_boots_beside_a_guest() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    s.tick(10.0)
    assert s.handle(Wanted(Cause.OPERATOR), 10.1) == []
    s.handle(Gone(s.epoch, "killed"), 10.2)
    assert acts(s.handle(Wanted(Cause.OPERATOR), 10.3)) == ["Boot"]
    # The back-off is forgotten: this boot has the whole of its time.
    assert s.deadline() == pytest.approx(20.3)


def test_a_kept_wish_that_finds_no_memory_fails() -> None:
    gate = Gatekeeper(MEMORY)
    s, other = (Summoner(service(i, idle_after=30.0), gate) for i in range(2))
    s.handle(WISH, 0.0)
    s.handle(Dismissed(), 0.1)
    s.handle(WISH, 0.2)
    gate.gone(s.service.name)
    gate.ask(service(2))  # behind its back
    assert [e.state for e in s.handle(Gone(s.epoch, ""), 0.3) if isinstance(e, Entered)] == [
        State.ASLEEP,
        State.FAILED,
    ]
    assert s.deadline() == pytest.approx(0.3 + REFUSED_RETRY)
    assert other.handle(WISH, 0.4)[-1].__class__ is Entered
    # Being refused counts as no failure.
    gate.gone(service(2).name)
    s.tick(1.3)
    s.handle(WISH, 2.0)
    s.handle(Gone(s.epoch, "no such image", began=False), 2.0)
    assert s.deadline() == 2.0 + BACKOFF_FIRST


def test_a_queued_boot_waits_without_limit() -> None:
    gate = Gatekeeper(4 * MEMORY, boots_max=1)
    first, second = (Summoner(service(i), gate) for i in range(2))
    second.handle(WISH, 0.0)
    second.handle(Gone(second.epoch, "no such image", began=False), 0.0)
    assert second.deadline() == BACKOFF_FIRST
    first.handle(WISH, 0.1)
    assert acts(second.handle(Wanted(Cause.OPERATOR), 0.1)) == []
    # What is left of its back-off does not end it.
    assert second.deadline() is None
    assert second.tick(BACKOFF_FIRST) == []
    assert second.summons == 1
    assert first.handle(Gone(first.epoch, "died", began=False), 5.0)[-1] == Admit(
        second.service.name
    )
    assert second.handle(Admitted(), 5.0) == [Boot(second.service, Epoch(2), Cause.OPERATOR)]
    assert second.deadline() == 5.0 + second.service.boot_timeout
    assert second.handle(Admitted(), 5.1) == []


def test_who_is_dismissed_when_its_turn_has_come_gives_it_on() -> None:
    gate = Gatekeeper(4 * MEMORY, boots_max=1)
    first, second, third = (Summoner(service(i), gate) for i in range(3))
    for s in (first, second, third):
        s.handle(WISH, 0.0)
    assert first.handle(Ready(first.epoch), 0.1)[-1] == Admit(second.service.name)
    assert second.handle(Dismissed(), 0.1) == [
        Entered(second.service, State.ASLEEP),
        Admit(third.service.name),
    ]
    assert second.handle(Admitted(), 0.1) == []
    assert acts(third.handle(Admitted(), 0.1)) == ["Boot"]


@pytest.mark.parametrize("given_up", ["timed out", "dismissed"])
def test_a_boot_that_is_killed_keeps_its_turn_until_it_is_gone(given_up: str) -> None:
    gate = Gatekeeper(4 * MEMORY, boots_max=1)
    first, second = (Summoner(service(i, boot_timeout=10.0), gate) for i in range(2))
    for s in (first, second):
        s.handle(WISH, 0.0)
    effects = first.tick(10.0) if given_up == "timed out" else first.handle(Dismissed(), 10.0)
    assert acts(effects) == ["Stop"]
    assert first.handle(Gone(first.epoch, "killed"), 10.1)[-1] == Admit(second.service.name)


# Guests that are paused or suspended.


def resting(how: StopMode, now: float = 31.0, **changes: Any) -> Summoner:
    """Return the summoner of a guest that is paused or suspended."""
    s = fenced(stop=how, **changes)
    assert s.handle(Traffic(0.0, 0), 30.5) == [Stop(s.service, Epoch(1), how)]
    paused = how is StopMode.PAUSE
    event = Paused(Epoch(1)) if paused else Gone(Epoch(1), "suspended", clean=True, saved=True)
    state = State.PAUSED if paused else State.SUSPENDED
    assert s.handle(event, now) == [Entered(s.service, state)]
    assert s.deadline() is None
    return s


def test_a_paused_guest_runs_on_for_a_wish() -> None:
    s = resting(StopMode.PAUSE)
    assert s.heeds(Cause.SYN)
    assert s.handle(WISH, 99.0) == [Resume(s.service, Epoch(1))]
    assert not s.heeds(Cause.SYN)
    assert s.handle(WISH, 99.1) == []
    assert s.handle(Resumed(Epoch(1)), 99.2) == [
        Entered(s.service, State.AWAKE),
        HandOver(s.service),
    ]
    assert (s.summons, s.deadline()) == (2, 129.2)
    assert s.handle(Resumed(Epoch(1)), 99.3) == []


def test_a_suspended_guest_runs_on_in_a_new_epoch() -> None:
    s = resting(StopMode.SUSPEND)
    assert s.handle(WISH, 99.0) == [Restore(s.service, Epoch(2))]
    assert (s.state, s.deadline()) == (State.SUSPENDED, 109.0)
    assert s.handle(WISH, 99.1) == []
    assert acts(s.handle(Resumed(Epoch(2)), 99.2)) == ["HandOver"]
    assert (s.state, s.summons) == (State.AWAKE, 2)


def test_a_paused_guest_keeps_its_memory_and_a_suspended_one_does_not() -> None:
    for how, free in [(StopMode.PAUSE, 0), (StopMode.SUSPEND, MEMORY)]:
        gate = Gatekeeper(MEMORY)
        s = Summoner(service(0, stop=how), gate)
        s.handle(WISH, 0.0)
        s.handle(Ready(Epoch(1)), 0.0)
        s.handle(Dismissed(), 1.0)
        paused = how is StopMode.PAUSE
        s.handle(Paused(Epoch(1)) if paused else Gone(Epoch(1), "saved", saved=True), 1.1)
        assert gate.memory_free == free


@pytest.mark.parametrize("how", [StopMode.PAUSE, StopMode.SUSPEND])
def test_a_wish_while_it_is_being_put_to_rest_is_kept(how: StopMode) -> None:
    s = fenced(stop=how)
    s.handle(Traffic(0.0, 0), 30.5)
    assert s.handle(WISH, 30.6) == []
    if how is StopMode.PAUSE:
        assert acts(s.handle(Paused(Epoch(1)), 30.7)) == ["Resume"]
    else:
        assert acts(s.handle(Gone(Epoch(1), "saved", saved=True), 30.7)) == ["Restore"]


@pytest.mark.parametrize("how", [StopMode.PAUSE, StopMode.SUSPEND])
def test_a_guest_that_cannot_run_on_is_booted_anew(how: StopMode) -> None:
    s = resting(how)
    s.handle(WISH, 99.0)
    effects = s.handle(Gone(s.epoch, "damaged", began=False), 99.5)
    boot = Boot(s.service, Epoch(s.epoch), Cause.SYN)
    assert effects == [
        Entered(s.service, State.ASLEEP, "damaged"),
        Entered(s.service, State.BOOTING),
        boot,
    ]


@pytest.mark.parametrize("how", [StopMode.PAUSE, StopMode.SUSPEND])
def test_a_guest_that_takes_too_long_to_run_on_is_killed_first(how: StopMode) -> None:
    s = resting(how)
    s.handle(WISH, 99.0)
    assert acts(s.tick(109.0)) == ["Stop"]
    assert s.state is State.STOPPING
    assert s.handle(Resumed(s.epoch), 109.1) == []
    assert acts(s.handle(Gone(s.epoch, "killed"), 109.2)) == ["Boot"]


def test_a_guest_that_dies_while_it_is_paused_is_gone() -> None:
    s = resting(StopMode.PAUSE)
    assert s.handle(Gone(Epoch(1), "killed"), 40.0) == [Entered(s.service, State.ASLEEP, "killed")]


def test_a_guest_that_is_not_put_to_rest_in_time_is_destroyed() -> None:
    for how, grace in [(StopMode.PAUSE, SHUTDOWN_GRACE), (StopMode.SUSPEND, SUSPEND_GRACE)]:
        s = fenced(stop=how)
        s.handle(Traffic(0.0, 0), 31.0)
        assert s.tick(31.0 + grace) == [Stop(s.service, Epoch(1), StopMode.DESTROY)]
        assert s.handle(Paused(Epoch(1)), 99.0) == [], "too late"
        late = s.handle(Gone(Epoch(1), "saved", saved=how is StopMode.SUSPEND), 99.1)
        assert acts(late) == (["Discard"] if how is StopMode.SUSPEND else [])
        assert s.state is State.ASLEEP


@pytest.mark.parametrize("for_good", [True, False])
def test_an_operator_ends_what_rests(for_good: bool) -> None:
    s = resting(StopMode.PAUSE)
    assert acts(s.handle(Dismissed(for_good), 40.0)) == ["Stop"]
    assert s.handle(Gone(Epoch(1), "killed"), 40.1) == [Entered(s.service, State.ASLEEP)]
    s = resting(StopMode.SUSPEND)
    assert acts(s.handle(Dismissed(for_good), 40.0)) == ["Discard"]
    assert s.state is State.ASLEEP
    assert s.handle(Dismissed(for_good), 40.1) == []


def test_an_operator_who_ends_it_while_it_comes_back_means_it() -> None:
    for how in (StopMode.PAUSE, StopMode.SUSPEND):
        s = resting(how)
        s.handle(WISH, 40.0)
        assert acts(s.handle(Dismissed(), 40.1)) == ["Stop"]
        assert acts(s.handle(Gone(s.epoch, "killed"), 40.2)) == []
        assert s.state is State.ASLEEP


@pytest.mark.parametrize("how", [StopMode.PAUSE, StopMode.SUSPEND])
def test_the_end_of_the_daemon_is_for_good(how: StopMode) -> None:
    s = awake(stop=how)
    assert s.handle(Dismissed(for_good=True), 1.0)[-1] == Stop(
        s.service, Epoch(1), StopMode.DESTROY
    )
    s = awake(stop=how)
    assert s.handle(Dismissed(), 1.0)[-1] == Stop(s.service, Epoch(1), how)
    assert s.handle(Dismissed(), 1.1) == []
    killed = Stop(s.service, Epoch(1), StopMode.DESTROY)
    assert s.handle(Dismissed(for_good=True), 1.2) == [killed]
    assert s.handle(Dismissed(for_good=True), 1.3) == []


def test_a_suspended_guest_that_finds_no_memory_stays_suspended() -> None:
    gate = Gatekeeper(MEMORY)
    first, second = (Summoner(service(i, stop=StopMode.SUSPEND), gate) for i in range(2))
    first.handle(WISH, 0.0)
    first.handle(Ready(Epoch(1)), 0.0)
    first.handle(Dismissed(), 1.0)
    first.handle(Gone(Epoch(1), "saved", saved=True), 1.1)
    second.handle(WISH, 2.0)
    (failed,) = first.handle(WISH, 2.1)
    assert failed == Entered(first.service, State.FAILED, "no memory: 0 MiB of [host] memory free")
    assert first.tick(2.1 + REFUSED_RETRY) == [Entered(first.service, State.SUSPENDED)]
    first.handle(WISH, 4.0)
    second.handle(Dismissed(), 4.1)
    second.handle(Gone(Epoch(1), "killed"), 4.2)
    effects = first.handle(Wanted(Cause.OPERATOR), 4.3)
    assert effects == [
        Entered(first.service, State.SUSPENDED),
        Restore(first.service, Epoch(2)),
    ]


def test_a_suspended_guest_waits_its_turn() -> None:
    gate = Gatekeeper(2 * MEMORY, boots_max=1)
    first, second = (Summoner(service(i, stop=StopMode.SUSPEND), gate) for i in range(2))
    first.handle(WISH, 0.0)
    first.handle(Ready(Epoch(1)), 0.0)
    first.handle(Dismissed(), 1.0)
    first.handle(Gone(Epoch(1), "saved", saved=True), 1.1)
    second.handle(WISH, 2.0)
    assert first.handle(WISH, 2.1) == []
    assert (first.state, first.deadline()) == (State.SUSPENDED, None)
    assert first.handle(Resumed(Epoch(2)), 2.2) == [], "it has not begun"
    admitted = second.handle(Ready(Epoch(1)), 2.3)[-1]
    assert admitted == Admit(first.service.name)
    assert acts(first.handle(Dismissed(), 2.4)) == ["Discard"]
    assert first.state is State.ASLEEP


def test_old_news_of_those_who_rest() -> None:
    s = resting(StopMode.PAUSE)
    assert s.handle(Paused(Epoch(0)), 40.0) == []
    assert s.handle(Paused(Epoch(1)), 40.0) == []
    assert s.handle(Resumed(Epoch(0)), 40.0) == []
    assert s.handle(Resumed(Epoch(1)), 40.0) == [], "nobody has asked"


class Lives(RuleBasedStateMachine):
    """Services, one of which may boot at a time, and some of which fit the memory.

    The machine plays the daemon and the world: what was asked for may happen at any later time, or
    be overtaken by anything else.
    """

    kinds: tuple[dict[str, Any], ...] = (
        {"stop": StopMode.DESTROY},
        {"stop": StopMode.SHUTDOWN, "memory": 2 * MEMORY},
        {"ready": ReadyOnDelay(2.0)},
        {"stop": StopMode.PAUSE},
        {"stop": StopMode.SUSPEND},
    )
    numbers = st.integers(0, len(kinds) - 1)

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gatekeeper(3 * MEMORY, boots_max=1)
        plain: dict[str, Any] = {"idle_after": 15.0, "boot_timeout": 5.0}
        self.lives = [
            Summoner(service(i, **plain | changes), self.gate)
            for i, changes in enumerate(self.kinds)
        ]
        self.by_name = {s.service.name: s for s in self.lives}
        self.now = 0.0
        self.guests: dict[Name, Epoch] = {}
        self.booting: set[Name] = set()
        self.doomed: set[Name] = set()
        self.looks: list[Name] = []
        self.resting: dict[Name, StopMode] = {}  # those who are being put to rest
        self.paused: set[Name] = set()
        self.resuming: set[Name] = set()
        self.files: set[Name] = set()

    def perform(self, effects: list[Effect]) -> None:
        todo = deque(effects)
        while todo:
            todo.extend(self.perform_one(todo.popleft()))

    def perform_one(self, effect: Effect) -> list[Effect]:
        match effect:
            case Boot(service, epoch):
                assert service.name not in self.guests, "two guests at once"
                assert not self.booting, "more boots at once than may be"
                self.guests[service.name] = epoch
                self.booting.add(service.name)
            case Stop(service, epoch, how):
                assert self.guests[service.name] == epoch, "what is stopped runs"
                self.resting.pop(service.name, None)
                if how in (StopMode.PAUSE, StopMode.SUSPEND):
                    self.resting[service.name] = how
                else:
                    self.doomed.add(service.name)
            case Resume() | Restore() | Discard():
                self.perform_rest(effect)
            case Look(service) | Fence(service):
                assert service.name in self.guests
                self.looks.append(service.name)
            case HandOver(service):
                assert service.name in self.guests
                assert service.name not in self.doomed, "no address for a guest that is stopped"
                assert service.name not in self.resting, "nor for one that is put to rest"
                assert service.name not in self.paused, "nor for one that is"
                self.booting.discard(service.name)
            case Admit(name):
                return self.by_name[name].handle(Admitted(), self.now)
            case Entered(service, state, reason):
                assert bool(reason) or state is not State.FAILED, "a failure has a reason"
        return []

    def perform_rest(self, effect: Resume | Restore | Discard) -> None:
        name = effect.service.name
        match effect:
            case Resume(_, epoch):
                assert self.guests[name] == epoch, "what is resumed is there"
                assert name in self.paused, "and paused"
                self.resuming.add(name)
            case Restore(_, epoch):
                assert name not in self.guests, "two guests at once"
                assert not self.booting, "more boots at once than may be"
                assert name in self.files, "what is restored is saved"
                self.files.remove(name)
                self.guests[name] = epoch
                self.booting.add(name)
                self.resuming.add(name)
            case Discard():
                self.files.remove(name)

    def tick(self, s: Summoner) -> None:
        self.perform(s.tick(self.now))
        deadline = s.deadline()
        assert deadline is None or deadline > self.now, "time makes progress"

    def wait_until(self, end: float) -> None:
        while True:
            due = [(at, i) for i, s in enumerate(self.lives) if (at := s.deadline()) is not None]
            at, number = min(due, default=(end, 0))
            if at >= end:
                break
            self.now = max(self.now, at)
            self.tick(self.lives[number])
        self.now = end
        for s in self.lives:
            self.tick(s)

    @rule(number=numbers, cause=st.sampled_from([Cause.SYN, Cause.DNS, Cause.OPERATOR]))
    def somebody_wants_it(self, number: int, cause: Cause) -> None:
        self.perform(self.lives[number].handle(Wanted(cause), self.now))

    @rule(number=numbers, for_good=st.booleans())
    def the_operator_dismisses_it(self, number: int, for_good: bool) -> None:
        s = self.lives[number]
        self.perform(s.handle(Dismissed(for_good), self.now))
        assert s.state not in (State.AWAKE, State.BOOTING)
        if for_good:
            assert s.state not in (State.PAUSED, State.SUSPENDED)
            assert s.service.name not in self.resting
            assert s.service.name not in self.files

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 15.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.wait_until(self.now + seconds)

    @precondition(lambda self: self.booting)
    @rule()
    def a_guest_is_ready(self) -> None:
        for name in self.booting - self.resuming:
            s = self.by_name[name]
            self.perform(s.handle(Ready(self.guests[name]), self.now))

    @precondition(lambda self: self.resting)
    @rule(data=st.data())
    def a_guest_rests(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.resting)))
        how, epoch = self.resting.pop(name), self.guests[name]
        if how is StopMode.PAUSE:
            self.paused.add(name)
            self.perform(self.by_name[name].handle(Paused(epoch), self.now))
        else:
            self.files.add(name)
            self.end(name, clean=True, saved=True)

    @precondition(lambda self: self.resuming)
    @rule(data=st.data())
    def a_guest_runs_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.resuming)))
        self.resuming.discard(name)
        self.paused.discard(name)
        self.perform(self.by_name[name].handle(Resumed(self.guests[name]), self.now))

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), clean=st.booleans())
    def a_guest_is_gone(self, data: st.DataObject, clean: bool) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.guests))), clean)

    @precondition(lambda self: self.looks)
    @rule(
        data=st.data(),
        ago=st.sampled_from([0.0, 5.0, 15.0, 99.0]),
        flows=st.sampled_from([0, 0, 1]),
    )
    def somebody_looks(self, data: st.DataObject, ago: float, flows: int) -> None:
        name = self.looks.pop(data.draw(st.integers(0, len(self.looks) - 1)))
        s = self.by_name[name]
        before = s.state
        effects = s.handle(Traffic(self.now - ago, flows), self.now)
        if flows or ago == 0.0:
            assert not any(isinstance(e, Stop | Fence) for e in effects), "it is in use"
        if before not in (State.AWAKE, State.STOPPING):
            assert effects == []
        self.perform(effects)

    @rule(number=numbers, clean=st.booleans())
    def old_news_comes(self, number: int, clean: bool) -> None:
        s = self.lives[number]
        old = Epoch(s.epoch - 1)
        assert s.handle(Gone(old, "long ago", clean), self.now) == []
        assert s.handle(Ready(old), self.now) == []

    def end(self, name: Name, clean: bool, saved: bool = False) -> None:
        epoch = self.guests.pop(name)
        for its in (self.booting, self.doomed, self.paused, self.resuming):
            its.discard(name)
        self.resting.pop(name, None)
        gone = Gone(epoch, "died", clean, saved=saved)
        self.perform(self.by_name[name].handle(gone, self.now))

    @invariant()
    def nobody_is_stuck(self) -> None:
        for s in self.lives:
            name, timed = s.service.name, s.deadline() is not None
            runs = name in self.guests
            match s.state:
                case State.ASLEEP:
                    assert not runs
                    assert not timed
                case State.BOOTING:
                    assert (runs and timed) or self.booting, "it boots, or waits for one that does"
                case State.AWAKE:
                    assert runs
                    assert timed or name in self.looks
                case State.STOPPING:
                    assert runs
                    assert name in self.doomed or name in self.looks or name in self.resting
                case State.PAUSED:
                    assert runs
                    assert name in self.paused | self.resuming
                    assert timed is (name in self.resuming)
                case State.SUSPENDED:
                    assert name in self.files or (runs and timed)
                case _:
                    assert timed or name in self.doomed

    @invariant()
    def memory_is_claimed_by_those_who_boot_and_run(self) -> None:
        claims = [
            s.service.memory
            for s in self.lives
            if s.service.name in self.guests
            or s.state is State.BOOTING
            or (s.state is State.SUSPENDED and not s.heeds(Cause.SYN))
        ]
        assert self.gate.memory_free == 3 * MEMORY - sum(claims) >= 0

    def teardown(self) -> None:
        for s in self.lives:
            self.perform(s.handle(Dismissed(for_good=True), self.now))
        while self.guests:
            self.end(min(self.guests), clean=True)
        assert self.gate.memory_free == 3 * MEMORY
        assert not self.files, "a file is left"
        self.wait_until(self.now + 2 * BACKOFF_MAX)
        for s in self.lives:
            assert (s.state, s.deadline()) == (State.ASLEEP, None), "every failure ends"


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
