"""Splicing: a connection goes on with a guest that has never heard of it."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.core.segment import decode, encode
from jitsu.core.splice import (
    RETRY,
    Effect,
    Failed,
    Numbers,
    Shift,
    Splice,
    Spliced,
    Splices,
    Stage,
    ToClient,
    ToGuest,
)
from jitsu.model import Mac, mac_of
from jitsu.wire import ethernet, ipv4
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import MSS_DEFAULT, MSS_MIN, Flags, Options, Segment, seq_add, seq_diff

ISS, IRS, GUEST = 7_000, 0xFFFF_FFF0, 0xFFFF_F000
"""Our number, the client's and the guest's; the latter two are about to wrap."""
MAC = mac_of("www")
PATIENCE = 5.0
LOCAL, PEER = IPv4Address("10.77.0.10"), IPv4Address("10.77.0.9")
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
TCB = Tcb(
    state=TcbState.ESTABLISHED,
    local=LOCAL,
    port=80,
    peer=PEER,
    peer_port=40000,
    peer_mac=Mac(b"\x02\0\0\0\0\x09"),
    iss=ISS,
    snd_una=seq_add(ISS, 1),
    snd_nxt=seq_add(ISS, 1),
    snd_wnd=64240,
    irs=IRS,
    rcv_nxt=seq_add(IRS, 1),
    rcv_wnd=8192,
    mss=1460,
)


def splice(
    received: bytes = b"", state: TcbState = TcbState.ESTABLISHED, port: int = 40000
) -> Splice:
    fin = state is TcbState.CLOSE_WAIT
    rcv_nxt = seq_add(IRS, 1 + len(received) + fin)
    una = ISS if state is TcbState.SYN_RECEIVED else seq_add(ISS, 1)
    tcb = replace(TCB, state=state, rcv_nxt=rcv_nxt, rx=len(received), snd_una=una, peer_port=port)
    return Splice(MAC, tcb, received, PATIENCE)


def guest(
    flags: Flags,
    seq: int = 1,
    ack: int = 1,
    *,
    window: int = 65535,
    mss: int | None = None,
    payload: bytes = b"",
) -> Segment:
    """Return a segment of the guest's; `seq` and `ack` count from the numbers of the SYNs."""
    at = seq_add(GUEST, seq)
    return Segment(
        80, 40000, at, seq_add(IRS, ack), flags, window, Options(mss=mss), payload=payload
    )


SYN_ACK = guest(Flags.SYN | Flags.ACK, 0, mss=1460)


def to_guest(effects: list[Effect]) -> list[Segment]:
    """Return what of the effects goes to the guest, as if from the client."""
    segments = []
    for effect in effects:
        if isinstance(effect, ToGuest):
            ends, segment = decode(effect.frame)
            assert (ends.peer_mac, ends.peer, ends.mac) == (TCB.peer_mac, TCB.peer, MAC)
            segments.append(segment)
    return segments


def to_client(effects: list[Effect]) -> list[Segment]:
    """Return what of the effects goes to the client, as if from the guest."""
    segments = []
    for effect in effects:
        if isinstance(effect, ToClient):
            ends, segment = decode(effect.frame)
            assert (ends.peer_mac, ends.peer, ends.mac) == (MAC, TCB.local, TCB.peer_mac)
            segments.append(segment)
    return segments


def begun(it: Splice) -> Splice:
    it.begin(0.0)
    return it


def telling(received: bytes = REQUEST, answer: Segment = SYN_ACK) -> Splice:
    it = begun(splice(received))
    it.handle(answer, 0.0)
    assert it.stage is Stage.TELLING
    return it


