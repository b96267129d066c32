"""A guest's end of its ring, which is polite unless it is told otherwise."""

import struct

from jitsu.core.xenstore.ring import PAGE, RING
from jitsu.wire.xenstore import Message, Messages

MASK = (1 << 32) - 1
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, STATE, ERROR = range(2048, 2076, 4)


class RingGuest:
    """Writes requests and reads replies, as many bytes at a time as it likes."""

    def __init__(self, start: int = 0) -> None:
        self.page = bytearray(PAGE)
        for at in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
            self.set(at, start)
        self.messages = Messages()
        self.outgoing = b""

    def get(self, at: int) -> int:
        return int(struct.unpack_from("=I", self.page, at)[0])

    def set(self, at: int, value: int) -> None:
        struct.pack_into("=I", self.page, at, value & MASK)

    def write(self, limit: int = RING) -> int:
        """Put at most `limit` of the outgoing bytes into the ring; return how many."""
        produced = self.get(REQ_PROD)
        room = RING - ((produced - self.get(REQ_CONS)) & MASK)
        piece = self.outgoing[: min(limit, room)]
        for i, byte in enumerate(piece):
            self.page[(produced + i) % RING] = byte
        self.set(REQ_PROD, produced + len(piece))
        self.outgoing = self.outgoing[len(piece) :]
        return len(piece)

    def read(self, limit: int = RING) -> list[Message]:
        """Take at most `limit` bytes; return the messages that are whole by now."""
        consumed = self.get(RSP_CONS)
        there = (self.get(RSP_PROD) - consumed) & MASK
        assert there <= RING
        count = min(limit, there)
        data = bytes(self.page[RING + (consumed + i) % RING] for i in range(count))
        self.set(RSP_CONS, consumed + count)
        return self.messages.feed(data)
