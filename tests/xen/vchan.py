"""One end of a vchan (Xen's io/libxenvchan.h), as far as the primitives below it need one."""

import select
import struct

from jitsu.host.xen.evtchn import EventChannels
from jitsu.host.xen.gntalloc import GrantAllocator
from jitsu.host.xen.gntdev import GrantMapper
from jitsu.host.xen.pages import SharedPages

PATIENCE = 60.0
LEFT, RIGHT, ORDERS, CLIENT_LIVE, SERVER_LIVE, SERVER_NOTIFY, CLIENT_NOTIFY = (
    0,
    8,
    16,
    20,
    21,
    23,
    22,
)
GRANTS = 24
SIZE = 4096
ORDER = 12
WORD = struct.Struct("=I")


class End:
    """Writes to one ring of a page each and reads from the other."""

    def __init__(
        self,
        channels: EventChannels,
        port: int,
        shared: SharedPages,
        out: tuple[int, memoryview],
        into: tuple[int, memoryview],
    ) -> None:
        self.channels = channels
        self.port = port
        self.shared = shared
        self.out_at, self.out = out
        self.in_at, self.into = into

    def word(self, at: int) -> int:
        return int(WORD.unpack_from(self.shared.memory, at)[0])

    def wait(self) -> None:
        self.channels.notify(self.port)
        readable, _, _ = select.select([self.channels], [], [], PATIENCE)
        assert readable, "the peer is silent"
        assert self.channels.fired() == [self.port]

    def write(self, data: bytes) -> None:
        while data:
            self.ask_for_events()
            consumed, produced = self.word(self.out_at), self.word(self.out_at + 4)
            room = SIZE - (produced - consumed) % (1 << 32)
            at = produced % SIZE
            piece = data[: min(room, SIZE - at)]
            if not piece:
                self.wait()
                continue
            self.out[at : at + len(piece)] = piece
            WORD.pack_into(self.shared.memory, self.out_at + 4, (produced + len(piece)) % (1 << 32))
            self.channels.notify(self.port)
            data = data[len(piece) :]

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            self.ask_for_events()
            consumed, produced = self.word(self.in_at), self.word(self.in_at + 4)
            at = consumed % SIZE
            there = min((produced - consumed) % (1 << 32), SIZE - at, count - len(data))
            if not there:
                self.wait()
                continue
            data += bytes(self.into[at : at + there])
            WORD.pack_into(self.shared.memory, self.in_at, (consumed + there) % (1 << 32))
            self.channels.notify(self.port)
        return data

    def ask_for_events(self) -> None:
        """Want to hear of all that the peer writes and reads."""
        self.shared.memory[SERVER_NOTIFY] = self.shared.memory[CLIENT_NOTIFY] = 3


def client(channels: EventChannels, mapper: GrantMapper, ref: int, offered: int) -> End:
    """Be the client of a server in dom0."""
    shared = mapper.map(0, [ref])
    port = channels.bind_interdomain(0, offered)
    assert struct.unpack_from("=HH", shared.memory, ORDERS) == (ORDER, ORDER)
    left, right = struct.unpack_from("=II", shared.memory, GRANTS)
    rings = [memoryview(mapper.map(0, [one]).memory) for one in (left, right)]
    shared.notify_on_unmap(clear=CLIENT_LIVE, port=port)
    shared.memory[CLIENT_LIVE] = 1
    return End(channels, port, shared, (LEFT, rings[0]), (RIGHT, rings[1]))


def server(channels: EventChannels, allocator: GrantAllocator) -> tuple[End, int]:
    """Be the server of a client in dom0; return the end, and the reference of its first page."""
    shared = allocator.share(0, 1)
    rings = [allocator.share(0, 1) for _ in range(2)]
    port = channels.bind_unbound(0)
    struct.pack_into("=HHBBBB", shared.memory, ORDERS, ORDER, ORDER, 2, 1, 3, 3)
    struct.pack_into("=II", shared.memory, GRANTS, rings[0].refs[0], rings[1].refs[0])
    shared.notify_on_unmap(clear=SERVER_LIVE, port=port)
    left, right = (memoryview(ring.memory) for ring in rings)
    return End(channels, port, shared, (RIGHT, right), (LEFT, left)), shared.refs[0]
