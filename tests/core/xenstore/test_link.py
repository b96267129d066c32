"""The host's end of the store link: conversations, then bad weather."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.xenstore.between import Between, Weather
from jitsu.core.xenstore.guest_end import GuestEnd
from jitsu.core.xenstore.link import (
    QUEUE_BYTES_MAX,
    Closed,
    Effect,
    Opened,
    Received,
    Send,
    StoreLink,
)
from jitsu.wire.storelink import DATA_BYTES_MAX, Segment, decode, encode

MINE, OTHER = 0x11111111, 0x22222222


def guest(link: StoreLink, segment: Segment, now: float = 0.0) -> list[Effect | Segment]:
    """What the guest's segment brings about; payloads are told as what they mean."""
    return told(link.handle(encode(segment), now))


def told(effects: list[Effect]) -> list[Effect | Segment]:
    return [decode(effect.payload) if isinstance(effect, Send) else effect for effect in effects]


@pytest.fixture
def link() -> StoreLink:
    """A link whose guest has said `hi`."""
    link = StoreLink()
    said = guest(link, Segment(MINE, 0, 0, b"hi", open=True))
    assert said == [Opened(), Received(b"hi")]
    return link


def test_an_answer_takes_the_acknowledgement_along(link: StoreLink) -> None:
    assert told(link.send(b"there", 0.0)) == [Segment(MINE, 0, 1, b"there")]
    assert link.deadline() == 0.010
    assert guest(link, Segment(MINE, 1, 1)) == []
    assert link.deadline() is None


def test_without_an_answer_it_goes_alone(link: StoreLink) -> None:
    assert link.deadline() == 0.0
    assert told(link.tick(0.0)) == [Segment(MINE, 0, 1)]
    assert link.deadline() is None
    assert link.tick(1.0) == []


def test_it_also_goes_alone_when_something_is_under_way(link: StoreLink) -> None:
    link.send(b"one", 0.0)
    assert guest(link, Segment(MINE, 1, 0, b"more"), 0.001) == [Received(b"more")]
    assert link.send(b"two", 0.001) == []
    assert link.deadline() == 0.001
    assert told(link.tick(0.001)) == [Segment(MINE, 1, 2)]  # "one" is 0, "two" will be 1
    assert guest(link, Segment(MINE, 2, 1), 0.002) == [Segment(MINE, 1, 2, b"two")]


def test_an_acknowledgement_brings_the_next_segment(link: StoreLink) -> None:
    data = bytes(range(256)) * 11
    assert told(link.send(data, 0.0)) == [Segment(MINE, 0, 1, data[:1400])]
    assert guest(link, Segment(MINE, 1, 1), 0.0) == [Segment(MINE, 1, 1, data[1400:2800])]
    assert guest(link, Segment(MINE, 1, 1), 0.0) == []  # the same once more
    assert guest(link, Segment(MINE, 1, 9), 0.0) == []  # not sent yet
    assert guest(link, Segment(MINE, 1, 2), 0.0) == [Segment(MINE, 2, 1, data[2800:])]


def test_what_came_before_is_acknowledged_again(link: StoreLink) -> None:
    link.tick(0.0)
    assert guest(link, Segment(MINE, 0, 0, b"hi", open=True), 0.5) == []
    assert told(link.tick(0.5)) == [Segment(MINE, 0, 1)]


def test_what_is_out_of_turn_is_dropped(link: StoreLink) -> None:
    link.tick(0.0)
    assert guest(link, Segment(MINE, 2, 0, b"later")) == []
    assert link.deadline() is None
    assert link.rubbish == 1


def test_rubbish_is_dropped(link: StoreLink) -> None:
    link.tick(0.0)
    assert link.handle(b"rubbish", 0.0) == []
    assert link.handle(encode(Segment(MINE, 1, 0, b"ab"))[:-1], 0.0) == []
    assert link.rubbish == 2
    assert link.deadline() is None