def test_the_guest_gets_the_clients_syn_and_is_not_heard_yet() -> None:
    it = splice(REQUEST)
    first, *rest = it.begin(1.0)
    assert first == Shift(it.ends, None)
    (syn,) = to_guest(rest)
    assert (syn.source_port, syn.destination_port) == (40000, 80)
    assert (syn.flags, syn.seq, syn.ack, syn.window) == (Flags.SYN, IRS, 0, 64240)
    assert syn.options == Options(mss=1460)
    assert it.deadline() == 1.0 + RETRY


def test_a_whole_splice() -> None:
    it = begun(splice(REQUEST))
    shift, *rest = it.handle(SYN_ACK, 0.1)
    assert shift == Shift(it.ends, Numbers(ISS, GUEST, seq_add(IRS, 1)))
    (said,) = to_guest(rest)
    assert said.flags == Flags.ACK | Flags.PSH
    assert (said.seq, said.ack) == (seq_add(IRS, 1), seq_add(ISS, 1))
    assert said.payload == REQUEST
    answer = guest(Flags.ACK, 1, 1 + len(REQUEST), payload=b"200 OK")
    assert it.handle(answer, 0.2) == [Spliced(it.ends)]
    assert it.deadline() is None
    assert it.tick(99.0) == []
    assert it.handle(answer, 99.0) == []


def test_a_client_that_has_said_nothing() -> None:
    it = begun(splice())
    shift, ack, done = it.handle(SYN_ACK, 0.1)
    assert isinstance(shift, Shift)
    assert done == Spliced(it.ends)
    (said,) = to_guest([ack])
    assert (said.flags, said.seq, said.payload) == (Flags.ACK, seq_add(IRS, 1), b"")


def test_a_client_that_has_closed() -> None:
    it = begun(splice(REQUEST, TcbState.CLOSE_WAIT))
    (said,) = to_guest(it.handle(SYN_ACK, 0.1))
    assert said.flags == Flags.ACK | Flags.PSH | Flags.FIN
    assert it.handle(guest(Flags.ACK, 1, 1 + len(REQUEST)), 0.2) == []
    assert it.handle(guest(Flags.ACK, 1, 2 + len(REQUEST)), 0.2) == [Spliced(it.ends)]


def test_a_client_that_has_closed_and_said_nothing() -> None:
    it = begun(splice(b"", TcbState.CLOSE_WAIT))
    (said,) = to_guest(it.handle(SYN_ACK, 0.1))
    assert (said.flags, said.payload) == (Flags.ACK | Flags.FIN, b"")
    (again,) = to_guest(it.tick(RETRY + 0.1))
    assert again == said
    assert it.handle(guest(Flags.ACK, 1, 2), 0.4) == [Spliced(it.ends)]


def test_a_fin_that_finds_no_room_comes_later() -> None:
    it = begun(splice(REQUEST, TcbState.CLOSE_WAIT))
    (said,) = to_guest(it.handle(replace(SYN_ACK, window=len(REQUEST)), 0.1))
    assert said.flags == Flags.ACK
    (fin,) = to_guest(it.handle(guest(Flags.ACK, 1, 1 + len(REQUEST)), 0.2))
    assert fin.flags == Flags.ACK | Flags.FIN
    assert (fin.seq, fin.payload) == (seq_add(IRS, 1 + len(REQUEST)), b"")


def test_a_handshake_under_way_is_the_guests_to_finish() -> None:
    it = begun(splice(b"", TcbState.SYN_RECEIVED))
    shift, answer, done = it.handle(SYN_ACK, 0.1)
    assert isinstance(shift, Shift)
    assert done == Spliced(it.ends)
    (said,) = to_client([answer])
    assert said == replace(SYN_ACK, seq=ISS)


