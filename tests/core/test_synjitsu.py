"""Conversations at Synjitsu's port: who is answered, held, woken, passed on or refused."""

import struct
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from random import Random

import pytest

from jitsu.core import refusal
from jitsu.core.events import (
    Arrived,
    CanServe,
    Effect,
    GuestSent,
    Heard,
    KeyAppeared,
    Moved,
    Moving,
    Send,
    SendToGuest,
    StateEntered,
    Wake,
)
from jitsu.core.probe import PROBE_PORT
from jitsu.core.readiness import (
    ASK_FIRST,
    ASK_MAX,
    OWN_MAC,
    PROBE_RETRY_FIRST,
    PROBE_RETRY_MAX,
    SPOKEN_MAX,
)
from jitsu.core.sleeper import (
    HELD_BYTES_MAX,
    HELD_DATAGRAMS_MAX,
    HELD_FRAMES_MAX,
    STRAGGLING,
)
from jitsu.core.synjitsu import Synjitsu
from jitsu.model import (
    Cause,
    Epoch,
    Handoff,
    Mac,
    ReadyOnDelay,
    ReadyOnKey,
    ReadyOnTcp,
    Service,
    State,
)
from jitsu.testing.peer import PORT, frame, segment
from jitsu.testing.world import SUBNET, TERMS, service
from jitsu.wire import arp, ethernet, icmp, ipv4, tcp, udp
from jitsu.wire.ipv4 import Protocol
from jitsu.wire.peek import Kind
from jitsu.wire.tcp import Flags

PROBE = SUBNET[-2]
A, B = service(0), service(1)
PROBED = service(2, ready=ReadyOnTcp(PORT))
Station = tuple[Mac, IPv4Address]
CLIENT: Station = (Mac(b"\x06\0\0\0\0\x01"), SUBNET[100])
OTHER: Station = (Mac(b"\x06\0\0\0\0\x02"), SUBNET[101])
STRANGER: Station = (Mac(b"\x06\0\0\0\0\x03"), IPv4Address("192.0.2.1"))


LAST_BYTE_OF_SOURCE, SOURCE_PORT = 14 + 15, 14 + 20
"""Where they are in a frame."""


def at(target: Service) -> Station:
    return target.mac, target.address


def sent(
    flags: Flags,
    port: int = 5000,
    who: Station = CLIENT,
    to: Service = A,
    seq: int = 100,
    ack: int = 0,
    payload: bytes = b"",
) -> bytes:
    content = tcp.Segment(port, PORT, seq, ack, flags, 65535, payload=payload)
    return segment(who, at(to), content)


def syn(port: int = 5000, who: Station = CLIENT, to: Service = A, payload: bytes = b"") -> bytes:
    return sent(Flags.SYN, port, who, to, payload=payload)


def datagram(
    ports: tuple[int, int] = (4000, 7),
    who: Station = CLIENT,
    to: Station = (A.mac, A.address),
    payload: bytes = b"",
) -> bytes:
    content = udp.encode(udp.Datagram(*ports, payload), who[1], to[1])
    return frame(who, to, Protocol.UDP, content)


def ping(who: Station = CLIENT, to: Service = A) -> bytes:
    echo = icmp.encode(icmp.EchoRequest(1, 1, b"are you there?"))
    return frame(who, at(to), Protocol.ICMP, echo)


def who_has(address: IPv4Address, who: Station = CLIENT) -> bytes:
    question = arp.Arp(arp.Operation.REQUEST, *who, ethernet.UNKNOWN, address)
    return ethernet.encode(
        ethernet.Frame(ethernet.BROADCAST, who[0], ethernet.EtherType.ARP, arp.encode(question))
    )


def is_at(address: IPv4Address, mac: Mac, to: Station = CLIENT) -> bytes:
    reply = arp.encode(arp.Arp(arp.Operation.REPLY, mac, address, *to))
    return ethernet.encode(ethernet.Frame(to[0], mac, ethernet.EtherType.ARP, reply))


def announcement(of: Service) -> bytes:
    return who_has(of.address, at(of))


def second_fragment() -> bytes:
    packet = ipv4.Packet(
        CLIENT[1], A.address, Protocol.UDP, b"rest", dont_fragment=False, fragment_offset=8
    )
    content = ipv4.encode(packet)
    return ethernet.encode(ethernet.Frame(A.mac, CLIENT[0], ethernet.EtherType.IPV4, content))


SYN, ACK, RST = syn(), sent(Flags.ACK, ack=900), sent(Flags.RST)
KINDS = {
    "arp": who_has(A.address),
    "syn": SYN,
    "ack": ACK,
    "rst": RST,
    "udp": datagram(),
    "echo": ping(),
    "arp reply": is_at(CLIENT[1], CLIENT[0], at(A)),
    "fragment": second_fragment(),
    "echo reply": frame(CLIENT, at(A), Protocol.ICMP, icmp.encode(icmp.EchoReply(1, 1))),
}


