"""The store link: a XenStore connection for guests that are not on Xen.

A guest of Xen reaches the store by a page that it shares with it. Under any other hypervisor what
a guest and its host surely share is the guest's tap, so there the messages of io/xs_wire.h go as
a stream of bytes over Ethernet frames of a type of their own. A frame carries a segment
(`jitsu.wire.storelink`):

    destination     source          type     segment
    +---------------+---------------+--------+---------------------------+----------------+
    | from a guest: | the guest's   | 0x88B5 | flags, session, sequence, | bytes of the   |
    | 01-80-C2-     | own           |        | acknowledged              | stream, or     |
    | 00-00-0E      |               |        |                           | none           |
    +---------------+---------------+--------+---------------------------+----------------+

The guest sends to the group of the nearest bridge, which no bridge forwards: the frame is seen on
the guest's tap, which is its identity, and nowhere else. The host sends to the guest's MAC.

Theory of operation.

*Each direction is stop-and-wait.* One segment at most is under way; it is sent again after 10 ms,
then 20, and so on up to 640, until it is acknowledged. A tap hardly ever loses a frame, so the
slowness of that costs nothing, and the guest's half is small. A segment that has come before is
acknowledged again and not delivered; whatever else is out of turn is dropped.

*An acknowledgement waits for company.* What a guest sends is mostly a request, and the answer is
there as soon as `Received` has been performed; then `send` lets the acknowledgement travel with
it. If nothing was sent, `deadline` says that `tick` is due at once, which sends it alone.

*A session is one life of the guest's end.* The guest draws a random number for it and marks its
frames OPEN until it hears from the host. The host, meeting a session that it does not know, takes
its first segment (OPEN, sequence 0) for a new connection, which replaces the one before: a guest
has one store. To anything else of an unknown session it answers RESET, and the guest begins anew.

*A frame that was late does no harm.* The last sessions that are over are remembered, so that the
delayed copy of an earlier session's first segment gets a RESET, which concerns nobody any more,
and does not end the session of today. (If the host sees a first segment only when the guest is a
session further, it cannot know; then the guest is told RESET, and begins once more.) No RESET is
ever answered.

The guest tries for ever. The host gives up after ten tries (3 seconds): then the guest has
crashed, or waits for nothing, and if it ever speaks again it gets a RESET.

Left out: a sign of life. A guest that waits for watch events alone does not notice a host that
has forgotten it, but a host that forgets its guests ends them too.
"""

from collections import deque
from dataclasses import dataclass

from jitsu.errors import WireError
from jitsu.wire.storelink import DATA_BYTES_MAX, Segment, decode, encode, is_before, successor

RETRY_FIRST = 0.010
"""Seconds: many times what an answer takes, unless the host is busy with other guests."""
RETRY_MAX = 0.640
"""A guest that is being debugged need not be flooded."""
TRIES_MAX = 10
"""So a guest has 3.19 s to answer; one with a processor at all takes microseconds."""
QUEUE_BYTES_MAX = 1 << 20
"""Replies that a guest does not take; it has at most a few requests out, of 4 KiB each."""
SESSIONS_REMEMBERED = 8
"""More than a guest can begin within the time for which a frame may be late."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The guest has begun a session: the stream starts anew in both directions."""


@dataclass(frozen=True, slots=True)
class Received:
    """The next bytes of the stream. Sending what answers them at once saves a frame."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send the guest a frame with this behind its header."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; one for each `Opened`. Bytes not yet delivered are lost."""

    reason: str


Effect = Opened | Received | Send | Closed