def test_the_guests_window_and_mss_are_kept() -> None:
    received = bytes(range(256)) * 10
    it = begun(splice(received))
    said = to_guest(it.handle(guest(Flags.SYN | Flags.ACK, 0, mss=500, window=1200), 0.0))
    assert [len(segment.payload) for segment in said] == [500, 500, 200]
    said += to_guest(it.handle(guest(Flags.ACK, 1, 501, window=1000), 0.1))
    assert [len(segment.payload) for segment in said[3:]] == [300]
    said += to_guest(it.handle(guest(Flags.ACK, 1, 1501, window=60000), 0.1))
    assert b"".join(segment.payload for segment in said) == received
    assert [bool(segment.flags & Flags.PSH) for segment in said] == [False] * (len(said) - 1) + [
        True
    ]


@pytest.mark.parametrize(
    ("named", "taken"), [(None, MSS_DEFAULT[4]), (0, MSS_MIN), (9000, 1460), (1400, 1400)]
)
def test_a_guests_mss_is_taken_with_salt(named: int | None, taken: int) -> None:
    it = begun(splice(bytes(5000)))
    first, *_ = to_guest(it.handle(guest(Flags.SYN | Flags.ACK, 0, mss=named), 0.0))
    assert len(first.payload) == taken


def test_a_lost_syn_is_sent_again_more_and_more_slowly() -> None:
    it = begun(splice(REQUEST))
    now, pauses = 0.0, []
    effects: list[Effect] = []
    while (at := it.deadline()) is not None:
        assert it.tick(at - 0.01) == []
        pauses.append(round(at - now, 3))
        effects, now = it.tick(at), at
        if it.stage is Stage.ASKING:
            assert [s.flags for s in to_guest(effects)] == [Flags.SYN]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0]
    assert sum(pauses) == PATIENCE
    (reset,) = to_client(effects)
    assert (reset.flags, reset.seq) == (Flags.RST | Flags.ACK, seq_add(ISS, 1))
    assert reset.ack == seq_add(IRS, 1 + len(REQUEST))
    (reset,) = to_guest(effects)
    assert (reset.flags, reset.seq) == (Flags.RST, seq_add(IRS, 1))
    assert effects[-1] == Failed(it.ends, "the guest does not answer")


def test_lost_bytes_are_sent_again_from_the_last_acknowledged_one() -> None:
    received = bytes(range(250)) * 16
    it = telling(received)
    assert it.handle(guest(Flags.ACK, 1, 1461), 0.1) == []
    (again,) = to_guest(it.tick(0.1 + RETRY))
    assert again.seq == seq_add(IRS, 1461)
    assert again.payload == received[1460:2920]
    # What was sent before the loss may be acknowledged with it.
    (last,) = to_guest(it.handle(guest(Flags.ACK, 1, 2921), 0.4))
    assert last.payload == received[2920:]
    assert it.handle(guest(Flags.ACK, 1, 4001), 0.5) == [Spliced(it.ends)]


def test_a_slow_guest_is_not_given_up_while_it_takes_something() -> None:
    it, now = telling(bytes(8 * 1460)), 0.0
    for number in range(1, 8):
        while (at := it.deadline() or 0.0) - now < 1.0:
            it.tick(at)
        now = at - 0.01
        it.handle(guest(Flags.ACK, 1, 1 + number * 1460), now)
    assert now > PATIENCE
    assert it.stage is Stage.TELLING


def test_more_may_be_acknowledged_than_was_sent_again() -> None:
    it = telling(bytes(4000))
    it.tick(RETRY)
    (rest,) = to_guest(it.handle(guest(Flags.ACK, 1, 2921), 0.4))
    assert rest.seq == seq_add(IRS, 2921)


def test_a_closed_window_is_asked_by_one_byte() -> None:
    it = begun(splice(REQUEST))
    (ack,) = to_guest(it.handle(replace(SYN_ACK, window=0), 0.0))
    assert (ack.flags, ack.payload) == (Flags.ACK, b"")
    (asked,) = to_guest(it.tick(RETRY))
    assert asked.payload == REQUEST[:1]
    assert it.handle(guest(Flags.ACK, 1, 1, window=0), 0.3) == []
    (rest,) = to_guest(it.handle(guest(Flags.ACK, 1, 2, window=100), 0.4))
    assert rest.payload == REQUEST[1:]


