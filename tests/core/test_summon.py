from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.core.admission import Gatekeeper
from jitsu.core.summon import (
    BACKOFF_FIRST,
    BACKOFF_MAX,
    REFUSED_RETRY,
    SHUTDOWN_GRACE,
    STABLE_AFTER,
    Admit,
    Admitted,
    Boot,
    Dismissed,
    Effect,
    Entered,
    Event,
    Fence,
    Gone,
    HandOver,
    Look,
    Ready,
    Stop,
    Summoner,
    Traffic,
    Wanted,
)
from jitsu.model import Cause, Epoch, ReadyOnDelay, State, StopMode
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
        s.handle(Gone(s.epoch, "no such image"), now)
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
    s.handle(Gone(s.epoch, "no such image"), now + 20)
    assert s.deadline() == pytest.approx(now + 20 + BACKOFF_FIRST)


@pytest.mark.parametrize(
    ("lived", "clean", "state"),
    [(1.0, False, State.FAILED), (1.0, True, State.ASLEEP), (STABLE_AFTER, False, State.ASLEEP)],
)
def test_a_guest_that_dies_awake(lived: float, clean: bool, state: State) -> None:
    s = awake()
    s.handle(Gone(s.epoch, "died", clean), lived)
    assert (s.state, s.reason) == (state, "died")


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
    assert s.handle(Dismissed(), 1.0)[-1] == Stop(s.service, s.epoch, StopMode.SHUTDOWN)
    # It has its grace, and is destroyed when it does not use it.
    assert s.deadline() == 1.0 + SHUTDOWN_GRACE
    assert s.tick(1.0 + SHUTDOWN_GRACE) == [Stop(s.service, s.epoch, StopMode.DESTROY)]
    s = fenced()
    assert s.handle(Dismissed(), 31.0) == [Stop(s.service, s.epoch, StopMode.DESTROY)]
    s = summoner()
    s.handle(WISH, 0.0)
    assert s.handle(Dismissed(), 0.1)[-1] == Stop(s.service, s.epoch, StopMode.DESTROY)
    assert s.handle(Gone(s.epoch, ""), 0.2) == [Entered(s.service, State.ASLEEP)]


def test_an_operator_overrides_the_back_off() -> None:
    s = summoner()
    s.handle(WISH, 0.0)
    s.handle(Gone(s.epoch, "no such image"), 0.0)
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
    assert Admit(second.service.name) in third.handle(Gone(third.epoch, "died"), 0.4)
    assert gate.memory_free == 2 * MEMORY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["wish", "ready", "gone", "look", "dismiss", "operator", "tick"]),
            st.sampled_from([0.0, 0.1, 1.0, 20.0]),
        ),
        max_size=60,
    )
)
def test_whatever_happens(steps: list[tuple[str, float]]) -> None:
    gate = Gatekeeper(MEMORY)
    s = Summoner(service(0, idle_after=15.0, boot_timeout=5.0), gate)
    now, running = 0.0, False

    def see(effects: list[Effect]) -> None:
        nonlocal running
        for effect in effects:
            if isinstance(effect, Boot):
                assert not running, "two guests at once"
                running = True
            if isinstance(effect, Stop | HandOver | Fence | Look):
                assert running

    for what, after in steps:
        now += after
        see(s.tick(now))
        events: dict[str, Event] = {
            "wish": WISH,
            "ready": Ready(s.epoch),
            "look": Traffic(now - 1.0 if after == 0.1 else 0.0, int(after == 1.0)),
            "dismiss": Dismissed(),
            "operator": Wanted(Cause.OPERATOR),
        }
        if what == "gone" and running:
            running = False
            see(s.handle(Gone(s.epoch, "died"), now))
        elif what in events:
            see(s.handle(events[what], now))
        deadline = s.deadline()
        if deadline is not None and deadline <= now:
            see(s.tick(now))
            assert (s.deadline() or now + 1) > now, "a deadline that is over does not stay"
    s.handle(Dismissed(), now)
    if running:
        s.handle(Gone(s.epoch, "the end"), now)
    assert gate.memory_free == MEMORY
    for _ in range(3):
        if (end := s.deadline()) is not None:
            s.tick(end)
    assert s.state is State.ASLEEP
