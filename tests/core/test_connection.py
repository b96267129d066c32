"""Conversations with the half of TCP that Synjitsu is."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest

from jitsu.core.connection import SYN_ACK_RETRY, SYN_ACK_TRIES, Connection
from jitsu.core.segment import Ends
from jitsu.model import Mac, Terms
from jitsu.wire.tcb import TcbState
from jitsu.wire.tcp import Flags, Options, Segment, Timestamps, seq_add

ENDS = Ends(
    mac=Mac(b"\x02service"[:6]),
    local=IPv4Address("10.77.0.10"),
    port=80,
    peer_mac=Mac(b"\x06client"[:6]),
    peer=IPv4Address("10.77.0.100"),
    peer_port=40000,
)
SIZE = Options(mss=1460)
PLAIN = Terms(connections=8, window=100)
FULL = Terms(8, 1 << 20, window_scale=7, sack=True, timestamps=True)
ISS, STAMP = 7000, 500
IRS = 0xFFFF_FFF0  # so that it wraps
SYN, ACK, FIN, RST, PSH = Flags.SYN, Flags.ACK, Flags.FIN, Flags.RST, Flags.PSH


class Talk:
    """A client that says what it is told to, and what it hears."""

    def __init__(self, terms: Terms = PLAIN, options: Options = SIZE) -> None:
        self.options = options
        self.now = 10.0
        self.room = 1 << 30
        self.core = Connection(ENDS, self.segment(SYN, 0, ack=None), terms, (ISS, STAMP), self.now)

    def segment(
        self,
        flags: Flags,
        at: int,
        data: bytes = b"",
        ack: int | None = 1,
        window: int = 1000,
        stamps: Timestamps | None = None,
    ) -> Segment:
        """Return a segment `at` bytes after the client's ISN that acknowledges `ack` of ours."""
        options = self.options if flags & SYN else Options(timestamps=stamps)
        acknowledged = 0 if ack is None else seq_add(ISS, ack)
        seq = seq_add(IRS, at)
        return Segment(40000, 80, seq, acknowledged, flags, window, options, data)

    def says(self, flags: Flags, at: int, data: bytes = b"", **rest: object) -> list[Segment]:
        return self.core.handle(self.segment(flags, at, data, **rest), self.now, self.room)  # type: ignore[arg-type]

    def hears(self, flags: Flags, at: int, data: bytes = b"", **rest: object) -> tuple[int, int]:
        """Say something; return what is acknowledged, from the ISN on, and the window."""
        (answer,) = self.says(flags, at, data, **rest)
        assert answer.flags == ACK
        assert (answer.source_port, answer.destination_port) == (80, 40000)
        assert answer.seq == seq_add(ISS, 1)
        return seq_add(answer.ack, -IRS), answer.window

    def is_in(self, state: TcbState | None) -> bool:
        return self.core.state is state

    def opened(self) -> "Talk":
        assert self.says(ACK, 1) == []
        return self


def test_a_handshake_a_request_and_the_end() -> None:
    talk = Talk()
    answer = talk.core.syn_ack
    assert answer == Segment(
        80, 40000, ISS, seq_add(IRS, 1), SYN | ACK, window=100, options=Options(mss=1460)
    )
    assert talk.core.is_half_open
    assert talk.says(ACK, 1) == []
    assert talk.is_in(TcbState.ESTABLISHED)
    assert talk.hears(ACK | PSH, 1, b"GET /") == (6, 95)
    assert talk.hears(ACK | PSH, 6, b" HTTP/1.1\r\n") == (17, 84)
    assert talk.hears(ACK | FIN, 17) == (18, 84)
    assert talk.is_in(TcbState.CLOSE_WAIT)
    assert talk.core.received == b"GET / HTTP/1.1\r\n"
    tcb = talk.core.tcb()
    assert (tcb.state, tcb.rcv_nxt, tcb.rx) == (TcbState.CLOSE_WAIT, seq_add(IRS, 18), 16)
    assert (tcb.snd_una, tcb.snd_nxt) == (ISS + 1, ISS + 1)
    assert repr(talk.core) == "<Connection 10.77.0.100:40000 close-wait, 16 bytes>"


def test_the_request_may_complete_the_handshake() -> None:
    talk = Talk()
    assert talk.hears(ACK | PSH | FIN, 1, b"hello") == (7, 95)
    assert talk.is_in(TcbState.CLOSE_WAIT)