def test_a_guest_that_stops_answering_is_given_up_with_its_own_numbers() -> None:
    it = telling()
    it.handle(guest(Flags.ACK, 1, 1, payload=b"100 Continue"), 0.0)
    it.handle(guest(Flags.ACK, 1, 1), 0.0)  # an older one
    effects: list[Effect] = []
    while (at := it.deadline()) is not None:
        effects = it.tick(at)
    (reset,) = to_client(effects)
    assert reset.seq == seq_add(ISS, 1 + len(b"100 Continue"))
    assert isinstance(effects[-1], Failed)


def test_a_closed_port_is_told_to_the_client() -> None:
    it = begun(splice(REQUEST))
    effects = it.handle(replace(guest(Flags.RST | Flags.ACK), seq=0), 0.1)
    (reset,) = to_client(effects)
    assert (reset.flags, reset.seq) == (Flags.RST | Flags.ACK, seq_add(ISS, 1))
    assert to_guest(effects) == []
    assert effects[-1] == Failed(it.ends, "nobody listens there")
    assert it.stage is Stage.DONE


def test_a_reset_of_the_guests_reaches_the_client_by_itself() -> None:
    it = telling()
    assert it.handle(guest(Flags.RST), 0.1) == [Failed(it.ends, "the guest has reset it")]


@pytest.mark.parametrize(
    "answer",
    [
        guest(Flags.SYN, 0),
        guest(Flags.SYN | Flags.ACK, 0, 2),
        guest(Flags.RST | Flags.ACK, 0, 0),
        guest(Flags.RST, 0),
        guest(Flags.ACK, 0),
    ],
)
def test_what_does_not_answer_the_syn_is_passed_over(answer: Segment) -> None:
    it = begun(splice(REQUEST))
    assert it.handle(answer, 0.1) == []
    assert it.stage is Stage.ASKING


@pytest.mark.parametrize(
    "said",
    [
        guest(Flags.FIN, 1, 1 + len(REQUEST)),
        guest(Flags.ACK, 1, 2 + len(REQUEST)),
        guest(Flags.ACK, 1, 0),
        SYN_ACK,
    ],
)
def test_what_acknowledges_nothing_is_passed_over(said: Segment) -> None:
    it = telling()
    assert it.handle(said, 0.1) == []
    assert it.stage is Stage.TELLING


def test_it_says_who_it_is_with() -> None:
    assert repr(telling()) == "<Splice 10.77.0.9:40000 telling, 0 of 18>"


# Many.


def splices(*ports: int) -> Splices:
    flows = [(replace(TCB, peer_port=port, rx=len(REQUEST)), REQUEST) for port in ports]
    return Splices(MAC, flows, PATIENCE)


def frame(segment: Segment, port: int) -> bytes:
    ends = splice(port=port).ends
    return encode(ends, replace(segment, destination_port=port))


def test_each_frame_finds_its_connection() -> None:
    them = splices(1, 2)
    assert [s.source_port for s in to_guest(them.begin(0.0))] == [1, 2]
    assert them.deadline() == RETRY
    assert [s.source_port for s in to_guest(them.handle(frame(SYN_ACK, 2), 0.1))] == [2]
    done = them.handle(frame(guest(Flags.ACK, 1, 1 + len(REQUEST)), 2), 0.15)
    assert [type(effect) for effect in done] == [Spliced]
    assert len(them) == 1
    assert [s.source_port for s in to_guest(them.tick(RETRY))] == [1]
    assert them.tick(RETRY) == []


