"""The time-stamp counter of this CPU."""

import platform

import pytest

from jitsu.backends.qemu_tsc import Counter


@pytest.mark.skipif(platform.machine() != "x86_64", reason="this machine has no such counter")
def test_it_counts_as_fast_as_it_did() -> None:
    counter = Counter()
    first, again = counter.khz(), counter.khz()
    assert 100_000 < first < 10_000_000
    assert abs(first - again) / first < 0.01
