"""The guest's end of the store link (`core.xenstore.link`).

Guests have one of their own, in C. This one goes on for a launcher that has become its program
(`host.heir`), and is the peer that tests give the host's end.

As simple as can be: stop-and-wait, every segment acknowledged at once, tried for ever. A host that
does not know the session says RESET, and the guest begins another: what it had asked is lost, and
so are its watches, which `resets` tells.
"""

from collections.abc import Callable
from typing import Self

from jitsu.core.xenstore.link import RETRY_FIRST, RETRY_MAX
from jitsu.errors import WireError
from jitsu.wire.storelink import DATA_BYTES_MAX, Segment, decode, encode, successor


class GuestEnd:
    """See the module's docstring. What its methods return is sent, each in a frame of its own."""

    # Of the session:
    _number: int
    _open: bool  # nothing of the host has been heard in it
    _sequence: int
    _expected: int
    _in_flight: bytes
    _interval: float
    retry_at: float
    """When `tick` next has something to do; infinity: never."""

    def __init__(
        self, draw: Callable[[], int], piece: Callable[[], int] = lambda: DATA_BYTES_MAX
    ) -> None:
        """`draw` returns a random 32-bit number, not 0; `piece` how much fits the next frame."""
        self.resets = 0
        """Sessions that the host has ended."""
        self.received = bytearray()
        """What the host has sent; whoever reads takes it away."""
        self._draw = draw
        self._piece = piece
        self._waiting = bytearray()
        self.begin()

    @classmethod
    def resumed(cls, number: int, sequence: int, expected: int, in_flight: bytes) -> Self:
        """Go on with a session of somebody else's, who has heard of the host in it.

        `sequence` is that of what is in flight, or comes next; `expected` that of the host's next.
        """
        end = cls(draw=lambda: number)
        end._open = False
        end._sequence, end._expected, end._in_flight = sequence, expected, in_flight
        end.retry_at = 0.0 if in_flight else float("inf")
        return end

    def begin(self) -> None:
        """Begin a session; nothing is left of the one before."""
        self._number = self._draw()
        self._open = True
        self._sequence = self._expected = 0
        self._in_flight = b""
        self._waiting.clear()
        self.received.clear()
        self._interval = RETRY_FIRST
        self.retry_at = float("inf")

    def send(self, data: bytes, now: float) -> list[bytes]:
        """Send bytes of the stream when it is their turn."""
        self._waiting += data
        return self._flush(now)

    def tick(self, now: float) -> list[bytes]:
        """Send again what is not acknowledged in time."""
        return self._transmit(now) if now >= self.retry_at else []

    def handle(self, payload: bytes, now: float) -> list[bytes]:
        """Take what follows the header of a frame of the host's."""
        try:
            segment = decode(payload)
        except WireError:
            return []
        if segment.session != self._number:
            return []
        if segment.reset:
            self.resets += 1
            self.begin()
            return []
        self._open = False
        if self._in_flight and segment.acknowledged == successor(self._sequence):
            self._sequence = successor(self._sequence)
            self._in_flight = b""
            self.retry_at = float("inf")
            self._interval = RETRY_FIRST
        if segment.data and segment.sequence == self._expected:
            self._expected = successor(self._expected)
            self.received += segment.data
        sent = self._flush(now)
        return sent or ([self._segment(b"")] if segment.data else [])

    def _flush(self, now: float) -> list[bytes]:
        if self._in_flight or not self._waiting:
            return []
        size = self._piece()
        self._in_flight = bytes(self._waiting[:size])
        del self._waiting[:size]
        return self._transmit(now)

    def _transmit(self, now: float) -> list[bytes]:
        self.retry_at = now + self._interval
        self._interval = min(2 * self._interval, RETRY_MAX)
        return [self._segment(self._in_flight)]

    def _segment(self, data: bytes) -> bytes:
        ahead = bool(self._in_flight and not data)
        sequence = successor(self._sequence) if ahead else self._sequence
        return encode(Segment(self._number, sequence, self._expected, data, self._open))
