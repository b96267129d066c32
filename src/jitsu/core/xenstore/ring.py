"""The page by which a domain reaches the store (Xen's io/xs_wire.h, docs/misc/xenstore-ring.txt).

    0       requests, 1024 bytes, byte x of the stream at x modulo 1024
    1024    replies and events, the same
    2048    counts of bytes, modulo 2^32: requests consumed, requests produced,
            replies consumed, replies produced
    2064    what the server can do, state of the connection, error

The guest owns the page and may write to it whatever it likes, whenever it likes. So each field is
read once, what is read is copied before it is looked at, and our own two counts are kept here: the
page only shows them. Counts that cannot be are a WireError.

Plain loads and stores do on x86, where stores are seen in their order. What x86 does not keep is a
load after a store; so who has moved a count looks at the guest's again after notifying it, which
passes through the hypervisor: a guest may leave out its own notification if it finds that it has
been seen to.
"""

from jitsu.errors import WireError

PAGE = 4096
RING = 1024
_MASK = (1 << 32) - 1

RECONNECTION, ERROR = 1, 2
"""Bits of what the server can do."""
NO_ERROR, COMMUNICATION, INDICES, PROTOCOL = range(4)
"""Errors that a guest is told of."""

_CONSUMED, _PRODUCED, _REPLIES_CONSUMED, _REPLIES_PRODUCED, _FEATURES, _STATE, _ERROR = range(7)
_CONNECTED, _RECONNECT = 0, 1


class Ring:
    """The server's end of a page."""

    def __init__(self, page: memoryview) -> None:
        """Go on where the page says that the server is."""
        self._requests = page[:RING]
        self._replies = page[RING : 2 * RING]
        self._words = page[2 * RING : 2 * RING + 28].cast("I")
        self.consumed = self._words[_CONSUMED]
        """Bytes of requests that we have taken."""
        self.produced = self._words[_REPLIES_PRODUCED]
        """Bytes of replies and events that we have put in."""
        self._words[_FEATURES] = RECONNECTION | ERROR
        self._words[_ERROR] = NO_ERROR

    def __repr__(self) -> str:
        """Say how far it is."""
        return f"<Ring {self.consumed} bytes in, {self.produced} out>"

    def release(self) -> None:
        """Let go of the page."""
        self._requests.release()
        self._replies.release()
        self._words.release()

    def waiting(self) -> bytes:
        """Return what the guest has sent and we have not consumed. Raises WireError."""
        count = (self._words[_PRODUCED] - self.consumed) & _MASK
        if count > RING:
            raise WireError(f"{count} bytes of requests in a ring of {RING}")
        at = self.consumed % RING
        data = bytes(self._requests[at : at + count])
        return data + bytes(self._requests[: count - len(data)]) if len(data) < count else data

    def consume(self, count: int) -> None:
        """Let the guest have the room of `count` bytes of requests."""
        self.consumed = (self.consumed + count) & _MASK
        self._words[_CONSUMED] = self.consumed

    @property
    def room(self) -> int:
        """Bytes that `produce` has room for. Raises WireError."""
        used = (self.produced - self._words[_REPLIES_CONSUMED]) & _MASK
        if used > RING:
            raise WireError(f"{used} bytes of replies in a ring of {RING}")
        return RING - used

    def produce(self, data: bytes) -> None:
        """Send the guest what there is room for, or nothing."""
        at = self.produced % RING
        first = min(len(data), RING - at)
        self._replies[at : at + first] = data[:first]
        if first < len(data):
            self._replies[: len(data) - first] = data[first:]
        self.produced = (self.produced + len(data)) & _MASK
        self._words[_REPLIES_PRODUCED] = self.produced

    @property
    def wants_reset(self) -> bool:
        """Tell whether the guest asks for a new beginning."""
        return self._words[_STATE] == _RECONNECT

    def reset(self) -> None:
        """Begin anew, with nothing under way."""
        self.consumed = self.produced = 0
        for word in (_CONSUMED, _PRODUCED, _REPLIES_CONSUMED, _REPLIES_PRODUCED):
            self._words[word] = 0
        self._words[_ERROR] = NO_ERROR
        self._words[_STATE] = _CONNECTED

    def fail(self, error: int) -> None:
        """Tell the guest that it is served no more."""
        self._words[_ERROR] = error
