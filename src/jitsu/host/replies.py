"""The replies of one turn of the event loop, sent one right after another.

A write() that finds its reader asleep has to wake it: that takes the kernel three times as long as
the write itself, and on a virtual machine it is a call to the hypervisor. A program with many
connections, such as a toolstack that starts many VMs, has done with one reply in less time than we
need for the next: were each sent as soon as it is there, it would sleep before each, and be woken
for each. Sent together, all but the first find it awake.

So a reply waits until the requests that have come in the same turn are served. That costs the
first of them some of the time that it saves them all, and is bounded: by the number that wait, and
by a client that asks for much at once, whose replies are sent with all that wait. A client that is
alone is answered at once.
"""

import asyncio
from typing import Protocol

TOGETHER = 64
"""Replies that wait at most: a millisecond's work."""


class Addressee(Protocol):
    """Who is replied to."""

    def flush(self) -> None:
        """Send what waits for it."""


class Replies:
    """Who is to be sent something."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._to: list[Addressee] = []
        self._last: Addressee | None = None

    def send(self, to: Addressee, messages: int) -> None:
        """Send what there is for `to`, so many messages, now or soon."""
        if to is self._last and not self._to:
            to.flush()  # it is alone
            return
        self._last = to
        if not self._to:
            self._loop.call_soon(self.flush)
        self._to.append(to)
        if len(self._to) >= TOGETHER or messages > 1:
            self.flush()

    def flush(self) -> None:
        """Send all that waits."""
        waiting, self._to = self._to, []
        for to in waiting:
            to.flush()
