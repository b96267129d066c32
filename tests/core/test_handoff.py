"""Who owns a connection: Synjitsu's conversations with a guest that imports."""

from dataclasses import replace

import pytest

from core.test_connection import ENDS
from core.test_synjitsu import Port, announcement, datagram, sent, syn
from jitsu.core import handoff, refusal
from jitsu.core.events import (
    CanServe,
    Clear,
    Commit,
    Committed,
    Effect,
    Ending,
    GuestWrote,
    Heard,
    Remember,
    Send,
    SendToGuest,
    Track,
    Tracked,
    Wake,
)
from jitsu.core.flows import Flow
from jitsu.core.handoff import Handover, Phase
from jitsu.core.segment import Ends, decode
from jitsu.core.sleeper import WAITING_MAX
from jitsu.model import Cause, Epoch, Handoff, Name, Service, State, Terms
from jitsu.testing.world import SUBNET, service
from jitsu.wire import tcb
from jitsu.wire.tcb import TcbState
from jitsu.wire.tcp import Flags, Segment, seq_add

TERMS = Terms(connections=3, window=1000)
WWW = replace(service(0), handoff=Handoff.IMPORT, terms=TERMS)
NAME = WWW.name
ACK, FIN, PSH, RST = Flags.ACK, Flags.FIN, Flags.PSH, Flags.RST


class Scene(Port):
    """Synjitsu with one service that imports, and a client or two."""

    def __init__(self, target: Service = WWW) -> None:
        super().__init__(target)
        self.theirs: dict[int, int] = {}
        self.epoch = 0

    def answer(self, effect: Effect) -> Segment:
        """Return the segment that Synjitsu sends."""
        assert isinstance(effect, Send)
        return decode(effect.frame)[1]

    def opens(self, number: int = 1) -> list[Effect]:
        """Send a SYN of client `number`, take the SYN-ACK; return what else there is."""
        remembered, answer, *rest = self.arrives(syn(number))
        assert isinstance(remembered, Remember)
        segment = self.answer(answer)
        assert segment.flags == Flags.SYN | ACK
        self.theirs[number] = segment.seq
        return rest

    def says(self, flags: Flags, number: int = 1, payload: bytes = b"", after: int = 1) -> bytes:
        """Return a segment of client `number`, `after` bytes behind its SYN."""
        ack = seq_add(self.theirs.get(number, 0), 1)
        return sent(flags, number, seq=100 + after, ack=ack, payload=payload)

    def established(self, number: int = 1) -> tuple[Ends, ...]:
        (tracked,) = self.arrives(self.says(ACK, number))
        assert isinstance(tracked, Track)
        assert self.core.handle(Tracked(NAME), self.now) == []
        return tracked.opened

    def boots(self) -> list[Effect]:
        self.epoch += 1
        return self.enters(State.BOOTING, epoch=self.epoch)

    def writes(self, word: bytes = b"prepared", epoch: int | None = None) -> list[Effect]:
        number = Epoch(self.epoch if epoch is None else epoch)
        return self.core.handle(GuestWrote(NAME, number, word), self.now)

    def committed(self, epoch: int | None = None) -> list[Effect]:
        number = Epoch(self.epoch if epoch is None else epoch)
        return self.core.handle(Committed(NAME, number), self.now)

    def imported(self) -> list[Effect]:
        """Commit, and import; return what follows, but for the tidying."""
        assert self.committed() == []
        *rest, last = self.writes(b"imported")
        assert last == Clear(NAME, Epoch(self.epoch))
        return rest

    def tracked(self) -> list[Effect]:
        return self.core.handle(Tracked(NAME), self.now)


def flows_of(effects: list[Effect]) -> tuple[Flow, ...]:
    (commit,) = effects
    assert isinstance(commit, Commit)
    return commit.flows


