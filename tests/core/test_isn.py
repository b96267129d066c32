"""Initial sequence numbers: unguessable, growing, and those that carry a connection."""

from dataclasses import replace
from random import Random

import pytest

from core.test_connection import ENDS
from jitsu.core import isn

SECRET = b"0123456789abcdef"


def test_numbers_of_one_pair_of_ends_grow() -> None:
    first, stamp = isn.first_numbers(ENDS, SECRET, 100.0)
    later, same = isn.first_numbers(ENDS, SECRET, 100.5)
    assert (later - first) & 0xFFFF_FFFF == 125_000
    assert stamp == same


def test_those_of_another_tell_nothing() -> None:
    others = [replace(ENDS, peer_port=p) for p in range(1000, 1100)]
    numbers = {isn.first_numbers(each, SECRET, 0.0) for each in others}
    numbers |= {isn.first_numbers(each, b"another", 0.0) for each in others}
    assert len(numbers) == 200


@pytest.mark.parametrize(("offered", "kept"), [(1460, 1460), (9000, 1460), (1459, 1440), (0, 48)])
def test_a_cookie_keeps_the_segment_size(offered: int, kept: int) -> None:
    number = isn.cookie(ENDS, 77, offered, SECRET, 1000.0)
    assert isn.baked(ENDS, number, 77, SECRET, 1000.0) == kept


def test_a_cookie_is_good_for_its_period_and_the_next() -> None:
    number = isn.cookie(ENDS, 77, 1460, SECRET, 640.0)
    fresh = [isn.baked(ENDS, number, 77, SECRET, now) for now in (640.0, 703.0, 767.0)]
    assert fresh == [1460] * 3
    assert isn.baked(ENDS, number, 77, SECRET, 768.0) is None
    assert isn.baked(ENDS, number, 77, SECRET, 639.0) is None


def test_a_cookie_is_of_one_connection() -> None:
    number = isn.cookie(ENDS, 77, 1460, SECRET, 0.0)
    assert isn.baked(replace(ENDS, port=81), number, 77, SECRET, 0.0) is None
    assert isn.baked(ENDS, number, 78, SECRET, 0.0) is None
    assert isn.baked(ENDS, number, 77, b"other", 0.0) is None


def test_guesses_fail() -> None:
    chance = Random(1)
    guesses = (isn.baked(ENDS, chance.getrandbits(32), 77, SECRET, 0.0) for _ in range(20_000))
    assert not any(guesses)