def test_ten_tries(link: StoreLink) -> None:
    link.send(b"there", 0.0)
    at = []
    for _ in range(9):
        now = link.deadline()
        assert now is not None
        at.append(now)
        assert link.tick(now - 0.001) == []
        assert told(link.tick(now)) == [Segment(MINE, 0, 1, b"there")]
    waits = [end - start for start, end in zip([0.0, *at], at, strict=False)]
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.64, 0.64])
    assert link.deadline() == pytest.approx(3.19)
    assert told(link.tick(3.2)) == [
        Closed("no answer to 10 tries"),
        Segment(MINE, reset=True),
    ]
    assert link.retransmits == 9
    assert link.deadline() is None


def test_an_empty_first_segment_opens_too() -> None:
    link = StoreLink()
    assert guest(link, Segment(MINE, open=True)) == [Opened()]
    assert told(link.tick(0.0)) == [Segment(MINE)]


def test_a_new_session_replaces_the_old_one(link: StoreLink) -> None:
    link.send(b"never read", 0.0)
    assert guest(link, Segment(OTHER, 0, 0, b"hello", open=True)) == [
        Closed("the guest has begun a new session"),
        Opened(),
        Received(b"hello"),
    ]
    assert told(link.send(b"there", 0.0)) == [Segment(OTHER, 0, 1, b"there")]


def test_frames_of_an_earlier_session_disturb_nobody(link: StoreLink) -> None:
    guest(link, Segment(OTHER, 0, 0, b"hello", open=True))
    late = Segment(MINE, 0, 0, b"hi", open=True)
    assert guest(link, late) == [Segment(MINE, reset=True)]
    assert guest(link, Segment(MINE, reset=True)) == []
    assert guest(link, Segment(OTHER, 1, 0, b"!")) == [Received(b"!")]


@pytest.mark.parametrize(
    "segment",
    [
        Segment(OTHER, 1, 0, b"data"),
        Segment(OTHER, 0, 0, b"data"),
        Segment(OTHER, 1, 0, b"data", open=True),
        Segment(OTHER, 5, 5),
    ],
)
def test_an_unknown_session_is_reset(link: StoreLink, segment: Segment) -> None:
    assert guest(link, segment) == [Segment(OTHER, reset=True)]
    assert guest(StoreLink(), segment) == [Segment(OTHER, reset=True)]
    assert guest(link, Segment(MINE, 1, 0, b"!")) == [Received(b"!")]


def test_a_reset_ends_the_session_and_is_not_answered(link: StoreLink) -> None:
    assert guest(link, Segment(MINE, reset=True)) == [Closed("the guest has ended the session")]
    assert guest(link, Segment(MINE, reset=True)) == []
    assert link.send(b"anyone?", 0.0) == []
    assert not link.is_open


def test_closing(link: StoreLink) -> None:
    assert told(link.close(0.0)) == [Closed("closed by the host"), Segment(MINE, reset=True)]
    assert link.close(0.0) == []
    assert link.deadline() is None
    # The RESET may be lost: the guest asks on, is told again, and begins anew.
    assert guest(link, Segment(MINE, 1, 0, b"more")) == [Segment(MINE, reset=True)]
    assert guest(link, Segment(OTHER, open=True)) == [Opened()]


def test_a_guest_that_does_not_read_is_closed(link: StoreLink) -> None:
    link.send(bytes(1400), 0.0)  # under way, no longer in the queue
    assert link.send(bytes(QUEUE_BYTES_MAX), 0.0) == []
    assert told(link.send(b"!", 0.0)) == [
        Closed("the guest leaves 1048577 bytes unread"),
        Segment(MINE, reset=True),
    ]


def test_repr(link: StoreLink) -> None:
    link.send(bytes(1500), 0.0)
    assert repr(StoreLink()) == "<StoreLink closed>"
    assert repr(link) == "<StoreLink session 11111111, 1 segments in, 0 out, 100 bytes wait>"


# In bad weather.

# A fifth of all tries fails, there or back: once in ten million times all ten do.
BAD = Weather(loss=0.1, duplicate=0.2, jitter=0.02)