def test_a_request_that_came_while_it_booted() -> None:
    scene = Scene()
    assert scene.opens() == [Wake(NAME, Cause.SYN, SUBNET[100])]
    assert scene.boots() == []
    (ends,) = scene.established()
    assert (ends.local, ends.port) == (WWW.address, 80)
    (answer,) = scene.arrives(scene.says(ACK | PSH, payload=b"GET /"))
    assert scene.answer(answer).ack == 106
    (flow,) = flows_of(scene.writes())
    assert (flow.received, flow.tcb.rx, flow.tcb.rcv_wnd) == (b"GET /", 5, 995)
    assert flow.tcb.peer_mac == ends.peer_mac
    assert scene.committed() == []
    # From now on Synjitsu is silent. What comes is held until the guest has all connections, and
    # goes there by its own link until the entry is moved.
    more = [scene.says(ACK | PSH, payload=b"more", after=6 + 4 * i) for i in range(2)]
    assert scene.arrives(more[0]) == []
    assert scene.writes(b"imported") == [Heard(NAME), CanServe(NAME), Clear(NAME, Epoch(1))]
    assert scene.writes(b"imported") == []
    assert scene.enters(State.AWAKE) == [SendToGuest(NAME, more[0])]
    assert scene.arrives(more[1]) == [SendToGuest(NAME, more[1])]
    scene.moving()
    assert scene.moved(to_guest=True) == []
    assert scene.core.connections(NAME) == 0


def test_the_syn_is_answered_before_the_service_is_woken() -> None:
    scene = Scene()
    remembered, answer, wake = scene.arrives(syn())
    assert remembered == Remember(WWW.address.packed, 80, SUBNET[100].packed, 5000)
    assert scene.answer(answer).flags == Flags.SYN | ACK
    assert isinstance(wake, Wake)
    assert scene.arrives(syn())[:2] == [remembered, answer], "sent again, answered again"


def test_without_a_client_it_is_handed_over_all_the_same() -> None:
    scene = Scene()
    scene.boots()
    assert flows_of(scene.writes()) == ()
    assert scene.imported() == [Heard(NAME), CanServe(NAME)]


def test_its_first_frame_is_not_yet_its_word() -> None:
    scene = Scene()
    scene.boots()
    assert scene.guest(announcement(WWW)) == [Heard(NAME)]
    assert flows_of(scene.writes()) == ()
    assert scene.imported() == [CanServe(NAME)]


def test_what_comes_while_it_is_frozen_is_held_for_the_guest() -> None:
    scene = Scene()
    scene.opens()
    scene.boots()
    scene.established()
    (commit,) = scene.writes()
    late = [scene.says(ACK | PSH, payload=b"late"), syn(2), datagram()]
    for frame in late:
        assert scene.arrives(frame) == []
    assert isinstance(commit, Commit)
    assert scene.imported() == [Heard(NAME), CanServe(NAME)]
    assert scene.arrives(syn(3)) == []
    assert scene.enters(State.AWAKE) == [SendToGuest(NAME, frame) for frame in [*late, syn(3)]]


def test_a_connection_is_counted_before_it_is_handed_over() -> None:
    """Else the guest's end of it might be noticed before its beginning, and it kept for ever."""
    scene = Scene()
    scene.opens(1)
    scene.boots()
    (track,) = scene.arrives(scene.says(ACK, 1))
    assert isinstance(track, Track)
    scene.opens(2)
    (half_open,) = scene.writes()
    assert isinstance(half_open, Track)
    assert (track.opened[0].peer_port, half_open.opened[0].peer_port) == (1, 2)
    assert scene.tracked() == []
    flows = flows_of(scene.tracked())
    assert [flow.tcb.state for flow in flows] == [TcbState.ESTABLISHED, TcbState.SYN_RECEIVED]


def test_a_connection_that_its_client_ends_is_counted_no_more() -> None:
    scene = Scene()
    scene.opens()
    scene.boots()
    (ends,) = scene.established()
    (untrack,) = scene.arrives(scene.says(RST))
    assert untrack == Track(NAME, (), (ends,))
    scene.tracked()
    assert flows_of(scene.writes()) == ()


def test_a_guest_that_dies_before_the_commit_leaves_its_clients_here() -> None:
    scene = Scene()
    scene.opens()
    scene.boots()
    (ends,) = scene.established()
    scene.arrives(scene.says(ACK | PSH, payload=b"GET /"))
    assert scene.boots() == [Track(NAME, (ends,), ())], "with the guest its connections went"
    assert scene.arrives(datagram()) == []
    scene.tracked()
    (answer,) = scene.arrives(scene.says(ACK | PSH, payload=b" HTTP", after=6))
    assert scene.answer(answer).ack == 111
    (flow,) = flows_of(scene.writes())
    assert flow.received == b"GET / HTTP"


