"""The table of connections that wait for a guest: whole frames in, whole frames out."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from core.test_connection import ACK, ENDS, FIN, PSH, RST, SYN
from jitsu.core.flows import Budget, Flows, Key
from jitsu.core.segment import Ends, decode, encode
from jitsu.errors import WireError
from jitsu.model import Terms
from jitsu.wire.tcb import TcbState
from jitsu.wire.tcp import Flags, Options, Segment, seq_add

NONE, SIZE = Options(), Options(mss=1400)
ROOM = 64
TERMS = Terms(connections=ROOM, window=100)


class Client:
    """One client of a table."""

    def __init__(self, flows: Flows, number: int = 0) -> None:
        self.flows = flows
        self.ends = replace(ENDS, peer=IPv4Address("10.77.0.100") + number).turned()
        self.key: Key = (self.ends.local.packed, self.ends.port, self.ends.peer_port)
        self.isn = 1000
        self.theirs = 0

    def frame(self, flags: Flags, at: int, data: bytes = b"", options: Options = NONE) -> bytes:
        ack = seq_add(self.theirs, 1) if flags & ACK else 0
        seq = self.isn + at
        return encode(self.ends, Segment(40000, 80, seq, ack, flags, 1000, options, data))

    def heard(self, frames: list[bytes] | None) -> list[Segment]:
        assert frames is not None
        segments = []
        for each in frames:
            ends, segment = decode(each)
            assert ends == self.ends
            segments.append(segment)
        return segments

    def opens(self, now: float = 0.0, options: Options = SIZE) -> Segment:
        (answer,) = self.heard(self.flows.open(self.key, self.frame(SYN, 0, options=options), now))
        assert answer.flags == SYN | ACK
        self.theirs = answer.seq
        return answer

    def says(self, flags: Flags, at: int, data: bytes = b"", now: float = 0.0) -> list[Segment]:
        return self.heard(self.flows.take(self.key, self.frame(flags, at, data), now))


def table(terms: Terms = TERMS, most: int = 1000) -> Flows:
    return Flows(terms, Budget(most), b"secret")


def ports(ends: tuple[Ends, ...]) -> list[str]:
    return [str(each.peer) for each in ends]


def test_a_connection_is_opened_filled_and_handed_over() -> None:
    flows = table()
    client = Client(flows)
    client.opens()
    assert (len(flows), flows.established(), len(flows.half_open())) == (1, (), 1)
    assert client.says(ACK, 1) == []
    assert flows.news() == ((client.ends.turned(),), ())
    assert flows.news() == ((), ())
    assert flows.established() == (client.ends.turned(),)
    (answer,) = client.says(ACK | PSH, 1, b"hello")
    assert answer.ack == 1006
    (flow,) = flows.hand_over()
    assert (flow.received, flow.tcb.state, flow.tcb.rx) == (b"hello", TcbState.ESTABLISHED, 5)
    assert (len(flows), flows.deadline(), flows.hand_over()) == (0, None, ())
    assert flows.take(client.key, client.frame(ACK, 6), 0.0) is None


def test_who_does_not_answer_is_asked_again_and_forgotten() -> None:
    flows = table()
    client = Client(flows)
    first = client.opens()
    sent = []
    while (at := flows.deadline()) is not None:
        sent += client.heard(flows.tick(at))
    assert sent == [first] * 3
    assert (len(flows), flows.half_open(), flows.news()) == (0, (), ((), ()))


def test_a_client_may_begin_anew() -> None:
    flows = table()
    client = Client(flows)
    first = client.opens()
    client.isn = 5000
    second = client.opens()
    assert (first.ack, second.ack, len(flows)) == (1001, 5001, 1)
    client.says(ACK, 1)
    client.isn = 9000  # not when the connection is open: it is challenged (RFC 5961 section 4)
    (challenge,) = client.heard(flows.open(client.key, client.frame(SYN, 0), 0.0))
    assert (challenge.flags, challenge.ack) == (ACK, 5001)


def test_a_client_that_ends_it_is_forgotten() -> None:
    flows = table()
    client = Client(flows)
    client.opens()
    client.says(ACK, 1, b"abc")
    client.says(RST, 4)
    assert (len(flows), flows.knows(client.key), flows._budget.used) == (0, False, 0)
    assert flows.news() == ((client.ends.turned(),), (client.ends.turned(),))


def test_the_budget_is_of_all() -> None:
    flows = table(most=8)
    one, other = Client(flows, 1), Client(flows, 2)
    for each in (one, other):
        each.opens()
    answers = [each.says(ACK, 1, b"hello")[0] for each in (one, other)]
    assert [answer.ack for answer in answers] == [1006, 1004], "five bytes, and three"
    assert flows._budget.room == 0
    resets = flows.abort()
    assert [one.heard([each])[0].flags for each in resets[:1]] == [RST | ACK]
    assert (len(resets), flows._budget.used) == (2, 0)
    assert ports(flows.news()[1]) == ["10.77.0.101", "10.77.0.102"]


def flooded() -> Flows:
    """Return a table that is full of clients that will not answer."""
    flows = table()
    for number in range(ROOM):
        Client(flows, number).opens(options=Options(1400, window_scale=7))
    return flows


def test_a_flood_does_not_keep_clients_out() -> None:
    flows = flooded()
    for number in range(5000):
        Client(flows, 1000 + number).opens()
    assert len(flows) == len(flows.half_open()) == ROOM
    assert flows.is_full
    assert flows.is_unanswered
    client = Client(flows, 9000)
    answer = client.opens(options=Options(1400, window_scale=7))
    assert answer.options == Options(mss=1460), "a cookie remembers no more than the size"
    (answer,) = client.says(ACK | PSH, 1, b"hello", now=1.0)
    assert answer.ack == 1006
    assert (client.ends.turned(),) == flows.established()
    held = [flows.knows(Client(flows, number).key) for number in range(ROOM)]
    assert held == [False] + [True] * (ROOM - 1), "who has not answered for longest goes for it"
    flow = flows.hand_over()[-1]
    assert (flow.received, flow.tcb.mss, flow.tcb.iss) == (b"hello", 1360, client.theirs)


@pytest.mark.parametrize(
    ("flags", "at", "wrong", "now"),
    [(ACK, 1, 5, 1.0), (ACK, 2, 0, 1.0), (ACK | RST, 1, 0, 1.0), (ACK, 1, 0, 200.0)],
    ids=["another's number", "of another SYN", "a reset", "too late"],
)
def test_what_brings_no_cookie_back(flags: Flags, at: int, wrong: int, now: float) -> None:
    flows = flooded()
    client = Client(flows, 9000)
    client.opens()
    client.theirs += wrong
    assert flows.take(client.key, client.frame(flags, at), now) is None
    assert len(flows.half_open()) == ROOM


def test_a_cookie_takes_no_clients_place_who_has_answered() -> None:
    flows = table()
    for number in range(ROOM):
        each = Client(flows, number)
        each.opens()
        each.says(ACK, 1)
    assert not flows.is_unanswered
    client = Client(flows, 9000)
    client.opens(options=Options())
    assert flows.take(client.key, client.frame(ACK, 1), 1.0) is None
    assert len(flows.established()) == ROOM


def test_a_cookie_that_answers_with_its_end() -> None:
    flows = flooded()
    client = Client(flows, 9000)
    client.opens()
    (answer,) = client.says(ACK | FIN, 1, b"bye", now=1.0)
    assert answer.ack == 1005


def test_a_cookie_costs_nobody_his_place_when_there_is_room_again() -> None:
    flows = flooded()
    client = Client(flows, 9000)
    client.opens()
    first = Client(flows)
    flows.take(first.key, first.frame(RST, 1), 1.0)
    assert client.says(ACK, 1, now=1.0) == []
    assert len(flows) == len(flows.half_open()) + 1 == ROOM


def test_a_client_that_was_answered_twice_may_acknowledge_either() -> None:
    for acknowledged in (0, 1):
        flows = flooded()
        client = Client(flows, 9000)
        answers = [client.opens()]  # by a cookie, which is long on its way
        first = Client(flows)
        flows.take(first.key, first.frame(RST, 1), 1.0)  # and there is room
        answers.append(client.opens(now=1.0))
        assert answers[0].seq != answers[1].seq
        client.theirs = answers[acknowledged].seq
        assert client.says(ACK, 1, now=1.0) == []
        assert flows.established() == (client.ends.turned(),)
        assert len(flows) == ROOM


def test_damaged_segments() -> None:
    flows = table()
    client = Client(flows)
    client.opens()
    data = bytearray(client.frame(ACK, 1, b"hello"))
    data[-1] ^= 1
    with pytest.raises(WireError, match="checksum"):
        flows.take(client.key, bytes(data), 0.0)
    for wrong in (b"", bytes(60), client.frame(SYN, 0)[:-1]):
        with pytest.raises(WireError):
            flows.open(client.key, wrong, 0.0)
