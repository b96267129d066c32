"""A state machine attacks the hand-over: any side dies at any step, the links do their worst."""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.handoff_world import CHUNK, CLIENTS, TEXT, World
from jitsu.core import flows, handoff
from jitsu.core.synjitsu import Synjitsu
from jitsu.model import State

WHICH = st.integers(0, 1 << 16)


class HandoffMachine(RuleBasedStateMachine):
    """Rules are what the world may do next."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(number=st.integers(0, CLIENTS - 1), back=st.integers(0, 1))
    def a_client_sends(self, number: int, back: int) -> None:
        """Send what comes next, or what came before once more."""
        client = self.world.clients[number]
        at = max(0, client.una - 1 - back * CHUNK)
        if not client.reset and at <= len(TEXT):
            self.world.to_host.append((client, client.segment(at, CHUNK)))

    @precondition(lambda self: self.world.to_host)
    @rule(which=WHICH, again=st.booleans())
    def a_frame_arrives(self, which: int, again: bool) -> None:
        """Deliver any frame that is under way, perhaps not for the last time."""
        queue = self.world.to_host
        client, frame = queue[which % len(queue)] if again else queue.pop(which % len(queue))
        self.world.arrives(client, frame)

    @precondition(lambda self: self.world.to_client)
    @rule(which=WHICH, again=st.booleans())
    def a_client_hears(self, which: int, again: bool) -> None:
        """Deliver any answer that is under way."""
        queue = self.world.to_client
        self.world.hears(queue[which % len(queue)] if again else queue.pop(which % len(queue)))

    @precondition(lambda self: self.world.to_host)
    @rule(which=WHICH)
    def a_frame_is_lost(self, which: int) -> None:
        """Lose a client's frame."""
        self.world.to_host.pop(which % len(self.world.to_host))

    @precondition(lambda self: self.world.guest)
    @rule()
    def the_guest_goes_on(self) -> None:
        """Let the guest take its next step."""
        assert self.world.guest is not None
        self.world.guest_steps(self.world.guest)

    @precondition(lambda self: self.world.guest)
    @rule()
    def the_guest_forges(self) -> None:
        """Let the guest try what it may not."""
        assert self.world.guest is not None
        self.world.forges(self.world.guest)

    @precondition(lambda self: self.world.stale)
    @rule(which=WHICH)
    def a_dead_guest_goes_on(self, which: int) -> None:
        """Let a guest of an earlier epoch try: it is only slow to die."""
        stale = self.world.stale[which % len(self.world.stale)]
        if stale.epoch == self.world.epoch:
            return  # the store has not been told of the next one yet
        self.world.guest_steps(stale)
        self.world.forges(stale)

    @precondition(lambda self: self.world.tracks)
    @rule()
    def a_connection_is_counted(self) -> None:
        """Finish one Track."""
        self.world.tracked()

    @precondition(lambda self: self.world.state is State.AWAKE and self.world.entry != "guest")
    @rule()
    def the_entry_is_moved(self) -> None:
        """Move the entry."""
        self.world.moves()

    @precondition(lambda self: self.world.guest)
    @rule()
    def the_guest_dies(self) -> None:
        """End the guest."""
        self.world.guest_dies()

    @rule(chance=st.integers(0, 9))
    def the_daemon_dies(self, chance: int) -> None:
        """End the daemon, now and then."""
        if chance == 0:
            self.world.daemon_dies()

    @precondition(lambda self: self.world.state is State.BOOTING)
    @rule(chance=st.integers(0, 4))
    def the_boot_fails(self, chance: int) -> None:
        """Give the boot up, now and then."""
        if chance == 0:
            self.world.fails()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass, and timers run."""
        self.world.passes(seconds)

    @invariant()
    def all_is_well(self) -> None:
        """Check what must always hold."""
        self.world.check()

    def teardown(self) -> None:
        """Let all go well, and look whether it does."""
        self.world.heals()


HandoffMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestHandoff = HandoffMachine.TestCase


def _went_on(self: flows.Flows) -> tuple[flows.Flow, ...]:
    return tuple(flows.Flow(c.tcb(), bytes(c.received)) for c in self._table.values())


def _lossy(self: flows.Flows) -> tuple[flows.Flow, ...]:
    return tuple(flows.Flow(c.tcb(), bytes(c.received)) for c in self._release()[1:])


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (flows.Flows, "hand_over", _went_on),
        (flows.Flows, "hand_over", _lossy),
        (flows.Flows, "abort", lambda self: self._release() and []),
        (handoff.Handover, "begin", lambda self, epoch: None),
        (Synjitsu, "_track", lambda self, sleeper, opened, ended: []),
    ],
    ids=["keeps what it has committed", "forgets one", "tells nobody", "no epoch", "counts none"],
)
def test_the_machine_sees_what_is_broken(
    owner: type, name: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    # It ends with the first example that fails: so many are for the unlucky.
    quiet = settings(
        HandoffMachine.TestCase.settings,
        max_examples=5000,
        database=None,
        phases=[Phase.generate],
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(HandoffMachine, settings=quiet)