class Port:
    """Synjitsu, what is told to it, and what it holds."""

    def __init__(
        self,
        *services: Service,
        summon_from: tuple[IPv4Network | IPv6Network, ...] = (SUBNET, IPv6Network("fd77::/64")),
    ) -> None:
        self.services = services or (A, B)
        self.core = Synjitsu(self.services, PROBE, summon_from, b"secret")
        self.now = 0.0

    def arrives(self, data: bytes) -> list[Effect]:
        return self.core.handle(Arrived(data), self.now)

    def enters(self, *states: State, target: Service | None = None, epoch: int = 1) -> list[Effect]:
        name = (target or self.services[0]).name
        effects: list[Effect] = []
        for state in states:
            effects += self.core.handle(StateEntered(name, state, Epoch(epoch)), self.now)
        return effects

    def guest(self, data: bytes) -> list[Effect]:
        return self.core.handle(GuestSent(self.services[0].name, data), self.now)

    def moving(self) -> None:
        assert self.core.handle(Moving(self.services[0].name), self.now) == []

    def moved(self, *, to_guest: bool) -> list[Effect]:
        return self.core.handle(Moved(self.services[0].name, to_guest), self.now)

    def tick(self, now: float) -> list[Effect]:
        self.now = now
        return self.core.tick(now)

    def held(self, target: Service | None = None) -> int:
        return self.core.held((target or self.services[0]).name)

    @property
    def held_bytes(self) -> int:
        return self.core.budget.used

    def come_to(self, situation: str) -> None:
        """Live from the beginning up to `situation`."""
        if situation == "failed":
            self.enters(State.BOOTING, State.FAILED)
            return

        def take_over() -> None:
            self.enters(State.STOPPING)
            self.moving()
            self.moved(to_guest=False)

        def lift() -> None:
            self.enters(State.AWAKE)
            self.moving()

        steps: dict[str, Callable[[], object]] = {
            "asleep": lambda: None,
            "booting": lambda: self.enters(State.BOOTING),
            "heard": lambda: self.guest(announcement(A)),
            "awake": lambda: self.enters(State.AWAKE),
            "moving": self.moving,
            "guest": lambda: self.moved(to_guest=True),
            "guest long ago": lambda: self.tick(STRAGGLING),
            "stopping": take_over,
        }
        lives: dict[str, Callable[[], object]] = {
            "lifted": lift,
            "asleep again": lambda: self.enters(State.ASLEEP),
            "paused": lambda: self.enters(State.PAUSED),
            "suspended": lambda: self.enters(State.SUSPENDED),
        }
        for name, step in steps.items():
            step()
            if situation == name:
                return
        lives[situation]()


def what(port: Port, data: bytes) -> str:
    """Let a frame arrive; say in one word what became of it."""
    effects = port.arrives(data)
    match effects:
        case []:
            return "hold" if port.held() else "drop"
        case [Wake(A.name)] if port.held():
            return "wake"
        case [Send(answer)] if answer == data:
            return "send on"
        case [Send(answer)] if answer == refusal.answer(data):
            return "refuse"
        case [Send(answer)] if answer == is_at(A.address, A.mac):
            return "answer"
        case [SendToGuest(A.name, passed)] if passed == data:
            return "pass"
    raise AssertionError(effects)