def test_what_was_held_for_a_guest_that_dies_is_taken_here() -> None:
    """It was prepared, and died before the commit: whose connection is ours is innocent."""
    scene = Scene()
    scene.opens()
    scene.boots()
    scene.opens(2)
    (track,) = scene.writes()
    assert isinstance(track, Track)
    late, stranger = scene.says(ACK | PSH, payload=b"late"), scene.says(ACK, 3)
    for frame in (late, stranger, syn(2)):
        assert scene.arrives(frame) == []
    answer, opened, refusal, _, again = scene.boots()
    assert scene.answer(answer).ack == 105
    assert isinstance(opened, Track)
    assert scene.answer(refusal).flags == RST
    assert scene.answer(again).seq == scene.theirs[2]


def test_a_guest_of_an_earlier_epoch_has_no_say() -> None:
    scene = Scene()
    scene.boots()
    scene.boots()
    assert scene.writes(epoch=1) == []
    (commit,) = scene.writes()
    assert commit == Commit(NAME, Epoch(2), ())
    assert scene.committed(epoch=1) == []
    assert scene.writes() == [], "once is enough"
    assert scene.writes(b"imported") == [], "there was nothing yet to import"
    assert scene.imported() == [Heard(NAME), CanServe(NAME)]


@pytest.mark.parametrize("word", [b"", b"committed", b"imported", b"prepared "])
def test_other_words_mean_nothing(word: bytes) -> None:
    scene = Scene()
    scene.boots()
    assert scene.writes(word) == []


def test_a_guest_that_is_not_asked_has_no_say() -> None:
    scene = Scene()
    assert scene.writes() == []
    scene.boots()
    scene.enters(State.FAILED)
    assert scene.writes() == []
    other = Scene(replace(WWW, handoff=Handoff.REPLAY, terms=None))
    other.boots()
    assert other.writes() == []


def test_clients_of_a_service_that_fails_are_told() -> None:
    scene = Scene()
    scene.opens()
    scene.boots()
    (ends,) = scene.established()
    scene.arrives(datagram())
    reset, refused, untrack = scene.enters(State.FAILED)
    assert scene.answer(reset).flags == RST | ACK
    assert refused == Send(refusal.answer(datagram()) or b"")
    assert untrack == Track(NAME, (), (ends,))
    late = scene.says(ACK | PSH, payload=b"hello?")
    assert scene.arrives(late) == [Send(refusal.answer(late) or b"")]


def test_more_clients_than_the_guest_takes_over_wait_for_it() -> None:
    scene = Scene()
    for number in range(TERMS.connections):
        scene.opens(number)
    assert scene.arrives(syn(7)) == [Wake(NAME, Cause.SYN, SUBNET[100])]
    assert scene.held() == 1
    assert isinstance(scene.arrives(syn(0))[1], Send), "who is known is answered"


def test_a_flood_does_not_keep_a_client_waiting() -> None:
    """Of those that wait for room more are held than honest clients are many."""
    scene = Scene()
    for number in range(TERMS.connections + WAITING_MAX):
        scene.arrives(syn(1000 + number))
    assert (scene.held(), scene.core.connections(NAME)) == (WAITING_MAX, TERMS.connections)
    scene.opens(9)
    assert isinstance(scene.arrives(scene.says(ACK, 9))[0], Track)


def test_who_has_waited_for_room_in_vain_is_answered() -> None:
    scene = Scene()
    for number in range(TERMS.connections):
        scene.opens(number)
    scene.arrives(syn(7))
    assert scene.held() == 1
    scene.opens(7)
    assert scene.held() == 0
    assert isinstance(scene.arrives(scene.says(ACK, 7))[0], Track)


def test_honest_clients_wait_for_room_for_as_long_as_it_takes() -> None:
    """A cookie would bring none of them into a table whose clients have all answered."""
    scene = Scene()
    for number in range(TERMS.connections):
        scene.opens(number)
        scene.established(number)
    for _ in range(3):
        scene.arrives(syn(7))
        assert scene.held() == 1


def stopping() -> Scene:
    """Return a scene with a guest that was awake, and is fenced."""
    scene = Scene()
    scene.boots()
    scene.writes()
    scene.imported()
    scene.enters(State.AWAKE)
    scene.moving()
    scene.moved(to_guest=True)
    scene.enters(State.STOPPING)
    scene.moving()
    scene.moved(to_guest=False)
    return scene


