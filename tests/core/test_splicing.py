"""Synjitsu's conversations with a guest that knows nothing of it, and over IPv6."""

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from core.test_handoff import ACK, PSH, RST, Scene
from core.test_synjitsu import CLIENT, Port, announcement, datagram, syn
from jitsu.core import refusal
from jitsu.core.events import (
    CanServe,
    Effect,
    Heard,
    KeyAppeared,
    Send,
    SendToGuest,
    Shift,
    Track,
    Tracked,
    Unshift,
    Unshiftable,
    Wake,
)
from jitsu.core.readiness import OWN_MAC
from jitsu.core.segment import Ends, decode, encode
from jitsu.model import Cause, Epoch, Handoff, Mac, ReadyOnKey, State, Terms
from jitsu.testing.world import service
from jitsu.wire import ethernet, icmp, icmpv6, ipv6, ndp
from jitsu.wire.tcp import Flags, Options, Segment, seq_add

TERMS = Terms(connections=8, window=1000)
ANY = replace(service(0), handoff=Handoff.SPLICE, terms=TERMS)
GUEST_ISN = 9000


class Spliced(Scene):
    """With a guest that opens connections when it gets a SYN, as any does."""

    def __init__(self) -> None:
        super().__init__(ANY)

    def serves(self) -> list[Effect]:
        """Let the guest be heard for the first time, and all connections be counted."""
        first, *rest = self.guest(announcement(ANY))
        assert first == Heard(ANY.name)
        if rest and isinstance(rest[0], Track):
            assert len(rest) == 1
            rest = self.core.handle(Tracked(ANY.name), self.now)
        return rest

    def answers(self, asked: bytes, flags: Flags, seq: int) -> list[Effect]:
        """Let the guest answer a frame that it has got."""
        ends, segment = decode(asked)
        ack = seq_add(segment.seq, segment.length)
        answer = Segment(ends.port, ends.peer_port, seq, ack, flags, 5000, Options())
        return self.guest(encode(ends, answer))


def test_a_key_has_the_connections_spliced_first() -> None:
    keyed = replace(ANY, ready=ReadyOnKey("data/ready"))
    scene = Scene(keyed)
    scene.opens()
    scene.boots()
    heard, *rest = scene.core.handle(KeyAppeared(keyed.name, Epoch(1)), scene.now)
    assert heard == Heard(keyed.name)
    assert [type(effect) for effect in rest] == [Track], "it is not yet said to serve"
    assert [type(effect) for effect in scene.tracked()] == [Shift, SendToGuest]


def sent(effect: Effect) -> bytes:
    assert isinstance(effect, SendToGuest)
    return effect.frame


def ready(received: bytes = b"GET /") -> tuple[Spliced, Ends, bytes]:
    """Return a scene with a client that has asked, and the SYN that the guest has got."""
    scene = Spliced()
    scene.opens()
    scene.boots()
    (ends,) = scene.established()
    if received:
        scene.arrives(scene.says(ACK | PSH, payload=received))
    shift, asked = scene.serves()
    assert shift == Shift(ANY.name, ends, None)
    return scene, ends, sent(asked)


def test_a_request_goes_on_with_a_guest_that_knows_nothing() -> None:
    scene, _, asked = ready()
    late = scene.says(ACK | PSH, payload=b" HTTP", after=6)
    assert scene.arrives(late) == []
    shift, told = scene.answers(asked, Flags.SYN | ACK, GUEST_ISN)
    assert isinstance(shift, Shift)
    assert shift.numbers is not None
    assert seq_add(GUEST_ISN, shift.numbers.delta) == scene.theirs[1]
    assert decode(sent(told))[1].payload == b"GET /"
    assert scene.answers(sent(told), ACK, GUEST_ISN + 1) == [CanServe(ANY.name)]
    assert scene.core.counters["spliced"] == 1
    assert scene.enters(State.AWAKE) == [SendToGuest(ANY.name, late)]
    assert scene.guest(announcement(ANY)) == []


def test_without_a_client_it_serves_at_once() -> None:
    scene = Spliced()
    scene.boots()
    assert scene.serves() == [CanServe(ANY.name)]


def test_a_guest_may_ask_who_asks() -> None:
    scene, _, _ = ready()
    answer = ethernet.encode(ethernet.Frame(ANY.mac, CLIENT[0], 0x9000, b"an answer of some sort"))
    assert scene.arrives(answer) == [SendToGuest(ANY.name, answer)]
    assert scene.arrives(datagram()) == []
    assert scene.held() == 1


def test_a_port_where_nobody_listens() -> None:
    scene, ends, asked = ready()
    reset, unshift, untrack, serves = scene.answers(asked, RST | ACK, 0)
    assert scene.answer(reset).flags & RST
    assert (unshift, untrack) == (Unshift(ANY.name, ends), Track(ANY.name, (), (ends,)))
    assert serves == CanServe(ANY.name)


def test_a_guest_that_dies_before_it_has_answered_costs_its_clients_nothing() -> None:
    scene, ends, _ = ready()
    assert scene.core.budget.used == 5, "what is lent is still kept"
    assert scene.arrives(scene.says(ACK | PSH, payload=b" HTTP", after=6)) == []
    counted, answer = scene.boots()
    assert counted == Track(ANY.name, (ends,), ())
    assert scene.answer(answer).ack == 111, "and it goes on"
    assert scene.core.handle(Tracked(ANY.name), scene.now) == []
    shift, asked = scene.serves()
    assert shift == Shift(ANY.name, ends, None)
    _, told = scene.answers(sent(asked), Flags.SYN | ACK, GUEST_ISN)
    assert decode(sent(told))[1].payload == b"GET / HTTP"
    assert scene.answers(sent(told), ACK, GUEST_ISN + 1) == [CanServe(ANY.name)]
    assert scene.core.budget.used == 0


