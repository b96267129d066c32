"""On which processor somebody runs."""

import ctypes
import os
from contextlib import suppress

_libc = ctypes.CDLL(None, use_errno=True)
_usable = os.sched_getaffinity(0)
_WORD_BYTES = 8
_WORDS = max(_usable) // (8 * _WORD_BYTES) + 1
USABLE = sum(1 << cpu for cpu in _usable).to_bytes(_WORDS * _WORD_BYTES, "little")
"""The processors that we may use, and whoever we start, as sched_setaffinity(2) has them."""


def move_aside(pid: int) -> None:
    """Have a process that sleeps wake on another processor than ours, if we may use another.

    The kernel likes to wake a process where it is woken from. Where both have work for one client
    that makes them wait for each other, while others are idle. It is for the process to go back to
    what is `USABLE`.
    """
    others = _usable - {_libc.sched_getcpu()}
    with suppress(OSError):  # it has gone, or the processors are not what they were (cpuset(7))
        if others:
            os.sched_setaffinity(pid, others)