# What becomes of each kind of frame, in each situation.
TABLE = """
                arp     syn     ack     rst     udp     echo    reply   frag    pong
asleep          answer  wake    refuse  drop    wake    wake    drop    drop    drop
booting         answer  hold    refuse  drop    hold    hold    drop    drop    drop
heard           answer  hold    pass    pass    hold    hold    pass    pass    pass
awake           answer  pass    pass    pass    pass    pass    pass    pass    pass
moving          answer  pass    pass    pass    pass    pass    pass    pass    pass
lifted          answer  hold    hold    hold    hold    hold    hold    hold    hold
guest           drop    send-on send-on send-on send-on send-on send-on send-on send-on
guest-long-ago  drop    hold    hold    hold    hold    hold    hold    hold    hold
stopping        answer  wake    hold    hold    wake    wake    drop    drop    drop
asleep-again    answer  wake    refuse  drop    wake    wake    drop    drop    drop
paused          answer  wake    wake    hold    wake    wake    drop    drop    drop
suspended       answer  wake    wake    hold    wake    wake    drop    drop    drop
failed          answer  refuse  refuse  drop    refuse  refuse  drop    drop    drop
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]


@pytest.mark.parametrize(
    ("situation", "kind", "expected"),
    [
        (row[0].replace("-", " "), kind, cell.replace("-", " "))
        for row in ROWS
        for kind, cell in zip(KINDS, row[1:], strict=True)
    ],
)
def test_what_becomes_of_a_frame(situation: str, kind: str, expected: str) -> None:
    port = Port()
    port.come_to(situation)
    assert what(port, KINDS[kind]) == expected
    assert port.held_bytes == (len(KINDS[kind]) if expected in ("hold", "wake") else 0)


def test_who_wakes_it_and_why() -> None:
    for data, cause in [(SYN, Cause.SYN), (datagram(), Cause.UDP), (ping(), Cause.ICMP)]:
        assert Port().arrives(data) == [Wake(A.name, cause, CLIENT[1])]


def test_a_service_without_hand_off_is_left_alone() -> None:
    for kind, data in KINDS.items():
        port = Port(replace(A, handoff=Handoff.NONE))
        assert port.arrives(data) == [], kind
        assert port.held() == 0


def test_frames_that_are_for_nobody() -> None:
    port = Port()
    assert port.arrives(b"short") == []
    assert port.arrives(who_has(SUBNET[200])) == []
    assert port.arrives(who_has(PROBE)) == []
    assert port.arrives(datagram(to=(OTHER[0], A.address))) == []
    assert port.core.counters == {"malformed": 1, "not for a service": 3}


@pytest.mark.parametrize("situation", ["asleep", "heard", "moving", "guest", "failed"])
@pytest.mark.parametrize("sender", [A, B], ids=["itself", "another"])
def test_a_guest_is_no_client(situation: str, sender: Service) -> None:
    """It wakes nobody, and is not answered: neither itself nor by another that sleeps."""
    port = Port()
    port.come_to(situation)
    me = at(sender)
    for data in (syn(who=me), datagram(who=me), ping(me), who_has(A.address, me)):
        assert port.arrives(data) == []
    assert port.held() == 0
    assert port.core.counters["sent by a guest"] == 4


def test_only_those_who_may_summon_do() -> None:
    for data in (syn(who=STRANGER), datagram(who=STRANGER), ping(who=STRANGER)):
        port = Port()
        assert port.arrives(data) == []
        assert port.held() == 0
        assert port.core.counters["not within summon_from"] == 1
        everybody = Port(summon_from=(IPv4Network("198.51.100.0/24"), IPv4Network("0.0.0.0/0")))
        assert len(everybody.arrives(data)) == 1


def test_a_packet_for_another_address_is_none_of_the_service() -> None:
    routed = segment(CLIENT, (A.mac, SUBNET[200]), tcp.Segment(5000, PORT, 1, 0, Flags.SYN, 9))
    port = Port()
    assert port.arrives(routed) == []
    port.come_to("heard")
    assert port.arrives(routed) == [SendToGuest(A.name, routed)]


# Holding and replaying.


def test_held_frames_are_replayed_in_the_order_of_their_arrival() -> None:
    frames = [syn(1), ping(), syn(2, OTHER), datagram(), syn(3)]
    port = Port(replace(A, ready=ReadyOnDelay(1.0)))
    for data in frames:
        port.arrives(data)
    assert port.enters(State.BOOTING, State.AWAKE) == []
    port.moving()
    assert port.moved(to_guest=True) == [Send(data) for data in frames]
    assert (port.held(), port.held_bytes, port.core.counters["replayed"]) == (0, 0, 5)


def test_a_guest_that_was_heard_gets_them_on_its_own_link() -> None:
    port = Port()
    port.arrives(syn(1))
    port.enters(State.BOOTING)
    port.arrives(syn(2))
    port.guest(announcement(A))
    assert port.enters(State.AWAKE) == [SendToGuest(A.name, syn(1)), SendToGuest(A.name, syn(2))]
    assert (port.held_bytes, port.core.counters["replayed"]) == (0, 2)
    # The client has the guest's SYN-ACK already; its ACK follows at once.
    for data in (sent(Flags.ACK, 1), sent(Flags.ACK | Flags.PSH, 1)):
        assert port.arrives(data) == [SendToGuest(A.name, data)]
        port.moving()
    assert port.moved(to_guest=True) == []


def test_a_syn_sent_again_replaces_the_earlier_one() -> None:
    port = Port()
    again = sent(Flags.SYN, 1, payload=b"fast open")
    for data in (syn(1), syn(2)):
        port.arrives(data)
    assert port.arrives(again) == [Wake(A.name, Cause.SYN, CLIENT[1])]
    assert port.held() == 2
    assert port.held_bytes == len(again) + len(syn(2))
    port.enters(State.BOOTING, State.AWAKE)
    assert port.moved(to_guest=True) == [Send(again), Send(syn(2))]
    assert port.held_bytes == 0


def test_a_client_that_gives_up_takes_its_syn_back() -> None:
    port = Port()
    port.arrives(syn(1, payload=b"longer than a reset"))
    port.arrives(syn(2))
    assert port.arrives(sent(Flags.RST, 1)) == []
    assert port.core.counters["reset by client"] == 1
    assert (port.held(), port.held_bytes) == (1, len(syn(2)))
    # Neither another's reset nor that of another connection counts.
    port.arrives(sent(Flags.RST, 2, OTHER))
    port.arrives(sent(Flags.RST, 3))
    port.arrives(sent(Flags.ACK, 2))
    assert (port.held(), port.held_bytes) == (1, len(syn(2)))


def test_a_wish_held_while_the_entry_moves_to_us_wakes() -> None:
    port = Port()
    port.come_to("guest")
    port.enters(State.STOPPING)
    port.moving()
    for data in (ACK, ping(), SYN):
        assert port.arrives(data) == []
    assert port.moved(to_guest=False) == [Wake(A.name, Cause.ICMP, IPv4Address(0))]
    assert port.held() == 3
    # The fence is lifted: nobody has noticed anything.
    port.enters(State.AWAKE)
    port.moving()
    assert port.moved(to_guest=True) == [Send(ACK), Send(ping()), Send(SYN)]


def test_strays_held_while_the_entry_moves_to_us_wake_nobody() -> None:
    port = Port()
    port.come_to("guest")
    port.moving()
    port.arrives(ACK)
    assert port.moved(to_guest=False) == []


@pytest.mark.parametrize("state", [State.PAUSED, State.SUSPENDED])
def test_what_is_held_while_a_guest_is_put_to_rest_wakes_it(state: State) -> None:
    for data, wakes in [(SYN, 1), (ACK, 1), (RST, 0)]:
        port = Port()
        port.come_to("stopping")
        port.arrives(data)
        woken = port.enters(state)
        assert woken == [Wake(A.name, Cause.SYN, IPv4Address(0))] * wakes
        # It is the same guest: what was held is its own, and comes by its own address.
        assert port.enters(State.AWAKE) == []
        assert port.moved(to_guest=True) == [Send(data)]


@pytest.mark.parametrize("state", [State.PAUSED, State.SUSPENDED])
def test_no_connection_is_opened_for_a_guest_that_has_its_own(state: State) -> None:
    port = Port(service(0, handoff=Handoff.IMPORT, terms=TERMS))
    port.come_to("stopping")
    port.enters(state)
    assert what(port, SYN) == "wake"
    assert port.core.connections(A.name) == 0
    # It could not run on: the next one imports what is opened now.
    _, answer, woken = port.enters(State.ASLEEP)
    assert isinstance(answer, Send)
    assert isinstance(woken, Wake)
    assert port.core.connections(A.name) == 1


def test_strangers_do_not_wake_what_rests() -> None:
    port = Port(summon_from=(IPv4Network("10.77.0.101/32"),))
    port.come_to("paused")
    for data in (SYN, ACK):
        assert what(port, data) == "drop"
    assert port.core.counters["not within summon_from"] == 2


def test_a_wish_still_held_when_it_falls_asleep_wakes_it_again() -> None:
    port = Port()
    port.come_to("stopping")
    for data in (ACK, datagram(), SYN, RST[:-1] + b"?"):
        port.arrives(data)
    refused = refusal.answer(ACK)
    assert refused is not None
    assert port.enters(State.ASLEEP) == [
        Send(refused),
        Wake(A.name, Cause.UDP, IPv4Address(0)),
    ]
    assert port.held() == 1  # the reset has taken the SYN back
    assert port.held_bytes == len(datagram())


def test_nobody_is_woken_for_nothing() -> None:
    port = Port()
    port.come_to("stopping")
    port.arrives(ACK)
    assert [type(e) for e in port.enters(State.ASLEEP)] == [Send]
    assert port.held_bytes == 0


def test_datagrams_kept_over_a_sleep_still_count() -> None:
    port = Port()
    port.come_to("stopping")
    for _ in range(HELD_DATAGRAMS_MAX // 2):
        port.arrives(ping())
        port.arrives(ACK)
    port.arrives(SYN)
    port.enters(State.ASLEEP)
    assert port.held() == HELD_DATAGRAMS_MAX // 2 + 1
    for _ in range(HELD_DATAGRAMS_MAX):
        port.arrives(datagram())
    assert port.held() == HELD_DATAGRAMS_MAX + 1


def test_a_move_loses_no_segment_of_a_busy_server() -> None:
    port = Port()
    port.come_to("lifted")
    segments = [sent(Flags.ACK, 1 + number, ack=900) for number in range(HELD_FRAMES_MAX)]
    for data in segments:
        assert port.arrives(data) == []
    assert port.arrives(ACK) == port.arrives(datagram()) == []
    assert port.core.counters["no room to hold it"] == 2
    assert port.moved(to_guest=True) == [Send(data) for data in segments]


@pytest.mark.parametrize(
    "lives", [(State.FAILED,), (State.STOPPING, State.ASLEEP), (State.ASLEEP,)]
)
def test_a_boot_that_comes_to_nothing_refuses_those_who_wait(lives: tuple[State, ...]) -> None:
    port = Port()
    waiting = [SYN, datagram(), ping()]
    for data in waiting:
        port.arrives(data)
    port.enters(State.BOOTING)
    answers = [refusal.answer(data) for data in waiting]
    assert port.enters(*lives) == [Send(answer) for answer in answers if answer]
    assert (port.held(), port.held_bytes, port.core.counters["refused"]) == (0, 0, 3)


def test_a_refusal_is_honest() -> None:
    port = Port()
    port.come_to("failed")
    reset = tcp.Segment(PORT, 5000, 0, 101, Flags.RST | Flags.ACK, 0)
    assert port.arrives(SYN) == [Send(segment(at(A), CLIENT, reset))]
    for data, code in [(datagram(), icmp.Unreachable.PORT), (ping(), icmp.Unreachable.HOST)]:
        error = icmp.encode(icmp.unreachable(code, data[14:]))
        assert port.arrives(data) == [Send(frame(at(A), CLIENT, Protocol.ICMP, error))]
    # A stray segment is reset at the number that it expects.
    reset = tcp.Segment(PORT, 5000, 900, 0, Flags.RST, 0)
    assert port.arrives(ACK) == [Send(segment(at(A), CLIENT, reset))]


@pytest.mark.parametrize("clean", [True, False])
def test_frames_that_come_while_a_guest_dies(clean: bool) -> None:
    """The kernel has deleted its entry and floods them to us, before we know that it has died."""
    port = Port()
    port.come_to("guest long ago")
    for data in (SYN, sent(Flags.ACK, 1, ack=900)):
        assert port.arrives(data) == []
    port.moving()
    assert port.moved(to_guest=False) == [Wake(A.name, Cause.SYN, IPv4Address(0))]
    effects = port.enters(State.ASLEEP if clean else State.FAILED)
    answers = [refusal.answer(data) for data in (SYN, sent(Flags.ACK, 1, ack=900))]
    if clean:
        assert effects == [Send(answers[1] or b""), Wake(A.name, Cause.SYN, IPv4Address(0))]
        assert port.held() == 1
    else:
        assert effects == [Send(answer or b"") for answer in answers]


# Limits.


def test_no_more_syns_than_a_backlog() -> None:
    port = Port()
    for number in range(HELD_FRAMES_MAX):
        assert port.arrives(syn(number + 1))
    assert port.held() == HELD_FRAMES_MAX
    port.arrives(syn(HELD_FRAMES_MAX + 1))
    port.arrives(ping())
    assert port.held() == HELD_FRAMES_MAX
    assert port.core.counters["no room to hold it"] == 2
    # One that is held may still be replaced, and one that goes makes room.
    port.arrives(syn(1, payload=b"again"))
    port.arrives(sent(Flags.RST, 2))
    port.arrives(syn(HELD_FRAMES_MAX + 1))
    assert port.core.counters["no room to hold it"] == 2
    # The other service has a backlog of its own.
    port.arrives(syn(to=B))
    assert port.held(B) == 1


def test_no_more_datagrams_than_a_few() -> None:
    port = Port()
    for number in range(HELD_DATAGRAMS_MAX):
        port.arrives(ping() if number % 2 else datagram())
    port.arrives(datagram())
    assert port.held() == HELD_DATAGRAMS_MAX
    assert port.core.counters["no room to hold it"] == 1
    port.arrives(SYN)
    assert port.held() == HELD_DATAGRAMS_MAX + 1
    port.enters(State.BOOTING, State.AWAKE)
    port.moved(to_guest=True)
    port.moved(to_guest=False)
    port.enters(State.STOPPING, State.ASLEEP)
    port.arrives(datagram())
    assert port.held() == 1


def fill(port: Port, room: int) -> int:
    """Have `port` hold large SYNs for B until just `room` bytes are left; return how many."""
    size, count = len(syn(payload=bytes(60_000))), 0
    while (left := HELD_BYTES_MAX - room - port.held_bytes) > 0:
        payload = 60_000 if left >= size + 1000 else left - len(SYN)
        if size < left < size + 1000:
            payload = 30_000
        count += 1
        port.arrives(syn(count, to=B, payload=bytes(payload)))
    assert port.held_bytes == HELD_BYTES_MAX - room
    return count


def test_no_more_bytes_than_the_limit_for_all_services() -> None:
    port = Port()
    fill(port, len(SYN))
    assert port.arrives(SYN)
    assert port.held_bytes == HELD_BYTES_MAX
    assert port.arrives(syn(2)) == [Wake(A.name, Cause.SYN, CLIENT[1])]
    assert port.arrives(ping())
    assert (port.held(), port.core.counters["no room to hold it"]) == (1, 2)
    port.enters(State.BOOTING, State.FAILED, target=B)
    assert port.held_bytes == len(SYN)
    port.enters(State.BOOTING, State.FAILED)
    assert port.held_bytes == 0


def test_one_byte_too_many() -> None:
    port = Port()
    fill(port, len(SYN) - 1)
    port.arrives(SYN)
    assert port.held() == 0


def test_a_syn_that_is_replaced_stays_within_the_limit() -> None:
    port = Port()
    fill(port, len(SYN) + 4)
    port.arrives(SYN)
    port.arrives(syn(payload=b"four"))
    assert port.held_bytes == HELD_BYTES_MAX
    port.arrives(syn(payload=b"five!"))
    assert port.held_bytes == HELD_BYTES_MAX
    assert port.core.counters["no room to hold it"] == 1


@pytest.mark.slow
def test_a_flood_is_bounded() -> None:
    port = Port()
    flood = bytearray(SYN)
    for number in range(100_000):
        flood[LAST_BYTE_OF_SOURCE] = number >> 16
        struct.pack_into("!H", flood, SOURCE_PORT, number & 0xFFFF)
        port.arrives(bytes(flood))
    assert port.held() == HELD_FRAMES_MAX
    assert port.held_bytes == HELD_FRAMES_MAX * len(SYN)
    assert port.core.counters["no room to hold it"] == 100_000 - HELD_FRAMES_MAX


# A guest that boots.


def test_the_first_frame_is_ready() -> None:
    port = Port()
    port.enters(State.BOOTING)
    assert port.guest(announcement(A)) == [Heard(A.name), CanServe(A.name)]
    assert port.guest(announcement(A)) == []
    assert port.core.deadline() is None
    # So it is again, at the next boot.
    port.enters(State.STOPPING, State.ASLEEP, State.BOOTING)
    assert port.guest(announcement(A)) == [Heard(A.name), CanServe(A.name)]


def test_a_frame_of_the_store_link_is_not_the_first() -> None:
    port = Port()
    port.enters(State.BOOTING)
    link = ethernet.Frame(OWN_MAC, A.mac, ethernet.EtherType.STORE_LINK, bytes(16))
    assert port.guest(ethernet.encode(link)) == []
    assert port.guest(announcement(A)) == [Heard(A.name), CanServe(A.name)]


def test_a_delay_does_not_care_for_frames() -> None:
    port = Port(replace(A, ready=ReadyOnDelay(1.0)))
    port.enters(State.BOOTING)
    assert port.guest(announcement(A)) == [Heard(A.name)]
    assert port.guest(datagram((PORT, PROBE_PORT), at(A), (OWN_MAC, PROBE))) == []


def test_what_is_not_the_guests_is_dropped() -> None:
    port = Port()
    port.enters(State.BOOTING)
    assert port.guest(b"short") == []
    assert port.guest(announcement(B)) == []
    assert port.core.counters["malformed by guest"] == 2
    assert port.guest(announcement(A)) != []


@pytest.mark.parametrize("situation", ["asleep", "failed", "awake", "stopping"])
def test_a_guest_that_does_not_boot_is_not_listened_to(situation: str) -> None:
    port = Port(replace(A, ready=ReadyOnTcp(PORT)))
    port.come_to(situation)
    assert port.guest(announcement(A)) == []
    assert port.core.deadline() is None


def test_those_to_whom_the_guest_has_spoken_get_through() -> None:
    asks = datagram((1234, 53), at(A), OTHER)
    answer = datagram((53, 1234), OTHER)
    port = Port(replace(A, ready=ReadyOnDelay(9.0)))
    port.enters(State.BOOTING)
    assert port.arrives(answer) == []  # held: it may be a client
    port.guest(asks)
    assert port.arrives(answer) == [SendToGuest(A.name, answer)]
    for other in (
        datagram((53, 1235), OTHER),
        datagram((54, 1234), OTHER),
        datagram((53, 1234), CLIENT),
    ):
        assert port.arrives(other) == []
    assert port.held() == 4
    # It is the guest that knew them: when it has gone, they are clients as any.
    port.enters(State.AWAKE)
    port.moved(to_guest=True)
    port.moved(to_guest=False)
    port.enters(State.STOPPING, State.ASLEEP)
    assert port.arrives(answer) == [Wake(A.name, Cause.UDP, OTHER[1])]
    port.enters(State.BOOTING)
    port.guest(announcement(A))
    assert port.arrives(answer) == []


def test_a_guest_that_speaks_to_everybody_is_remembered_in_part() -> None:
    port = Port()
    port.enters(State.BOOTING)
    for number in range(SPOKEN_MAX + 1):
        port.guest(datagram((1234, number + 1), at(A), OTHER))
    heard = datagram((SPOKEN_MAX, 1234), OTHER)
    assert port.arrives(heard) == [SendToGuest(A.name, heard)]
    assert port.arrives(datagram((SPOKEN_MAX + 1, 1234), OTHER)) == []


# Probes.


def probed(data: bytes) -> tcp.Segment:
    """Take a probe apart, and check that it is one."""
    outer = ethernet.decode(data)
    assert (outer.source, outer.destination) == (OWN_MAC, PROBED.mac)
    packet = ipv4.decode(outer.payload)
    assert (packet.source, packet.destination) == (PROBE, PROBED.address)
    content = tcp.decode(packet.payload, packet.source, packet.destination)
    assert (content.source_port, content.destination_port) == (PROBE_PORT, PORT)
    return content


def probe_in(effects: list[Effect]) -> tcp.Segment:
    (effect,) = effects
    assert isinstance(effect, SendToGuest)
    assert effect.name == PROBED.name
    return probed(effect.frame)


def answered(flags: Flags, port: int = PORT, isn: int = 7777) -> bytes:
    content = tcp.Segment(port, PROBE_PORT, isn, 1, flags, 65535)
    return segment(at(PROBED), (OWN_MAC, PROBE), content)


def heard_probed() -> tuple[Port, tcp.Segment]:
    port = Port(PROBED)
    port.enters(State.BOOTING)
    heard, *rest = port.guest(announcement(PROBED))
    assert heard == Heard(PROBED.name)
    return port, probe_in(rest)


@pytest.mark.parametrize("of", [A, PROBED], ids=["frame", "tcp"])
def test_a_guest_whose_first_frame_was_lost_is_asked(of: Service) -> None:
    port = Port(of)
    port.enters(State.BOOTING)
    question = SendToGuest(of.name, who_has(of.address, (OWN_MAC, PROBE)))
    now = 0.0
    for wait in (ASK_FIRST, 2 * ASK_FIRST, 4 * ASK_FIRST, 8 * ASK_FIRST, ASK_MAX, ASK_MAX):
        now += wait
        assert port.core.deadline() == pytest.approx(now)
        assert port.tick(now - 1e-6) == []
        now = port.core.deadline() or now
        assert port.tick(now) == [question]
    heard, then = port.guest(is_at(of.address, of.mac, (OWN_MAC, PROBE)))
    assert heard == Heard(of.name)
    if of is A:
        assert then == CanServe(A.name)
        assert port.core.deadline() is None
    else:
        assert probe_in([then]).flags == Flags.SYN


def test_a_server_is_probed_from_its_first_frame_on() -> None:
    port, probe = heard_probed()
    assert probe.flags == Flags.SYN
    assert port.arrives(syn(to=PROBED)) == []
    question = who_has(PROBE, at(PROBED))
    assert port.guest(question) == [
        SendToGuest(PROBED.name, is_at(PROBE, OWN_MAC, at(PROBED))),
    ]
    reset, serves = port.guest(answered(Flags.SYN | Flags.ACK))
    last = probe_in([reset])
    assert (last.flags, last.seq) == (Flags.RST, tcp.seq_add(probe.seq, 1))
    assert serves == CanServe(PROBED.name)
    # A second answer is one too many, and nobody probes any more.
    assert port.guest(answered(Flags.SYN | Flags.ACK)) == []
    assert port.guest(answered(Flags.RST)) == []
    assert port.core.deadline() is None
    assert port.tick(9.0) == []
    assert port.enters(State.AWAKE) == [SendToGuest(PROBED.name, syn(to=PROBED))]


def test_a_probe_that_is_lost_is_sent_again_ever_later() -> None:
    port, first = heard_probed()
    waits, now = [], 0.0
    for _ in range(9):
        deadline = port.core.deadline()
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        assert port.tick(now - 1e-6) == []
        assert probe_in(port.tick(now)) == first
    doubled = [min(PROBE_RETRY_FIRST * 2**n, PROBE_RETRY_MAX) for n in range(9)]
    assert waits == pytest.approx(doubled)


def test_a_refused_probe_is_sent_again_soon() -> None:
    port, first = heard_probed()
    for now in (0.001, 0.003, 0.007, 0.015):
        port.tick(now)
    port.now = 0.016
    assert port.guest(answered(Flags.RST | Flags.ACK)) == []
    assert port.core.deadline() == pytest.approx(0.016 + PROBE_RETRY_FIRST)
    assert probe_in(port.tick(0.018)) == first


@pytest.mark.parametrize(
    "data",
    [
        answered(Flags.SYN | Flags.ACK, port=PORT + 1),
        answered(Flags.RST, port=PORT + 1),
        answered(Flags.ACK),
        answered(Flags.SYN),
        datagram((PORT, PROBE_PORT), at(PROBED), (OWN_MAC, PROBE)),
        segment(at(PROBED), CLIENT, tcp.Segment(PORT, 5000, 1, 1, Flags.SYN | Flags.ACK, 9)),
    ],
    ids=["foreign port", "foreign reset", "no SYN", "no ACK", "datagram", "to a client"],
)
def test_what_is_no_answer_to_a_probe(data: bytes) -> None:
    port, _ = heard_probed()
    before = port.core.deadline()
    port.now = 0.0005
    assert port.guest(data) == []
    assert port.core.deadline() == before


@pytest.mark.parametrize("state", [State.FAILED, State.STOPPING])
def test_probes_end_with_the_boot(state: State) -> None:
    port, first = heard_probed()
    port.tick(0.5)
    port.enters(state)
    assert port.core.deadline() is None
    assert port.tick(1.0) == []
    # The next boot is probed as the first was.
    port.enters(State.ASLEEP, State.BOOTING)
    assert port.core.deadline() == pytest.approx(1.0 + ASK_FIRST)
    assert probe_in(port.guest(announcement(PROBED))[1:]) == first
    assert port.core.deadline() == pytest.approx(1.0 + PROBE_RETRY_FIRST)


def test_services_are_probed_each_at_its_time() -> None:
    second = service(3, ready=ReadyOnTcp(PORT))
    port, first = heard_probed()
    both = Port(PROBED, second)
    both.enters(State.BOOTING, target=PROBED)
    both.enters(State.BOOTING, target=second)
    both.guest(announcement(PROBED))
    both.now = 0.0005
    effects = both.core.handle(GuestSent(second.name, announcement(second)), both.now)
    assert effects[0] == Heard(second.name)
    assert both.core.deadline() == PROBE_RETRY_FIRST
    assert probe_in(both.tick(PROBE_RETRY_FIRST)) == first
    assert both.core.deadline() == pytest.approx(0.0005 + PROBE_RETRY_FIRST)
    # Their sequence numbers are not to be guessed from each other, nor without the secret.
    other = Synjitsu([PROBED], PROBE, [SUBNET], b"another secret")
    other.handle(StateEntered(PROBED.name, State.BOOTING, Epoch(1)), 0.0)
    effects = other.handle(GuestSent(PROBED.name, announcement(PROBED)), 0.0)
    assert probe_in(effects[1:]).seq != first.seq
    assert port.held_bytes == 0


# Anything at all.


def check_accounts(port: Port) -> None:
    """Check that what is held is within its limits, and counted right."""
    total = 0
    for sleeper in port.core._sleepers.values():
        frames = [data for _, data in sleeper.held.values()]
        total += sum(map(len, frames))
        assert len(frames) <= HELD_FRAMES_MAX
        others = sum(
            kind not in (Kind.TCP_SYN, Kind.TCP_OTHER) for kind, _ in sleeper.held.values()
        )
        assert sleeper.datagrams == others <= HELD_DATAGRAMS_MAX
    boots = port.core._readiness._boots.values()
    assert all(len(boot.spoken) <= SPOKEN_MAX for boot in boots)
    assert port.held_bytes == total <= HELD_BYTES_MAX


def mutated(chance: Random, data: bytes) -> bytes:
    """Overwrite a few bytes, and cut the frame or pad it, or leave it as it is."""
    changed = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 2, 8])):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    cut = chance.choice([0, 0, 0, chance.randrange(len(changed))])
    return bytes(changed[: len(changed) - cut]) + chance.choice([b"", bytes(18)])


@pytest.mark.parametrize("seed", range(4))
def test_any_frame_at_any_time(seed: int) -> None:
    chance = Random(seed)
    services = (A, B, PROBED)
    port = Port(*services)
    frames = [*KINDS.values(), syn(to=B), syn(to=PROBED), *map(announcement, services)]
    frames += [answered(Flags.RST), answered(Flags.SYN | Flags.ACK), who_has(PROBE, at(PROBED))]
    frames += [datagram((9, 9), at(A), CLIENT), datagram((9, 9)), syn(payload=bytes(1400))]
    states = [State.ASLEEP, State.BOOTING, State.AWAKE, State.STOPPING, State.FAILED]
    for number in range(10_000):
        port.now += 0.0001
        target = chance.choice(services).name
        data = chance.randbytes(chance.randrange(80))
        if chance.random() < 0.9:
            data = mutated(chance, chance.choice(frames))
        port.arrives(data)
        port.core.handle(GuestSent(target, data), port.now)
        if chance.random() < 0.02:
            port.core.handle(StateEntered(target, chance.choice(states), Epoch(number)), port.now)
        if chance.random() < 0.02:
            to_guest = chance.random() < 0.5
            port.core.handle(Moving(target), port.now)
            port.core.handle(Moved(target, to_guest), port.now)
        port.tick(port.now)
        assert (port.core.deadline() or 9e9) > port.now
        if number % 50 == 0:
            check_accounts(port)
    for target_ in services:
        port.enters(State.BOOTING, State.FAILED, target=target_)
    check_accounts(port)
    assert port.held_bytes == 0


# A guest that says in the store that it can serve.

KEYED = service(0, ready=ReadyOnKey("data/ready"))
APPEARED = KeyAppeared(KEYED.name, Epoch(1))


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_key_says_that_it_can_serve(is_heard: bool) -> None:
    port = Port(KEYED)
    port.enters(State.BOOTING)
    port.arrives(syn(to=KEYED))
    heard = port.guest(announcement(KEYED)) if is_heard else []
    heard += port.core.handle(APPEARED, 0.0)
    assert heard == [Heard(KEYED.name), CanServe(KEYED.name)]
    assert port.core.handle(APPEARED, 0.0) == [], "once"
    assert port.guest(announcement(KEYED)) == []
    assert port.enters(State.AWAKE) == [SendToGuest(KEYED.name, syn(to=KEYED))]
    assert port.core.handle(APPEARED, 0.0) == []


@pytest.mark.parametrize("target", [A, PROBED, service(0, handoff=Handoff.IMPORT, terms=TERMS)])
def test_a_key_that_nobody_waits_for(target: Service) -> None:
    port = Port(target)
    port.enters(State.BOOTING)
    assert port.core.handle(KeyAppeared(target.name, Epoch(1)), 0.0) == []


def test_the_key_of_an_earlier_guest_counts_no_more() -> None:
    port = Port(KEYED)
    port.enters(State.BOOTING, epoch=2)
    assert port.core.handle(APPEARED, 0.0) == []
    assert port.core.counters["word of a guest that is not asked"] == 1