def test_a_syn_that_is_sent_again_is_answered_alike() -> None:
    talk = Talk(FULL, Options(1460, 7, True, Timestamps(1, 0)))
    talk.now += 1
    assert talk.says(SYN, 0, ack=None) == [talk.core.syn_ack]
    assert talk.says(ACK, 1, stamps=Timestamps(2, 1)) == []
    assert talk.hears(SYN, 0, ack=None)[0] == 1, "an old copy: it is told where things stand"


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (Options(), Options(1460)),
        (Options(500, 7, True, Timestamps(9, 0)), Options(1460, 7, True, Timestamps(10500, 9))),
        (Options(500, sack_permitted=True), Options(1460, sack_permitted=True)),
        (Options(500, window_scale=0), Options(1460, window_scale=7)),
    ],
)
def test_what_the_owner_can_go_on_with_is_negotiated(offered: Options, answered: Options) -> None:
    assert Talk(FULL, offered).core.syn_ack.options == answered
    assert Talk(PLAIN, offered).core.syn_ack.options == Options(1460)


def test_the_next_owner_is_told_all() -> None:
    talk = Talk(FULL, Options(1200, 3, True, Timestamps(9, 0)))
    assert talk.core.syn_ack.window == 0xFFFF, "that of a SYN is not scaled"
    tcb = talk.core.tcb()
    assert (tcb.state, tcb.snd_una, tcb.snd_nxt) == (TcbState.SYN_RECEIVED, ISS, ISS + 1)
    talk.now += 0.5
    (answer,) = talk.says(ACK, 1, b"x", stamps=Timestamps(20, 10500))
    assert answer.options == Options(timestamps=Timestamps(11000, 20))
    assert answer.window == 1 << 13, "rounded up: the edge does not move back"
    tcb = talk.core.tcb()
    assert (tcb.mss, tcb.snd_wscale, tcb.rcv_wscale, tcb.sack, tcb.ts) == (1200, 3, 7, True, True)
    assert (tcb.ts_val, tcb.ts_recent) == (11000, 20)
    assert (tcb.snd_wnd, tcb.rcv_wnd) == (8000, (1 << 20) - 1)
    assert (tcb.irs, tcb.iss, tcb.port, tcb.peer_port) == (IRS, ISS, 80, 40000)


@pytest.mark.parametrize(
    ("peer", "offered", "mss"),
    [
        ("10.0.0.1", None, 536),
        ("fd77::9", None, 1220),
        ("10.0.0.1", 1460, 1460),
        ("10.0.0.1", 0, 48),
    ],
)
def test_how_large_segments_may_be(peer: str, offered: int | None, mss: int) -> None:
    address = IPv6Address(peer) if ":" in peer else IPv4Address(peer)
    ends = replace(ENDS, local=address, peer=address)
    syn = Segment(40000, 80, IRS, 0, SYN, 1000, Options(offered))
    assert Connection(ends, syn, PLAIN, (1, 1), 0.0).tcb().mss == mss


def test_segments_that_overlap_or_come_again() -> None:
    talk = Talk().opened()
    assert talk.hears(ACK, 1, b"abc") == (4, 97)
    assert talk.hears(ACK, 1, b"abc") == (4, 97)
    assert talk.hears(ACK, 2, b"bcde") == (6, 95)
    assert talk.hears(ACK, 8, b"later") == (6, 95), "what is out of order is not kept"
    assert talk.hears(ACK | FIN, 8, b"later") == (6, 95)
    assert talk.hears(ACK, 6, b"fg") == (8, 93)
    assert talk.core.received == b"abcdefg"


def test_the_window_is_what_may_be_kept() -> None:
    talk = Talk().opened()
    assert talk.hears(ACK, 1, b"a" * 60) == (61, 40)
    assert talk.hears(ACK | FIN, 61, b"b" * 60) == (101, 0), "of what exceeds it, nothing"
    assert talk.hears(ACK, 101, b"c") == (101, 0), "a probe"
    assert talk.hears(ACK | FIN, 101) == (101, 0), "not even its end: it will come again"
    assert talk.says(ACK, 101) == []
    assert talk.is_in(TcbState.ESTABLISHED)
    assert talk.core.received == b"a" * 60 + b"b" * 40


def test_the_budget_of_all_is_kept_too() -> None:
    talk = Talk().opened()
    talk.room = 3
    assert talk.hears(ACK | FIN, 1, b"abcdef") == (4, 97)
    talk.room = 100
    assert talk.hears(ACK | FIN, 4, b"def") == (8, 94)
    assert talk.core.received == b"abcdef"


def test_a_keep_alive_is_answered() -> None:
    talk = Talk().opened()
    talk.hears(ACK, 1, b"abc")
    for data in (b"", b"c"):
        assert talk.hears(ACK, 3, data) == (4, 97)


def test_after_the_clients_end_nothing_more_comes() -> None:
    talk = Talk().opened()
    assert talk.hears(ACK | FIN, 1, b"abc") == (5, 97)
    assert talk.hears(ACK | FIN, 1, b"abc") == (5, 97), "sent again"
    assert talk.hears(ACK, 5, b"more") == (5, 97)
    assert talk.core.received == b"abc"