def test_who_comes_while_a_guest_takes_its_time_to_end_is_answered_at_once() -> None:
    scene = stopping()
    stray = scene.says(ACK | PSH, number=5, payload=b"of the guest's")
    assert scene.arrives(stray) == []
    scene.arrives(syn(1))
    assert scene.held() == 2, "it may run on"
    _, answer = scene.core.handle(Ending(NAME), scene.now)
    assert scene.answer(answer).flags == Flags.SYN | ACK
    scene.theirs[1] = scene.answer(answer).seq
    assert scene.opens(2) == [Wake(NAME, Cause.SYN, SUBNET[100])]
    assert scene.held() == 1
    (ends,) = scene.established()
    scene.arrives(scene.says(ACK | PSH, payload=b"GET"))
    refused, wake = scene.enters(State.ASLEEP)
    assert refused == Send(refusal.answer(stray) or b"")
    assert isinstance(wake, Wake)
    assert scene.boots() == [Track(NAME, (ends,), ())]
    assert scene.tracked() == []
    frozen = scene.writes()
    assert len(frozen) == 1, "who has not answered is counted, too"
    (flow, half) = flows_of(scene.tracked())
    assert (flow.received, half.tcb.state) == (b"GET", TcbState.SYN_RECEIVED)


def test_a_guest_that_fails_is_told_to_end_as_well() -> None:
    scene = Scene()
    scene.boots()
    assert scene.core.handle(Ending(NAME), scene.now) == []
    scene.enters(State.FAILED)
    assert scene.core.handle(Ending(NAME), scene.now) == []
    assert scene.arrives(syn()) == [Send(refusal.answer(syn()) or b"")]


def test_a_wish_that_comes_while_it_stops_is_answered_when_it_has_stopped() -> None:
    scene = stopping()
    assert scene.arrives(syn()) == [Wake(NAME, Cause.SYN, SUBNET[100])], "it may run on"
    _, answer, wake = scene.enters(State.ASLEEP)
    assert scene.answer(answer).flags == Flags.SYN | ACK
    assert isinstance(wake, Wake)
    assert (scene.held(), scene.core.connections(NAME)) == (0, 1)


def test_who_does_not_complete_the_handshake_is_asked_again() -> None:
    scene = Scene()
    scene.opens()
    (again,) = scene.tick(scene.core.deadline() or 0)
    assert scene.answer(again).flags == Flags.SYN | ACK
    scene.arrives(syn(1, payload=b"")[:-1] + b"\xff")
    while (at_ := scene.core.deadline()) is not None:
        scene.tick(at_)
    assert scene.core.connections(NAME) == 0


def test_damaged_segments_are_counted() -> None:
    scene = Scene()
    damaged = bytearray(syn())
    damaged[40] ^= 1
    assert scene.arrives(bytes(damaged)) == []
    scene.opens()
    data = bytearray(scene.says(ACK, payload=b"hello"))
    data[-1] ^= 1
    assert scene.arrives(bytes(data)) == []
    assert scene.core.counters["malformed"] == 2


def test_what_the_store_says() -> None:
    text = bytes(range(256)) * 17
    four = tcb.Tcb(
        TcbState.ESTABLISHED, ENDS.local, 80, ENDS.peer, 4000, ENDS.peer_mac, 1, 2, 2, 3, 4, 5, 6, 7
    )
    flow = Flow(replace(four, rx=len(text)), text)
    said = dict(handoff.commit(Name("www"), Epoch(3), [flow, Flow(four, b"")]))
    top = b"/conduit/www"
    chunks = [said.pop(top + b"/tcpv4/0/rx/%d" % i) for i in range(3)]
    assert b"".join(chunks) == text
    assert max(map(len, chunks)) == 2048
    assert said == {
        top + b"/tcpv4": b"2",
        top + b"/tcpv4/0": tcb.encode(flow.tcb),
        top + b"/tcpv4/1": tcb.encode(four),
        top + b"/tcpv6": b"0",
        top + b"/handoff/3": b"committed",
    }
    assert dict(handoff.beginning(Name("www"), Epoch(3))) == {
        top + b"/epoch": b"3",
        top + b"/handoff/3": b"proxying",
    }
    assert handoff.word_of(Name("www"), Epoch(3)) == top + b"/handoff/3/guest"
    assert handoff.cleared(Name("www")) == (top + b"/tcpv4", top + b"/tcpv6")


def test_how_far_it_has_come_is_told() -> None:
    handover = Handover()
    handover.begin(Epoch(2))
    assert repr(handover) == "<Handover to epoch 2, proxying>"
    assert handover.phase is Phase.PROXYING


def test_what_is_kept_is_told() -> None:
    scene = Scene()
    scene.opens()
    scene.arrives(datagram())
    sleeper = scene.core._sleepers[NAME]
    assert repr(sleeper) == f"<Sleeper {NAME} asleep, 1 frames, 1 connections>"
