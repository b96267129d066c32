from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.errors import WireError
from jitsu.wire import storelink
from jitsu.wire.storelink import Segment, is_before, successor
from wire.strategies import damaged, payloads, words32

segments = st.builds(
    Segment,
    session=st.integers(1, 0xFFFF_FFFF),
    sequence=words32,
    acknowledged=words32,
    data=payloads,
    open=st.booleans(),
    reset=st.booleans(),
)
HELLO = Segment(0x01020304, 5, 6, b"hello", open=True)
BYTES = bytes.fromhex("01010005 01020304 00000005 00000006") + b"hello"


@given(segments, st.binary(max_size=40))
def test_round_trip_with_padding(segment: Segment, padding: bytes) -> None:
    data = storelink.encode(segment)
    assert storelink.decode(data) == segment
    assert storelink.decode(memoryview(data + padding)) == segment


@given(st.binary(max_size=40) | damaged(segments.map(storelink.encode)))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        segment = storelink.decode(data)
        assert storelink.decode(storelink.encode(segment)) == segment


def test_every_field_has_its_place() -> None:
    assert storelink.encode(HELLO) == BYTES
    assert storelink.decode(BYTES) == HELLO
    reset = bytes.fromhex("01020000 ffffffff 00000000 00000000")
    assert storelink.encode(Segment(0xFFFF_FFFF, reset=True)) == reset


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "segment of 0 bytes"),
        (BYTES[:15], "segment of 15 bytes"),
        (b"\0" + BYTES[1:], "version 0"),
        (b"\2" + BYTES[1:], "version 2"),
        (b"\1\4" + BYTES[2:], "flags 0x4"),
        (BYTES[:-1], "data of 5 bytes in a frame with 20"),
        (BYTES[:2] + (1401).to_bytes(2) + bytes(1480), "data of 1401 bytes"),
        (BYTES[:4] + bytes(12) + b"hello", "session 0"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        storelink.decode(data)


def test_the_longest() -> None:
    longest = Segment(1, data=bytes(1400))
    assert storelink.decode(storelink.encode(longest)) == longest
    with pytest.raises(AssertionError):
        storelink.encode(Segment(1, data=bytes(1401)))
    with pytest.raises(AssertionError):
        storelink.encode(Segment(0))


@given(words32, st.integers(1, 2**31 - 1))
def test_numbers_wrap(number: int, steps: int) -> None:
    later = (number + steps) % 2**32
    assert is_before(number, later)
    assert not is_before(later, number)
    assert not is_before(number, number)
    assert is_before(number, successor(number))


def test_the_number_after_the_last_is_the_first() -> None:
    assert successor(0xFFFF_FFFF) == 0