def test_other_frames_are_nobodys() -> None:
    them = splices(1)
    store_link = ethernet.encode(ethernet.Frame(MAC, MAC, ethernet.EtherType.STORE_LINK, b""))
    datagram = ipv4.encode(ipv4.Packet(LOCAL, PEER, ipv4.Protocol.UDP, b""))
    assert them.handle(b"what?", 0.0) == []
    assert them.handle(store_link, 0.0) == []
    assert them.handle(ethernet.encode(ethernet.Frame(MAC, MAC, 0x0800, datagram)), 0.0) == []
    assert them.handle(frame(SYN_ACK, 9), 0.0) == []


def test_a_guest_leaves_the_checksum_to_the_host() -> None:
    them = splices(1)
    them.begin(0.0)
    data = bytearray(frame(SYN_ACK, 1))
    data[14 + 20 + 16] ^= 0xFF
    assert them.handle(bytes(data), 0.1) != []


def test_a_guest_that_dies_takes_all_with_it() -> None:
    them = splices(1, 2)
    them.begin(0.0)
    effects = them.abort("the guest is gone")
    assert [s.destination_port for s in to_client(effects)] == [1, 2]
    assert [e.reason for e in effects if isinstance(e, Failed)] == ["the guest is gone"] * 2
    assert (len(them), them.deadline()) == (0, None)


def test_one_that_the_kernel_cannot_translate_is_dropped() -> None:
    them = splices(1, 2)
    first, *_ = them.begin(0.0)
    assert isinstance(first, Shift)
    assert [s.destination_port for s in to_client(them.drop(first.ends, "no room"))] == [1]
    assert them.drop(first.ends, "no room") == []
    assert len(them) == 1


# A guest on a link that loses.


class Guest:
    """What a guest's kernel does with a connection, with little room."""

    def __init__(self, window: int, mss: int) -> None:
        self.window, self.mss = window, mss
        self.got = bytearray()
        self.opened = self.closed = False

    def take(self, segment: Segment, delta: int | None) -> Iterator[Segment]:
        if segment.flags & Flags.RST:
            return
        if segment.flags & Flags.SYN:
            self.opened = True
            yield guest(Flags.SYN | Flags.ACK, 0, mss=self.mss, window=self.window)
            return
        assert self.opened
        assert delta is not None, "the kernel knows before we speak"
        assert seq_add(segment.ack, -delta) == seq_add(GUEST, 1), "what the guest has said"
        at = seq_diff(segment.seq, seq_add(IRS, 1))
        assert len(segment.payload) <= max(1, self.mss)
        if at == len(self.got):
            assert len(segment.payload) <= self.window
            self.got += segment.payload
            self.closed |= bool(segment.flags & Flags.FIN)
        if segment.length:
            end = 1 + len(self.got) + self.closed
            yield guest(Flags.ACK, 1, end, window=self.window)


@given(
    st.binary(max_size=3000),
    st.booleans(),
    st.integers(1, 4000),
    st.integers(48, 2000),
    st.lists(st.booleans(), max_size=12),
)
def test_whatever_the_link_loses_every_byte_arrives_once(
    received: bytes, fin: bool, window: int, mss: int, losses: list[bool]
) -> None:
    it = splice(received, TcbState.CLOSE_WAIT if fin else TcbState.ESTABLISHED)
    peer, now, fate = Guest(window, mss), 0.0, iter(losses)
    delta: int | None = None
    pending = it.begin(now)
    while it.stage is not Stage.DONE or pending:
        if not pending:
            at = it.deadline()
            assert at is not None
            now, pending = at, it.tick(at)
        effect = pending.pop(0)
        match effect:
            case Shift(_, numbers):
                delta = numbers.delta if numbers else None
            case ToGuest(data) if not next(fate, False):
                for answer in peer.take(decode(data)[1], delta):
                    if not next(fate, False):
                        pending += it.handle(answer, now)
            case Failed():
                assert sum(losses) >= 5, "the SYN, and what follows it four times"
                return
            case _:
                pass
    assert delta == (ISS - GUEST) & 0xFFFF_FFFF
    assert bytes(peer.got) == received or not received
    assert peer.closed is fin