class StoreLink:
    """The host's end of one guest's link."""

    # Of the session, if there is one:
    _received: int  # segments of the guest, in order
    _owed_since: float | None  # an acknowledgement
    _queue: bytearray
    _sequence: int  # of what is in flight, or of what comes next
    _in_flight: bytes
    _tries: int
    _retry_at: float | None

    def __init__(self) -> None:
        self.rubbish = 0
        """Frames dropped since they made no sense, or came out of turn."""
        self.retransmits = 0
        self._session = 0  # none
        self._past: deque[int] = deque(maxlen=SESSIONS_REMEMBERED)
        self._forget()

    def __repr__(self) -> str:
        """Return the session as an operator would tell it."""
        if not self._session:
            return "<StoreLink closed>"
        return (
            f"<StoreLink session {self._session:08x}, {self._received} segments in, "
            f"{self._sequence} out, {len(self._queue)} bytes wait>"
        )

    @property
    def is_open(self) -> bool:
        """Tell whether there is a session."""
        return self._session != 0

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        # What is owed was owed before anything in flight must be sent again.
        return self._retry_at if self._owed_since is None else self._owed_since

    def handle(self, payload: bytes, now: float) -> list[Effect]:
        """Return what a frame of the guest makes necessary; `payload` follows its header."""
        try:
            segment = decode(payload)
        except WireError:
            self.rubbish += 1
            return []
        if segment.session == self._session:
            return self._current(segment, now)
        if segment.reset:
            return []  # of a session that is over here too
        if segment.open and segment.sequence == 0 and segment.session not in self._past:
            closed = self._finish("the guest has begun a new session")
            self._session = segment.session
            return [*closed, Opened(), *self._current(segment, now)]
        return [_reset(segment.session)]

    def send(self, data: bytes, now: float) -> list[Effect]:
        """Queue bytes for the guest, who must take them in time; without a session do nothing."""
        if not self._session:
            return []
        self._queue += data
        if len(self._queue) > QUEUE_BYTES_MAX:
            return self._abort(f"the guest leaves {len(self._queue)} bytes unread")
        return self._flush(now)

    def tick(self, now: float) -> list[Effect]:
        """Return what the passing of time makes necessary."""
        if self._retry_at is not None and now >= self._retry_at:
            if self._tries == TRIES_MAX:
                return self._abort(f"no answer to {TRIES_MAX} tries")
            self.retransmits += 1
            return self._transmit(now)
        if self._owed_since is not None and now >= self._owed_since:
            # What is in flight has its number already.
            sequence = successor(self._sequence) if self._in_flight else self._sequence
            return [self._segment(sequence)]
        return []

    def close(self, now: float, reason: str = "closed by the host") -> list[Effect]:
        """End the session, if there is one, and let the guest know; it may begin another."""
        del now  # every verb takes the time, this one has no use for it
        return self._abort(reason) if self._session else []

    # One session.

    def _current(self, segment: Segment, now: float) -> list[Effect]:
        if segment.reset:
            return self._finish("the guest has ended the session")
        effects: list[Effect] = []
        if segment.data:
            if segment.sequence == self._received:
                self._received = successor(self._received)
                self._owed_since = now
                effects.append(Received(segment.data))
            elif is_before(segment.sequence, self._received):
                self._owed_since = now  # our acknowledgement was lost
            else:
                self.rubbish += 1
        elif segment.open:
            self._owed_since = now  # it asks for nothing but an answer
        if self._in_flight and segment.acknowledged == successor(self._sequence):
            self._sequence = segment.acknowledged
            self._in_flight = b""
            self._retry_at = None
        return [*effects, *self._flush(now)]

    def _flush(self, now: float) -> list[Effect]:
        """Send what comes next, if anything does and nothing is under way."""
        if self._in_flight or not self._queue:
            return []
        self._in_flight = bytes(self._queue[:DATA_BYTES_MAX])
        del self._queue[:DATA_BYTES_MAX]
        self._tries = 0
        return self._transmit(now)

    def _transmit(self, now: float) -> list[Effect]:
        self._retry_at = now + min(RETRY_FIRST * 2**self._tries, RETRY_MAX)
        self._tries += 1
        return [self._segment(self._sequence, self._in_flight)]

    def _segment(self, sequence: int, data: bytes = b"") -> Send:
        self._owed_since = None
        return Send(encode(Segment(self._session, sequence, self._received, data)))

    # Its end.

    def _abort(self, reason: str) -> list[Effect]:
        reset = _reset(self._session)
        return [*self._finish(reason), reset]

    def _finish(self, reason: str) -> list[Effect]:
        if not self._session:
            return []
        self._past.append(self._session)
        self._session = 0
        self._forget()
        return [Closed(reason)]

    def _forget(self) -> None:
        self._received = 0
        self._owed_since = None
        self._queue = bytearray()
        self._sequence = 0
        self._in_flight = b""
        self._tries = 0
        self._retry_at = None


def _reset(session: int) -> Send:
    return Send(encode(Segment(session, reset=True)))