def test_who_has_not_completed_the_handshake_is_asked_again_when_the_guest_has_died() -> None:
    scene = Spliced()
    scene.opens()
    scene.boots()
    scene.serves()
    assert scene.boots() == []
    (again,) = [effect for effect in scene.tick(scene.now + 2.0) if isinstance(effect, Send)]
    assert scene.answer(again).seq == scene.theirs[1]
    assert scene.enters(State.FAILED) != []
    assert scene.core.connections(ANY.name) == 0


def test_a_guest_that_dies_when_it_has_answered_costs_its_clients_the_connection() -> None:
    scene, ends, asked = ready()
    scene.answers(asked, Flags.SYN | ACK, GUEST_ISN)
    to_guest, reset, unshift, untrack = scene.boots()
    assert decode(sent(to_guest))[1].flags & RST
    assert scene.answer(reset).flags & RST
    assert (unshift, untrack) == (Unshift(ANY.name, ends), Track(ANY.name, (), (ends,)))
    assert scene.core.handle(Tracked(ANY.name), scene.now) == []


def test_a_guest_that_does_not_answer_is_asked_again() -> None:
    scene, _, asked = ready()
    assert [sent(each) for each in scene.tick(scene.core.deadline() or 0.0)] == [asked]
    effects: list[Effect] = []
    began = given_up = scene.now
    while (at := scene.core.deadline()) is not None:
        effects, given_up = scene.tick(at), at
    assert effects[-1] == CanServe(ANY.name), "others may fare better"
    assert 0.0 < given_up - began < ANY.boot_timeout, "or none would"
    assert scene.core.counters["not spliced"] == 1


def test_a_link_that_cannot_translate() -> None:
    scene, ends, _ = ready()
    refused = Unshiftable(ANY.name, ends, "no room")
    effects = scene.core.handle(refused, scene.now)
    assert CanServe(ANY.name) in effects
    assert Spliced().core.handle(refused, 0.0) == []


# IPv6.

WWW6 = replace(service(0), address6=IPv6Address("fd77::10"))
CLIENT6 = IPv6Address("fd77::100")


def in_frame(packet: ipv6.Packet, to: Mac = WWW6.mac) -> bytes:
    content = ipv6.encode(packet)
    return ethernet.encode(ethernet.Frame(to, CLIENT[0], ethernet.EtherType.IPV6, content))


def asks(target: str) -> bytes:
    return in_frame(
        ndp.question(IPv6Address(target), CLIENT6, CLIENT[0]), Mac(b"\x33\x33\xff\0\0\x10")
    )


def test_who_asks_for_a_sleepers_neighbour_is_told() -> None:
    port = Port(WWW6)
    (answer,) = port.arrives(asks("fd77::10"))
    assert isinstance(answer, Send)
    outer = ethernet.decode(answer.frame)
    told = ndp.decode(ipv6.decode(outer.payload))
    assert (outer.source, outer.destination) == (WWW6.mac, CLIENT[0])
    assert told == ndp.Advertisement(
        IPv6Address("fd77::10"), WWW6.mac, solicited=True, override=True
    )
    assert port.arrives(asks("fd77::11")) == []
    damaged = bytearray(asks("fd77::10"))
    damaged[-1] ^= 1
    assert port.arrives(bytes(damaged)) == []
    assert port.core.counters["malformed"] == 1


@pytest.mark.parametrize("terms", [None, TERMS])
def test_a_client_over_ipv6_wakes_it(terms: Terms | None) -> None:
    handoff = Handoff.IMPORT if terms else Handoff.REPLAY
    port = Port(replace(WWW6, terms=terms, handoff=handoff))
    ends = Ends(WWW6.mac, IPv6Address("fd77::10"), 80, CLIENT[0], CLIENT6, 4000)
    frame = encode(ends.turned(), Segment(4000, 80, 7, 0, Flags.SYN, 1000))
    *first, wake = port.arrives(frame)
    answers = [effect for effect in first if isinstance(effect, Send)]
    assert wake == Wake(WWW6.name, Cause.SYN, CLIENT6)
    assert len(answers) == (1 if terms else 0)
    assert port.held() == (0 if terms else 1)


def test_an_echo_request_over_ipv6() -> None:
    echo = icmp.EchoRequest(1, 1, b"are you there?")
    ends = CLIENT6, IPv6Address("fd77::10")
    ping = in_frame(ipv6.Packet(*ends, ipv6.Protocol.ICMPV6, icmpv6.encode(echo, *ends)))
    assert Port(WWW6).arrives(ping) == [Wake(WWW6.name, Cause.ICMP, CLIENT6)]
    failed = Port(WWW6)
    failed.enters(State.BOOTING, State.FAILED)
    assert failed.arrives(ping) == [Send(refusal.answer(ping) or b"")]
    elsewhere = Port(WWW6, summon_from=(IPv6Network("fd78::/64"),))
    assert elsewhere.arrives(ping) == []


def test_what_is_between_guests_is_not_a_clients() -> None:
    scene = Scene()
    scene.opens()
    assert scene.services[0].mac != OWN_MAC
    assert scene.arrives(syn(2, who=(scene.services[0].mac, CLIENT[1]))) == []
