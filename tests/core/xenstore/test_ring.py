"""The page of a ring: wrap-around, and what a hostile guest writes into it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.xenstore.ring_guest import (
    ERROR,
    FEATURES,
    MASK,
    REQ_CONS,
    REQ_PROD,
    RSP_CONS,
    RSP_PROD,
    STATE,
    RingGuest,
)
from jitsu.core.xenstore import ring
from jitsu.core.xenstore.ring import RING, Ring
from jitsu.errors import WireError

COUNTS = st.one_of(st.integers(0, 3000), st.integers(MASK - 3000, MASK))


def served(guest: RingGuest) -> Ring:
    return Ring(memoryview(guest.page))


@given(COUNTS, st.lists(st.binary(max_size=RING), max_size=8))
def test_bytes_come_as_they_were_sent(start: int, pieces: list[bytes]) -> None:
    guest = RingGuest(start)
    server = served(guest)
    for piece in pieces:
        guest.outgoing = piece
        assert guest.write() == len(piece)
        assert server.waiting() == piece
        half = len(piece) // 2
        server.consume(half)
        assert server.waiting() == piece[half:]
        server.consume(len(piece) - half)
        assert server.waiting() == b""
        assert guest.get(REQ_CONS) == guest.get(REQ_PROD) == server.consumed
        assert server.room == RING
        server.produce(piece)
        assert server.room == RING - len(piece)
        assert guest.get(RSP_PROD) == server.produced
        consumed = guest.get(RSP_CONS)
        seen = bytes(guest.page[RING + (consumed + i) % RING] for i in range(len(piece)))
        assert seen == piece
        guest.set(RSP_CONS, consumed + len(piece))


@given(COUNTS, st.integers(RING + 1, MASK))
def test_counts_that_cannot_be(start: int, much: int) -> None:
    guest = RingGuest(start)
    server = served(guest)
    guest.set(REQ_PROD, start + much)
    with pytest.raises(WireError, match="bytes of requests"):
        server.waiting()
    guest.set(RSP_CONS, start - much)
    with pytest.raises(WireError, match="bytes of replies"):
        _ = server.room


@given(st.lists(st.tuples(st.integers(0, 4092), st.integers(0, MASK)), max_size=20))
def test_nothing_that_a_guest_writes_can_do_more(scribbles: list[tuple[int, int]]) -> None:
    guest = RingGuest()
    server = served(guest)
    for at, value in scribbles:
        guest.set(at, value)
        try:
            data = server.waiting()
            room = server.room
        except WireError:
            continue
        assert len(data) <= RING
        assert 0 <= room <= RING
        server.consume(len(data))
        server.produce(bytes(room))


def test_our_counts_are_not_the_guests_to_change() -> None:
    guest = RingGuest()
    server = served(guest)
    guest.outgoing = b"hello"
    guest.write()
    guest.set(REQ_CONS, 3)
    guest.set(RSP_PROD, 99)
    assert server.waiting() == b"hello"
    server.consume(5)
    server.produce(b"x")
    assert (guest.get(REQ_CONS), guest.get(RSP_PROD)) == (5, 1)


def test_what_the_guest_is_told() -> None:
    guest = RingGuest(7)
    guest.set(ERROR, 3)
    server = served(guest)
    assert guest.get(FEATURES) == ring.RECONNECTION | ring.ERROR
    assert guest.get(ERROR) == ring.NO_ERROR
    server.fail(ring.INDICES)
    assert guest.get(ERROR) == ring.INDICES
    guest.set(STATE, 1)
    wanted = server.wants_reset
    server.reset()
    assert (wanted, server.wants_reset) == (True, False)
    fields = (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, STATE, ERROR)
    assert [guest.get(at) for at in fields] == [0] * 6
    assert repr(server) == "<Ring 0 bytes in, 0 out>"
    server.release()
    guest.page += b"can grow, for nobody looks at it"
