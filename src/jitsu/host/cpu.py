"""On which processor somebody runs."""

import ctypes
import os
from contextlib import suppress

_libc = ctypes.CDLL(None, use_errno=True)
_WORD = 64
_usable = os.sched_getaffinity(0)


def usable() -> bytes:
    """Return the processors that we may use, and whoever we start, as sched_setaffinity(2) does."""
    words = -(-(max(_usable) + 1) // _WORD)
    return sum(1 << cpu for cpu in _usable).to_bytes(words * _WORD // 8, "little")


def move_aside(pid: int) -> None:
    """Have a process that sleeps wake on another processor than ours, if we may use another.

    The kernel likes to wake a process where it is woken from. Where both have work for one client
    that makes them wait for each other, while others are idle. It is for the process to go back to
    what is `usable`.
    """
    others = _usable - {_libc.sched_getcpu()}
    with suppress(OSError):  # it has gone, or the processors are not what they were (cpuset(7))
        if others:
            os.sched_setaffinity(pid, others)