@pytest.mark.parametrize("seed", range(150))
def test_every_byte_arrives_once_and_in_order(seed: int) -> None:
    between = Between(BAD, seed)
    there, back = (Random(seed + i).randbytes(20_000) for i in (1000, 2000))
    between.guest_sends(there[:1])
    between.run()
    for at in range(0, 20_000, 5_000):
        between.guest_sends(there[max(1, at) : at + 5_000])
        between.host_sends(back[at : at + 5_000])
        for _ in range(between.random.randint(0, 30)):
            between.step()
    between.run()
    assert between.received == there
    assert between.guest.received == back
    assert (between.opened, between.closed) == (1, [])


@settings(max_examples=30, derandomize=True)
@given(st.integers(0, 2**32), st.floats(0, 0.15), st.floats(0, 0.4), st.floats(0, 0.05))
def test_requests_are_answered(seed: int, loss: float, duplicate: float, jitter: float) -> None:
    between = Between(Weather(loss, duplicate, jitter), seed)
    between.on_data = lambda data: data[::-1]
    for i in range(10):
        between.guest_sends(bytes([i]))
        between.run()
    assert between.received == between.guest.received == bytes(range(10))
    assert between.closed == []


@pytest.mark.parametrize("seed", range(50))
def test_sessions_do_not_mix(seed: int) -> None:
    """A guest that starts over and over is heard as of its last start, whatever comes late."""
    between = Between(Weather(loss=0.2, duplicate=0.3, jitter=0.5), seed)
    for life in range(5):
        between.guest.begin()
        between.guest_sends(bytes([life]) * 5_000)
        while between.opened <= life:
            between.step()
        for _ in range(between.random.randint(0, 20)):
            between.step()
    between.run()
    assert (between.opened, len(between.closed)) == (5, 4)
    assert between.guest.resets == 0
    assert between.received.endswith(bytes([4]) * 5_000)
    assert between.received.count(4) == 5_000
    between.host_sends(b"still there?")
    between.run()
    assert between.guest.received.endswith(b"still there?")


def test_a_guest_that_died_is_given_up() -> None:
    between = Between(Weather(), 1)
    between.guest_sends(b"x")
    between.run()
    between.weather = Weather(loss=1.0)
    between.host_sends(b"y")
    between.run()
    assert between.closed == ["no answer to 10 tries"]


def test_a_host_that_forgot_makes_the_guest_begin_anew() -> None:
    between = Between(Weather(), 1)
    between.guest_sends(b"x")
    between.run()
    between.host = StoreLink()
    between.guest_sends(b"y")
    between.run()
    assert between.guest.resets == 1
    between.guest_sends(b"z")
    between.run()
    assert between.received == b"xz"
    assert between.opened == 2


def test_the_guest_drops_what_makes_no_sense() -> None:
    end = GuestEnd(draw=lambda: MINE)
    (first,) = end.send(bytes(2_000), 0.0)
    assert decode(first) == Segment(MINE, 0, 0, bytes(DATA_BYTES_MAX), open=True)
    assert end.handle(b"rubbish", 0.0) == []
    assert end.handle(encode(Segment(OTHER, reset=True)), 0.0) == []
    assert end.resets == 0
    (second,) = end.handle(encode(Segment(MINE, 0, 1)), 0.0)
    assert decode(second) == Segment(MINE, 1, 0, bytes(2_000 - DATA_BYTES_MAX))


def test_somebody_else_goes_on_with_a_session() -> None:
    heir = GuestEnd.resumed(MINE, 7, 5, b"last word")
    assert heir.retry_at == 0.0
    (again,) = heir.tick(1.0)
    assert decode(again) == Segment(MINE, 7, 5, b"last word")
    (heard,) = heir.handle(encode(Segment(MINE, 5, 8, b"yes")), 1.0)
    assert decode(heard) == Segment(MINE, 8, 6)
    assert heir.retry_at == float("inf")
    assert GuestEnd.resumed(MINE, 7, 5, b"").retry_at == float("inf")