def test_resets() -> None:
    talk = Talk().opened()
    assert talk.hears(RST, 2) == (1, 100), "in the window but a guess: a challenge (RFC 5961)"
    assert talk.says(RST, 101) == talk.says(RST, 0) == talk.says(RST | SYN, 5) == []
    assert talk.is_in(TcbState.ESTABLISHED)
    assert talk.says(RST, 1) == []
    assert talk.is_in(None)
    assert talk.says(ACK, 1, b"hello?") == []
    assert repr(talk.core) == "<Connection 10.77.0.100:40000 closed, 0 bytes>"


def test_a_reset_ends_a_handshake_too() -> None:
    talk = Talk()
    assert talk.says(RST, 1) == []
    assert talk.is_in(None)
    assert talk.core.deadline() is None


def test_what_acknowledges_what_was_never_sent() -> None:
    talk = Talk()
    (answer,) = talk.says(ACK, 1, ack=5)
    assert (answer.flags, answer.seq) == (RST, ISS + 5), "half-open: the number is not ours"
    assert talk.core.is_half_open
    talk.opened()
    assert talk.hears(ACK, 1, b"abc", ack=2) == (1, 100)
    assert talk.core.received == b""


def test_what_has_no_acknowledgement_is_nothing() -> None:
    talk = Talk().opened()
    assert talk.says(PSH, 1, b"abc") == []


def test_the_clients_window_is_that_of_its_latest_segment() -> None:
    talk = Talk().opened()
    talk.hears(ACK, 1, b"abc", window=500)
    talk.hears(ACK, 3, b"cd", window=9)
    assert talk.core.tcb().snd_wnd == 9
    talk.hears(ACK, 1, b"abcdef", window=7)
    assert talk.core.tcb().snd_wnd == 9, "an older one"


def test_old_segments_are_known_by_their_time() -> None:
    talk = Talk(FULL, Options(1460, timestamps=Timestamps(100, 0)))
    assert talk.says(ACK, 1, stamps=Timestamps(101, 1)) == []
    (answer,) = talk.says(ACK, 1, b"old", stamps=Timestamps(99, 1))
    assert answer.ack == seq_add(IRS, 1)
    (answer,) = talk.says(ACK, 1, b"without")
    assert answer.ack == seq_add(IRS, 1)
    talk.says(ACK, 3, b"ahead", stamps=Timestamps(300, 1))
    assert talk.core.tcb().ts_recent == 101, "only what is in order counts"
    assert talk.says(RST, 1) == [], "a reset needs none"
    assert talk.is_in(None)


def test_the_syn_ack_is_sent_again_and_then_no_more() -> None:
    talk = Talk()
    due = []
    while (at := talk.core.deadline()) is not None:
        assert talk.core.tick(at - 0.001) == []
        due.append((at - 10.0, talk.core.tick(at)))
    again = [talk.core.syn_ack]
    assert due == [(1.0, again), (3.0, again), (7.0, again), (15.0, [])]
    assert len(due) == SYN_ACK_TRIES
    assert due[0][0] == SYN_ACK_RETRY
    assert talk.is_in(None)
    assert Talk().opened().core.deadline() is None


def test_who_is_let_down_is_told() -> None:
    talk = Talk().opened()
    talk.hears(ACK, 1, b"abc")
    reset = talk.core.abort()
    assert (reset.flags, reset.seq, reset.ack) == (RST | ACK, ISS + 1, seq_add(IRS, 4))
    assert talk.is_in(None)


@pytest.mark.parametrize("seed", range(20))
def test_any_segments_in_any_order(seed: int) -> None:
    """What is acknowledged is what was sent, in order, and the edge never moves."""
    chance = Random(seed)
    text = chance.randbytes(300)
    talk = Talk()
    known = 1
    for _ in range(400):
        at = chance.randrange(0, 120) + 1
        size = chance.choice([0, 1, 5, 60])
        flags = chance.choice([ACK, ACK, ACK, ACK | PSH, ACK | FIN, PSH, SYN, SYN | ACK])
        if flags & FIN and at - 1 + size != len(text):
            flags = ACK
        data = b"" if flags & SYN else text[at - 1 : at - 1 + size]
        talk.room = chance.choice([0, 3, 1000])
        for answer in talk.says(flags, at, data, ack=chance.choice([1, 1, 1, 0, 2])):
            if answer.flags == ACK:
                acknowledged = seq_add(answer.ack, -IRS)
                assert acknowledged >= known
                assert acknowledged + answer.window == 101
                known = acknowledged
        assert talk.core.received == text[: len(talk.core.received)]
        assert len(talk.core.received) <= 100
    assert talk.core.tcb().rx == len(talk.core.received)
