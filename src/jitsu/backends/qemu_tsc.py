"""How fast this CPU's time-stamp counter counts.

Linux has to know it before it has any clock. On QEMU's microvm it can only measure the counter
against the PIT, and takes no measurement in which one reading took ten times longer than another:
a thread of QEMU's that was preempted once. What follows waits for a tick of a timer that was never
started, without end. On a busy host that is the fate of most boots; so Linux is told. TCG gives a
guest the host's own counter (QEMU, cpu_get_tsc).
"""

import ctypes
import mmap
import platform
import time
from collections.abc import Callable

_READ = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_SAMPLES = 8
_APART = 0.02
"""Seconds between two readings, at least: then they are right to a few parts in 100,000."""


class Counter:
    """The counter, as far as it can be read."""

    def __init__(self) -> None:
        """Read it for the first time."""
        self._memory = _executable(_READ)
        self._read: Callable[[], int] = int
        if self._memory is not None:
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            self._read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
        self._first = self._sample()

    def khz(self) -> int:
        """Return how many thousand times it counts in a second, 0 where that is not known.

        Sleeps if less than 20 ms have passed since the first reading.
        """
        while True:
            seconds, count = self._sample()
            passed = seconds - self._first[0]
            if passed >= _APART:
                return round((count - self._first[1]) / passed / 1e3)
            time.sleep(_APART - passed)

    def _sample(self) -> tuple[float, int]:
        """Return a time and what the counter showed then: the best of some tries."""
        tries = []
        for _ in range(_SAMPLES):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            count = self._read()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            tries.append((after - before, (before + after) / 2e9, count))
        _, seconds, count = min(tries)
        return seconds, count


def _executable(code: bytes) -> mmap.mmap | None:
    """Return memory that holds `code`, where this host lets us run it."""
    if platform.machine() != "x86_64":
        return None
    try:
        memory = mmap.mmap(
            -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
    except OSError:  # no memory is both written and executed here
        return None
    memory.write(code)
    return memory
