"""A domain's requests and replies over its ring, such that a killed daemon's heir goes on.

The ring outlives the daemon, for the guest has it. What is in the daemon alone, it writes to the
journal before it moves a count in the ring; so the two counts tell the heir how far things have
come. This is a *cursor*:

    consumed    the count of requests that belongs to it
    taken       bytes of the last request, up to there, which is not yet whole
    produced    the count of replies that belongs to it
    unsent      bytes that follow it in the stream of replies

The heir compares. If less is consumed than the cursor says, that request was served, and is
consumed now. If more is produced, so much of `unsent` has gone. If a count is beyond all that, the
cursor is of the past: nothing was in the daemon alone since then.

A cursor is written

- with each commit, in the same write: the reply to it is known to be OK. So a request that changes
  something is done exactly once;
- when a request is not whole: it must be consumed all the same, for a guest that has found the
  server behind (Linux's xb_write) does not notify it of the rest;
- when replies do not fit the ring, so that one is cut in two.

Else, as nearly always, nothing is. A request that changes nothing may then be served twice, if the
daemon is killed between the stores of its two counts, and its reply comes twice; Linux drops it.

Events are not kept, but for one that is cut in two: the heir fires all watches (`server`).
"""

from collections import deque
from collections.abc import Callable, Iterable

from jitsu.core.xenstore.journal import Cursor
from jitsu.core.xenstore.ring import RING, Ring
from jitsu.errors import ProtocolError
from jitsu.wire.xenstore import HEADER, HEADER_BYTES, PAYLOAD_MAX, Op

REQUESTS = 8
"""Requests that one ring may have served before another has its turn."""
_EVENT = int(Op.WATCH_EVENT).to_bytes(4, "little")
_MASK = (1 << 32) - 1

Serve = Callable[[bytes, Cursor], bool]
Note = Callable[[Cursor], bool]


class Stream:
    """One domain's bytes."""

    def __init__(self, domid: int, ring: Ring, before: Cursor | None = None) -> None:
        """Go on after `before`, the last cursor of a daemon that was killed."""
        self.domid = domid
        self.ring = ring
        self.queued = 0
        """Bytes that wait for room in the ring."""
        self._queue: deque[bytes] = deque()
        self._taken = b""
        if before is not None:
            self._inherit(before)

    def __repr__(self) -> str:
        """Say what is under way."""
        return f"<Stream of domain {self.domid}, {len(self._taken)} taken, {self.queued} queued>"

    def _inherit(self, before: Cursor) -> None:
        behind = (before.consumed - self.ring.consumed) & _MASK
        if behind <= RING:
            self.ring.consume(behind)
            self._taken = before.taken
        sent = (self.ring.produced - before.produced) & _MASK
        if sent < len(before.unsent):
            self._queue.append(before.unsent[sent:])
            self.queued = len(self._queue[0])

    def put(self, messages: Iterable[bytes]) -> None:
        """Queue replies and events."""
        for message in messages:
            self._queue.append(message)
            self.queued += len(message)

    def round(self, serve: Serve, note: Note, *, serving: bool = True) -> bool:
        """Do what can be done now; tell whether the ring has changed, so that its guest is told.

        `serve` serves a request and `put`s what answers it; `note` writes a cursor down. Both tell
        whether the client still has somebody to serve it. Raises WireError when the guest breaks
        the rules.
        """
        before = self.ring.produced
        if not self._send(note, b""):
            return False
        moved = self.ring.produced != before
        for _ in range(REQUESTS if serving else 0):
            if self._queue:
                break
            request = self._next()
            if not request:
                return self._take_part(note) or moved
            if not serve(request, self._promised(request)) or not self._send(note, request):
                return False
            self.ring.consume(len(request) - len(self._taken))
            self._taken = b""
            moved = True
        return moved

    def _next(self) -> bytes:
        """Return the next request if it is whole, else nothing."""
        data = self._taken + self.ring.waiting()
        if len(data) < HEADER_BYTES:
            return b""
        length = HEADER.unpack_from(data)[3]
        if length > PAYLOAD_MAX:
            raise ProtocolError(f"XenStore message of {length} bytes")
        end = HEADER_BYTES + length
        return data[:end] if len(data) >= end else b""

    def _after(self, request: bytes) -> int:
        """Return the count of requests after this one, or after what is taken already."""
        count = len(request) - len(self._taken) if request else 0
        return (self.ring.consumed + count) & _MASK

    def _promised(self, request: bytes) -> Cursor:
        """Return the cursor to be written with the commit of a request."""
        op, number, transaction, _ = HEADER.unpack_from(request)
        reply = HEADER.pack(op, number, transaction, 3) + b"OK\0"
        return Cursor(self.domid, self._after(request), self.ring.produced, b"", reply)

    def _send(self, note: Note, request: bytes) -> bool:
        """Send what there is room for, before `request` is consumed; tell whether to go on."""
        # Read once: the guest makes more room at any time, but the cursor tells of this much.
        room = self.ring.room if self._queue else 0
        if self.queued <= room:
            piece = b"".join(self._queue)
            self._queue.clear()
        elif room or request:
            if not note(self._cut(room, request)):
                return False
            piece = self._pop(room)
        else:
            return True
        self.queued -= len(piece)
        self.ring.produce(piece)
        return True

    def _cut(self, room: int, request: bytes) -> Cursor:
        """Return the cursor to be written before so much is sent of more."""
        kept: list[bytes] = []
        size = 0
        for message in self._queue:
            if not kept or size < room or message[:4] != _EVENT:
                kept.append(message)
            size += len(message)
        taken = b"" if request else self._taken
        unsent = b"".join(kept)
        return Cursor(self.domid, self._after(request), self.ring.produced, taken, unsent)

    def _take_part(self, note: Note) -> bool:
        """Consume part of a request."""
        waiting = self.ring.waiting()
        if not waiting:
            return False
        taken, after = self._taken + waiting, (self.ring.consumed + len(waiting)) & _MASK
        if not note(Cursor(self.domid, after, self.ring.produced, taken, b"")):
            return False
        self._taken = taken
        self.ring.consume(len(waiting))
        return True

    def _pop(self, count: int) -> bytes:
        piece = b""
        while len(piece) < count:
            message = self._queue.popleft()
            wanted = count - len(piece)
            piece += message[:wanted]
            if len(message) > wanted:
                self._queue.appendleft(message[wanted:])
        return piece

    def blank(self) -> Cursor:
        """Return the cursor to be written before `reset`."""
        return Cursor(self.domid, 0, 0, b"", b"")

    def reset(self) -> None:
        """Begin anew, with nothing under way."""
        self._queue.clear()
        self.queued = 0
        self._taken = b""
        self.ring.reset()
