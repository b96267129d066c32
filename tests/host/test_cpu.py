"""On which processors a launcher wakes, and its program runs."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jitsu.host.cpu import USABLE, move_aside

OURS = os.sched_getaffinity(0)


@contextmanager
def asleep() -> Iterator[int]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_what_is_usable_is_what_the_kernel_takes() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with asleep() as pid:
        os.sched_setaffinity(pid, {min(OURS)})
        assert libc.sched_setaffinity(pid, len(USABLE), USABLE) == 0
        assert os.sched_getaffinity(pid) == OURS


@pytest.mark.parametrize("cpu", sorted(OURS))
def test_it_wakes_where_we_are_not(cpu: int) -> None:
    try:
        os.sched_setaffinity(0, {cpu})
        with asleep() as pid:
            move_aside(pid)
            assert os.sched_getaffinity(pid) == (OURS - {cpu} or OURS)
    finally:
        os.sched_setaffinity(0, OURS)


def test_who_has_gone_is_nowhere() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    move_aside(process.pid)
